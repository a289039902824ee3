"""Form `modelslim`: which recipes vllm-ascend 0.23 serves on Ascend NPUs, and each linear's type in the description file.

Types as `vllm_ascend/quantization/methods` registers them for linears, and what their loaders and kernels need; each refusal that
names an error was seen with that loader (`tests/engines/ascend_proof.py`).
"""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.schemes import LinearScheme, refusal_of_all, schemes
from ptqflow.checkpoints.server import VLLM, command
from ptqflow.modeling.anatomy import architecture
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.numerics.factors import kronecker_split
from ptqflow.recipes import Recipe
from ptqflow.scheme import CacheArgs

FLOAT, W8A16, W8A8, W8A8_DYNAMIC, W4A4_DYNAMIC = "FLOAT", "W8A16", "W8A8", "W8A8_DYNAMIC", "W4A4_DYNAMIC"
FLATQUANT = "W4A4_FLATQUANT_DYNAMIC"
_TYPES = {(8, None): W8A16, (8, 8): W8A8_DYNAMIC, (4, 4): W4A4_DYNAMIC}  # by bits of weight and input
_INT4_WORD = 8  # the kernels pack that many 4-bit integers into a word, and transform rows that hold whole words
_LARGEST_SIDE = 128  # of a Kronecker transform that npu_kronecker_quant takes on every CANN

SERVED = "vllm-ascend on an Ascend NPU"


def type_of(scheme: LinearScheme, recipe: Recipe) -> str:
    """The type of a linear of a recipe that is not refused."""
    if scheme.weights is None:
        return FLOAT
    found = _TYPES[scheme.weights.num_bits, scheme.input_activations.num_bits if scheme.input_activations else None]
    if scheme.input_activations is not None and not scheme.input_activations.dynamic:
        return W8A8
    return FLATQUANT if found == W4A4_DYNAMIC and _transformed(scheme, recipe) else found


