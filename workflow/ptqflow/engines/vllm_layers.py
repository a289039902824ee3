"""Fake quantization in vLLM's layers: the placement and the numerics of `modeling.fake_quant`, on fused and split linears.

Linears quantize their input per token (and per input shard of o_proj and down_proj) and multiply with the weights as stored.
Attention receives keys after RoPE, and values; they are quantized before they enter the paged cache, so prefill, chunked prefill
and decoding all read the same numbers. Keys that a recipe quantizes before RoPE are, where the fused q, k and v come out. Online
parameters (`modeling.online`) belong to the layer that applies them; a norm's transform is applied by the linears that read it.

Tensor parallelism: o_proj and down_proj see one rank's share of their input, which must consist of whole input shards.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.linear import LinearMethodBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.kv_cache import BaseKVCacheMethod
from vllm.utils.torch_utils import is_quantized_kv_cache

from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.modeling.anatomy import Architecture
from ptqflow.modeling.cache import CacheQuantizer
from ptqflow.modeling.dimensions import head_dim
from ptqflow.modeling.online import FlatCache
from ptqflow.modeling.shapes import kronecker_sides, shards_of
from ptqflow.numerics.grid import fake_quantize, fake_quantize_static
from ptqflow.numerics.straight_through import fake_quantize_clipped
from ptqflow.recipes import Recipe
from ptqflow.transforms import kronecker


class FakeQuantLinearMethod(LinearMethodBase):
    """A linear, or several fused ones (`linears`, in their order along the output), of block `index`.

    It holds a plain method rather than being one: engines give plain linears to fused kernels that do not call `apply`.
    """

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        index: int,
        linears: Sequence[str],
        prefix: str,
        caches: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """`caches`: what happens to keys and values, by the prefix of their attention module; filled while the model is built."""
        self.plain = UnquantizedLinearMethod()
        self.recipe, self.prefix, self.caches = recipe, prefix, {} if caches is None else caches
        self.fused = len(linears) == 1 and linears[0] in architecture.fused  # in the checkpoint, too
        self.linears = architecture.parts(linears[0]) if self.fused else linears
        self.args = [recipe.input_activations(index, linear) for linear in self.linears]
        self.site = architecture.site_of(linears[0]).name
        self.flat = self.site in recipe.transform.online_sites
        self.alike = False

    def create_weights(
        self,
        layer: Any,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        """Declare the weight, FlatQuant's matrices and clips. Raises ConfigError where ranks would cut input shards."""
        self.plain.create_weights(
            layer,
            input_size_per_partition,
            output_partition_sizes,
            input_size,
            output_size,
            params_dtype,
            **attributes,
        )
        layer.weight.data.fill_(torch.nan)  # vLLM does not miss a tensor of a quantized checkpoint: `_complete` does
        ranks, shards = input_size // input_size_per_partition, shards_of(self.recipe, self.linears[0])
        if shards % ranks and (self.flat or any(self.args)):
            raise ConfigError(
                f"{self.prefix}: tensor_parallel_size {ranks} would cut the recipe's input_shards {shards}; use a divisor of "
                f"{shards}, or quantize with input_shards {ranks}"
            )
        self.shards, self.parts = shards // ranks, output_partition_sizes
        if any(args and not args.dynamic for args in self.args):
            self._declare(layer, "input_scale", (len(self.linears), 1), params_dtype)
        if not self.flat:
            return
        model = get_current_vllm_config().model_config.hf_text_config.to_dict()
        left, right = kronecker_sides(self.site, input_size_per_partition, head_dim(model), self.shards)
        self._declare(layer, "left_trans", (self.shards, left, left), params_dtype)
        if self.site != "o":
            self._declare(layer, "right_trans", (self.shards, right, right), params_dtype)
        if any(self.args):
            self._declare(layer, "input_clip", (len(self.linears), self.shards, 2), params_dtype)

    def _declare(self, layer: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """A parameter of `shape` in the checkpoint's layout; `input_clip` and `input_scale` have an entry per linear first."""
        parameter = nn.Parameter(torch.full(shape, torch.nan, dtype=dtype), requires_grad=False)

        def load(parameter: nn.Parameter, loaded: Tensor, shard_id: str | int | None = None) -> None:
            shard_id = getattr(loaded, "shard_id", shard_id)  # vLLM 0.32 has it on the tensor, 0.23 passes it
            target = parameter.data
            if self.fused:
                target.copy_(loaded)  # every part has the checkpoint's one
                return
            if name in ("input_clip", "input_scale"):
                target = target[0 if shard_id is None else shard_id if isinstance(shard_id, int) else "qkv".index(shard_id)]
            rank = layer.tp_rank if loaded.shape[0] > self.shards else 0
            loaded = loaded[rank * self.shards :][: self.shards]
            if loaded.shape != target.shape:
                raise ArtifactError(f"{self.prefix}.{name}: expected shape {list(target.shape)}, found {list(loaded.shape)}")
            target.copy_(loaded)

        parameter.weight_loader = load  # type: ignore[attr-defined]
        layer.register_parameter(name, parameter)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Check that the checkpoint filled everything; one multiplication is enough where all parts quantize alike."""
        for linear, weight in zip(self.linears, layer.weight.split(self.parts), strict=True):
            _complete(f"{self.prefix}: {linear}.weight", weight)
        for name in ("left_trans", "right_trans"):
            if hasattr(layer, name):
                _complete(f"{self.prefix}.{name}", getattr(layer, name))
        self.alike = all(args == self.args[0] for args in self.args)
        for name in (name for name in ("input_clip", "input_scale") if hasattr(layer, name)):
            values = getattr(layer, name)
            for linear, value, args in zip(self.linears, values, self.args, strict=True):
                if args is not None and (name == "input_clip" or not args.dynamic):
                    _complete(f"{self.prefix}: {linear}.{name}", value)
            self.alike &= all(torch.equal(value, values[0]) for value in values)
        if self.alike:
            self.plain.process_weights_after_loading(layer)  # may pack the weight

    def apply(self, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [tokens, in] of any float dtype -> [tokens, out]: transform, quantize, multiply."""
        if self.flat:
            x = kronecker.apply(x, layer.left_trans, getattr(layer, "right_trans", None))
        biases = [None] * len(self.parts) if bias is None else bias.split(self.parts)
        if self.alike:
            outputs = list(self.plain.apply(layer, self._quantized(layer, x, 0), bias).split(self.parts, dim=-1))
        else:
            weights = layer.weight.split(self.parts)
            outputs = [nn.functional.linear(self._quantized(layer, x, i), weights[i], biases[i]) for i in range(len(weights))]
        cache: Any = self.caches.get(self.prefix.rpartition(".")[0]) if "k_proj" in self.linears else None
        if cache is not None and cache.args.keys == "pre_rope":
            key, at = outputs[self.linears.index("k_proj")], self.linears.index("k_proj")
            key_bias = biases[at] if cache.args.key_bias == "separate" else None
            outputs[at] = cache.before_rope(key[None], key.shape[-1] // cache.head_dim, key_bias)[0]
        return torch.cat(outputs, dim=-1)

    def _quantized(self, layer: Any, x: Tensor, part: int) -> Tensor:
        """What linear number `part` multiplies."""
        args = self.args[part]
        if args is None:
            return x
        if not args.dynamic:
            return fake_quantize_static(x, layer.input_scale[part], args.num_bits)
        if self.flat:
            return fake_quantize_clipped(x, args.num_bits, args.symmetric, layer.input_clip[part], self.shards)
        return fake_quantize(x, args.num_bits, args.symmetric, self.shards)


class FakeQuantCacheMethod(BaseKVCacheMethod):
    """Keys and values, quantized and dequantized on their way into attention and its paged cache.

    The base class, which vLLM requires, is about scales that the cache is stored with; here it is stored as it is read.
    """

    def __init__(self, config: Any, recipe: Recipe, prefix: str) -> None:
        super().__init__(config)
        self.recipe, self.prefix = recipe, prefix

    def create_weights(self, layer: Any) -> None:
        """Declare what acts on keys and values. Raises ConfigError for what vLLM cannot serve."""
        args = self.recipe.scheme.kv_cache
        assert args is not None
        if is_quantized_kv_cache(str(layer.kv_cache_dtype)):
            raise ConfigError(
                f"{self.prefix}: kv_cache_dtype {layer.kv_cache_dtype} would quantize a cache that the checkpoint's recipe "
                "quantizes already; leave it at auto"
            )
        if args.keys == "pre_rope" and self.quant_config.architecture.key_norm:
            raise ConfigError(
                f"{self.prefix}: keys are quantized after a norm that vLLM has no hook for (kv_cache.keys pre_rope); "
                "quantize them after RoPE, or run the checkpoint in transformers"
            )
        if self.recipe.transform.online_sites:
            layer.cache_transform = FlatCache(args, layer.head_size, torch.empty(0))
        else:
            layer.cache_transform = CacheQuantizer(args, layer.num_kv_heads, layer.head_size, torch.empty(0))
            layer.cache_transform.head_dim = layer.head_size
        for parameter in layer.cache_transform.parameters():
            parameter.data.fill_(torch.nan)
            parameter.weight_loader = _load_cache
        self.quant_config.caches[self.prefix.rpartition(".")[0]] = layer.cache_transform
        layer.register_forward_pre_hook(_read_cache)

    def process_weights_after_loading(self, layer: Any) -> None:
        """Check that the checkpoint filled everything."""
        for name, parameter in layer.cache_transform.named_parameters():
            _complete(f"{self.prefix}.cache_transform.{name}", parameter)


def _load_cache(parameter: Tensor, loaded: Tensor) -> None:
    """The checkpoint's tensor, or of one with a row per head the rows of this rank's heads."""
    if loaded.shape[0] > parameter.shape[0]:
        ranks, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
        heads, held = loaded.shape[0], parameter.shape[0]
        loaded = loaded[rank * heads // ranks :][:held]  # where ranks share a head, each holds it
    if loaded.shape != parameter.shape:
        raise ArtifactError(f"cache_transform: expected shape {list(parameter.shape)}, found {list(loaded.shape)}")
    parameter.data.copy_(loaded)


def _read_cache(layer: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A forward pre-hook of attention: (query, key, value, ...) [tokens, heads * head_size] as it is to read them."""
    query, key, value, *rest = inputs
    transform = layer.cache_transform
    if isinstance(transform, FlatCache):
        query = (query.unflatten(-1, (-1, layer.head_size)) @ transform.q_trans).flatten(-2)
    heads = [x.unflatten(-1, (-1, layer.head_size)).transpose(0, 1) for x in (key, value)]  # [kv_heads, tokens, head_size]
    key, value = (x.transpose(0, 1).flatten(-2) for x in transform(*heads))
    return query, key, value, *rest


def _complete(name: str, tensor: Tensor) -> None:
    """Raises ArtifactError where the checkpoint left (or put) something that is not a finite number."""
    if not tensor.isfinite().all():
        raise ArtifactError(f"{name} is missing in the checkpoint, or not finite; export it again")
