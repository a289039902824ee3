"""Fake-quantized inference: linears that quantize their input, attention that quantizes the keys and values it reads.

Used by the quantize stage (to hand each block quantized inputs) and by the transformers quantizer (to run checkpoints): one
place, so that both compute the same numbers. Placement (Quantized-Reasoning-Models): inputs of all block linears per token (per
input shard for o_proj and down_proj) or on a static grid, keys and values per token and head, also during prefill
(`modeling.cache` says where).
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ptqflow.modeling import cache, causal, online, switched
from ptqflow.modeling.anatomy import ATTENTION, of_block
from ptqflow.modeling.attention_name import ATTENTION_NAME
from ptqflow.modeling.once import Once
from ptqflow.modeling.scopes import scope
from ptqflow.modeling.shapes import shards_of
from ptqflow.numerics.grid import fake_quantize, fake_quantize_static
from ptqflow.numerics.straight_through import fake_quantize_clipped
from ptqflow.recipes import Recipe
from ptqflow.scheme import ActivationArgs

CacheFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
AttentionWatch = Callable[[Tensor, Tensor, Tensor | None, float, float | None], None]  # query, key, mask, scaling, soft cap


class FakeQuantLinear(nn.Linear):
    """A linear whose input is quantized and dequantized per token. Weight and bias are used as stored.

    input [..., in] and output [..., out] in the model's dtype; the quantizer computes in float32.
    """

    def __init__(self, linear: nn.Linear, args: ActivationArgs, input_shards: int, once: Once[Tensor] | None = None) -> None:
        """Take over `linear`'s parameters (the same tensors, on any device, meta included).

        `once`: shared by the linears that quantize alike, so that those that read one tensor quantize it once.
        """
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.weight, self.bias = linear.weight, linear.bias
        self.args, self.input_shards, self._once = args, input_shards, once or Once[Tensor]()
        self.input_clip: nn.Parameter | None = None  # learned ratios [shards, 2] of the range, where a recipe has them
        if not args.dynamic:
            one = torch.ones(1, device=self.weight.device, dtype=self.weight.dtype)
            self.input_scale = nn.Parameter(one, requires_grad=False)

    def quantized(self, input: Tensor) -> Tensor:
        """The input as it is multiplied."""
        bits, symmetric, shards = self.args.num_bits, self.args.symmetric, self.input_shards
        if not self.args.dynamic:
            return fake_quantize_static(input, self.input_scale, bits)
        if self.input_clip is None and not input.requires_grad:
            return fake_quantize(input, bits, symmetric, shards)  # the same numbers, faster, no gradient
        return fake_quantize_clipped(input, bits, symmetric, self.input_clip, shards)

    def forward(self, input: Tensor) -> Tensor:
        """Quantize, then multiply."""
        with scope("quantize"):
            own = self.input_clip if self.args.dynamic else self.input_scale
            quantized = self._once(input, self.quantized, own, torch.is_grad_enabled())
        return nn.functional.linear(quantized, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Shape and grid, for `print(model)`."""
        grid = f"{self.args.num_bits} bits, {'symmetric' if self.args.symmetric else 'asymmetric'}"
        return f"{super().extra_repr()}, input: {grid}, {self.input_shards} shards"


def cache_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """An attention function of transformers: apply the module's `cache_transform`, if it has one, then sdpa (or an equal).

    The module's `attention_watch`, if it has one, sees queries and keys first. Without a mask, whole sequences are causal, within
    the module's window where it has one.

    The cache keeps float keys and values (but keys that are quantized before RoPE); every read quantizes them, token by token or
    on fixed grids, to the same numbers. So decoding with a cache equals a full forward pass.
    """
    transform: CacheFunction | None = getattr(module, "cache_transform", None)
    if transform is not None:
        with scope("cache"):
            key, value = switched.read(module, transform, query, key, value)
            if isinstance(transform, online.FlatCache):
                query = query @ transform.q_trans
    window, cap, tokens = kwargs.get("sliding_window"), kwargs.get("softcap"), key.shape[2]
    if attention_mask is None and window is not None and query.shape[2] == tokens > window:
        attention_mask = causal.window_mask(tokens, window, query.device)
    watch: AttentionWatch | None = vars(module).get("attention_watch")  # of a module, a look-up that fails is slow
    if watch is not None:
        watch(query, key, attention_mask, kwargs["scaling"], cap)
    if cap is not None:
        return causal.capped_attention(query, key, value, attention_mask, kwargs["scaling"], cap), None
    if attention_mask is None and not kwargs.get("dropout") and causal.applies(query, key):
        return causal.causal_attention(query, key, value, kwargs["scaling"]), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def register_attention() -> None:
    """Make `cache_attention`, with sdpa's masks, known to transformers under ATTENTION_NAME (again is harmless)."""
    AttentionInterface.register(ATTENTION_NAME, cache_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def quantize_block(block: nn.Module, recipe: Recipe, layer: int) -> None:
    """Make a decoder block quantize its linears' inputs and its cache as `recipe` says for `layer`. Weights are not touched.

    Online transforms are declared, as identities: `modeling.online.load`, or loading a checkpoint, fills them.
    """
    found = of_block(block)
    once = defaultdict[tuple[ActivationArgs, int], Once[Tensor]](Once)
    for linear in found.linears:
        args = recipe.input_activations(layer, found.role(linear))
        if args is not None:
            name = found.module_name(linear)
            plain = block.get_submodule(name)
            assert isinstance(plain, nn.Linear), f"{name} is a {type(plain).__name__}"
            shards = shards_of(recipe, linear)
            block.set_submodule(name, FakeQuantLinear(plain, args, shards, once[args, shards]))
    if recipe.transform.online_sites:
        online.declare(block, recipe, recipe.transform.online_sites, layer)
    elif recipe.scheme.kv_cache is not None:
        cache.quantize_cache(block, recipe.scheme.kv_cache)
    if recipe.emulate is not None:
        switched.switch(block, recipe.emulate)


def set_cache_transform(block: nn.Module, transform: CacheFunction | None) -> None:
    """What this block's attention does to keys and values before it reads them (needs ATTENTION_NAME as implementation)."""
    attention: Any = block.get_submodule(ATTENTION)
    attention.cache_transform = transform