def refusal(recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why vllm-ascend serves no such checkpoint, or None."""
    if config is not None and "linears" not in architecture(config["model_type"]).ascend:
        return (
            f"vllm-ascend's loader knows fused linears by model, and model_type {config['model_type']} was not tried with it; "
            "use form compressed-tensors"
        )
    if (cache := recipe.scheme.kv_cache) is not None and (reason := _refusal_of_cache(cache, config)) is not None:
        return reason
    if recipe.input_shards > 1:
        return (
            f"ModelSlim has one scale per row of a weight and one transform per linear, not {recipe.input_shards} for "
            "tensor-parallel shards; use input_shards 1"
        )
    if (reason := refusal_of_all(recipe, config)) is not None:
        return reason
    shapes = linear_shapes(config) if config is not None else None
    for scheme in schemes(recipe, config):
        reason = _refusal_of(scheme, recipe)
        if reason is None and shapes is not None:
            reason = _refusal_of_shape(scheme, recipe, shapes[scheme.linear][1])
        if reason is not None:
            return reason
    return None


def _transformed(scheme: LinearScheme, recipe: Recipe) -> bool:
    return scheme.site in recipe.transform.online_sites


def _refusal_of_cache(cache: CacheArgs, config: Mapping[str, Any] | None) -> str | None:
    without = "take the recipe without scheme.kv_cache, or evaluate form fake"
    if others := [bits for bits in cache.bits.values() if bits != 8]:
        return f"vllm-ascend's attention reads caches of 8-bit integers (C8), not of {others[0]} bits; {without}"
    if config is not None and "cache" not in architecture(config["model_type"]).ascend:
        return (
            f"vllm-ascend 0.23 loads the scales of an 8-bit cache (C8) into Qwen3, not into {config['model_type']} (KeyError: "
            f"'layers.0.self_attn.qkv_proj.kv_cache_offset'); {without}"
        )
    if cache.static != ("k", "v"):
        return (
            "vllm-ascend's 8-bit cache (C8) has one static scale per channel, not one per token and head; "
            "use kv_cache.dynamic: false"
        )
    if not cache.symmetric or cache.keys != "post_rope":
        return (
            "vllm-ascend's 8-bit cache (C8) holds keys after RoPE, and its attention ignores offsets; "
            "use kv_cache.symmetric: true and kv_cache.keys: post_rope"
        )
    return None


def _refusal_of(scheme: LinearScheme, recipe: Recipe) -> str | None:
    weights, inputs, transformed = scheme.weights, scheme.input_activations, _transformed(scheme, recipe)
    if transformed and scheme.linear in ("o_proj", "down_proj"):
        return (
            f"vllm-ascend transforms no input of {scheme.linear} as FlatQuant learns it: o_proj's is mixed across heads, which "
            "its loader has no shape for, and sizes follow the tensor-parallel rank; leave o and down out of transform.sites and "
            "give o_proj and down_proj 8 bits, as preset flatquant-w4a4-ascend"
        )
    if weights is None:
        return (
            f"{scheme.where} reads an input that FlatQuant transforms, and vllm-ascend runs unquantized linears without "
            "transforms; take its site out of transform.sites"
            if transformed
            else None
        )
    bits = f"W{weights.num_bits}A{inputs.num_bits if inputs else 16}"
    if bits in ("W4A16", "W3A16"):
        return (
            f"vllm-ascend 0.23 has no {bits} linear ({scheme.where}; NotImplementedError for W4A16, which it serves to experts "
            "only); use 8-bit weights, or 4-bit weights and inputs"
        )
    if not weights.symmetric:
        return (
            f"this form is written without zero points of weights, which vllm-ascend ignores but for W8A16 ({scheme.where}); "
            "use weights.symmetric: true"
        )
    if scheme.group_size is not None:
        return f"vllm-ascend has one scale per row of a weight, not groups ({scheme.where}); use weights.strategy: channel"
    if inputs is not None and not inputs.symmetric:
        return (
            f"vllm-ascend's kernels quantize inputs symmetrically ({scheme.where}); use input_activations.symmetric: true, as "
            "the -ascend presets"
        )
    if bits == "W4A8":
        return (
            f"vllm-ascend's W4A8_DYNAMIC linear drops the bias and leaves inputs unquantized ({scheme.where}); use 8-bit "
            "weights, or 4-bit weights and inputs"
        )
    if (weights.num_bits, inputs.num_bits if inputs else None) not in _TYPES:
        return f"vllm-ascend has no {bits} linear ({scheme.where}); use W8A8, W8A16 or W4A4"
    if inputs is not None and not inputs.dynamic and bits != "W8A8":
        return f"vllm-ascend has static inputs for W8A8 alone, not for {bits} ({scheme.where}); use dynamic: true"
    if transformed and bits != "W4A4":
        return (
            f"vllm-ascend transforms inputs online for W4A4 alone, not for {bits} ({scheme.where}; NotImplementedError for "
            "W8A8_FLATQUANT_DYNAMIC); use transform smoothquant, or take its site out of transform.sites"
        )
    return None


def _refusal_of_shape(scheme: LinearScheme, recipe: Recipe, in_features: int) -> str | None:
    if scheme.weights is None or scheme.weights.num_bits != 4:
        return None
    if in_features % _INT4_WORD:
        return f"{scheme.where} has {in_features} inputs, which are not whole words of 8 4-bit integers; use 8 bits"
    if _transformed(scheme, recipe):
        left, right = kronecker_split(in_features)
        if right % _INT4_WORD or right > _LARGEST_SIDE or (left + right) % 2:
            return (
                f"npu_kronecker_quant takes no {left} x {right} transform of the {in_features} inputs of {scheme.where}: the "
                f"right side must be a multiple of {_INT4_WORD} and at most {_LARGEST_SIDE}; take its site out of transform.sites"
            )
    return None


def engine(recipe: Recipe) -> str:
    """Ours that computes with its integers; vllm-ascend needs an NPU, or the environment of `make check-engines`."""
    return "transformers-int"


def serve(recipe: Recipe, folder: str, server: str = VLLM) -> str | None:
    """The command that serves it, on an NPU, wherever it was made."""
    return f"{command(folder)} --quantization ascend"


def loading(recipe: Recipe, folder: str, server: str = VLLM) -> str:
    """How engines load it from a folder (Markdown)."""
    return f"vllm-ascend, on an Ascend NPU: `{serve(recipe, folder, server)}`."
