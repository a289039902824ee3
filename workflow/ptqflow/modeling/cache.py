"""Where a block's keys and values are quantized for its cache, on which grid, and the ranges that static grids need.

Keys are caught after RoPE, where attention reads them, or before it: at the output of k_proj, or of k_norm where a model has one
(Qwen3). Before RoPE a channel means the same at every position. The bias of k_proj (huge in Qwen2.5 models of 1.5B and 7B) is
then a constant that `key_bias: separate` leaves out of the range, k = Q(k - b) + b; RoPE would turn it with the position, and the
range of each token would be the bias's. Values have no position.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ptqflow.modeling.anatomy import ATTENTION, of_block
from ptqflow.numerics.convention import Grid
from ptqflow.numerics.grid import fake_quantize, on_grid, scale_and_zero_point
from ptqflow.scheme import CacheArgs

CACHE = f"{ATTENTION}.cache_transform"


class CacheTransform(nn.Module):
    """What happens to keys and values [batch, kv_heads, tokens, head_dim] on their way into the cache.

    `forward` is for those that attention reads, after RoPE; `before_rope` for the output of k_proj or k_norm.
    """

    def __init__(self, args: CacheArgs) -> None:
        super().__init__()
        self.args = args

    def keys(self, key: Tensor) -> Tensor:
        """Keys, at the place that the recipe says."""
        raise NotImplementedError

    def values(self, value: Tensor) -> Tensor:
        """Values."""
        raise NotImplementedError

    def unquantized(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are."""
        return key, value

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both as attention is to read them."""
        return key if self.args.keys == "pre_rope" else self.keys(key), self.values(value)

    def before_rope(self, output: Tensor, heads: int, bias: Tensor | None) -> Tensor:
        """Keys as k_proj [..., kv_heads * head_dim] or k_norm [..., kv_heads, head_dim] gives them; arithmetic is float32."""
        key = output.float() if bias is None else output.float() - bias.float()
        key = key.reshape(*key.shape[:2], heads, -1).transpose(1, 2)
        key = self.keys(key).transpose(1, 2).reshape(output.shape)
        return (key if bias is None else key + bias.float()).to(output.dtype)


class CacheQuantizer(CacheTransform):
    """Quantize and dequantize, with a range per token and head, or one per channel that calibration found (`static_qparams`).

    Parameters `k_scale`, `k_zero_point`, `v_scale`, `v_zero_point` [kv_heads, head_dim] of what is static.
    """

    def __init__(self, args: CacheArgs, heads: int, head_dim: int, like: Tensor) -> None:
        super().__init__(args)
        for name in args.static:
            for part in ("scale", "zero_point"):
                empty = torch.ones(heads, head_dim, device=like.device, dtype=like.dtype)
                self.register_parameter(f"{name}_{part}", nn.Parameter(empty, requires_grad=False))

    def keys(self, key: Tensor) -> Tensor:
        """Keys [batch, kv_heads, tokens, head_dim], on their grid."""
        return self._quantize("k", key)

    def values(self, value: Tensor) -> Tensor:
        """Values, likewise."""
        return self._quantize("v", value)

    def _quantize(self, name: Literal["k", "v"], x: Tensor) -> Tensor:
        if name not in self.args.static:
            return fake_quantize(x, self.args.bits[name], self.args.symmetric)
        scale, zero_point = (getattr(self, f"{name}_{part}").float().unsqueeze(1) for part in ("scale", "zero_point"))
        return on_grid(x, scale, zero_point, _grid(self.args, name)).to(x.dtype)


class CacheRanges(CacheTransform):
    """Records the range [kv_heads, head_dim] of each channel of keys `k` and values `v`, and changes nothing."""

    def __init__(self, args: CacheArgs) -> None:
        super().__init__(args)
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}

    def keys(self, key: Tensor) -> Tensor:
        """Keys [batch, kv_heads, tokens, head_dim], seen."""
        return self._see("k", key)

    def values(self, value: Tensor) -> Tensor:
        """Values, likewise."""
        return self._see("v", value)

    def _see(self, name: str, x: Tensor) -> Tensor:
        low, high = x.float().amin((0, 2)), x.float().amax((0, 2))
        self.low[name] = torch.minimum(self.low.get(name, low), low)
        self.high[name] = torch.maximum(self.high.get(name, high), high)
        return x


def attach(block: nn.Module, transform: CacheTransform) -> None:
    """Let `transform` act on a block's keys and values (needs our attention function as the block's implementation)."""
    attention: Any = block.get_submodule(ATTENTION)
    attention.cache_transform = transform
    if transform.args.keys != "pre_rope":
        return
    heads = attention.config.num_key_value_heads

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        bias: Tensor | None = getattr(module, "bias", None) if transform.args.key_bias == "separate" else None
        return transform.before_rope(output, heads, bias)

    (attention.k_norm if of_block(block).key_norm else attention.k_proj).register_forward_hook(hook)


def quantize_cache(block: nn.Module, args: CacheArgs) -> None:
    """Make a decoder block quantize its cache. Static grids are declared as parameters, to be loaded."""
    attention: Any = block.get_submodule(ATTENTION)
    attach(block, CacheQuantizer(args, attention.config.num_key_value_heads, attention.head_dim, attention.o_proj.weight))


def static_qparams(ranges: CacheRanges, value_scale: Tensor | None = None) -> Mapping[str, Tensor]:
    """Scale and zero point (float32, [kv_heads, head_dim]) of what is static, by name inside the block.

    `value_scale` [kv_heads * head_dim]: what v_proj's rows were divided by after the ranges were recorded.
    """
    found = {}
    for name in ranges.args.static:
        low, high = ranges.low[name], ranges.high[name]
        if name == "v" and value_scale is not None:
            low, high = (end / value_scale.to(end).view_as(end) for end in (low, high))
        for part, tensor in zip(("scale", "zero_point"), scale_and_zero_point(low, high, _grid(ranges.args, name)), strict=True):
            found[f"{CACHE}.{name}_{part}"] = tensor.cpu()
    return found


def _grid(args: CacheArgs, name: Literal["k", "v"]) -> Grid:
    return Grid(args.bits[name], args.symmetric)
