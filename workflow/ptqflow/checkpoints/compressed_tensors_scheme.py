"""Form `compressed-tensors`: which recipes vLLM serves from it, and the `quantization_config` that says so.

What is allowed is what `vllm/model_executor/layers/quantization/compressed_tensors` finds a scheme for (vLLM 0.32 and 0.33).
transformers loads all of it, too.
"""

import re
from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.schemes import LinearScheme, refusal_of_all, refusal_of_online_transforms, schemes
from ptqflow.checkpoints.server import VLLM, command
from ptqflow.linears import ROW_PARALLEL
from ptqflow.recipes import Recipe
from ptqflow.scheme import CacheArgs

INT, PACKED = "int-quantized", "pack-quantized"
VERSION = "0.20.0"  # of the compressed-tensors library whose layouts these are; below 0.18, 3-bit words were laid out otherwise
_Key = tuple[Any, ...]

SERVED = (
    "vLLM on CUDA and on CPUs (with AVX-512 for weights of 4 bits alone, with VNNI for weights and inputs of 8), and "
    "transformers with compressed-tensors"
)


def refusal(recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why vLLM serves no such checkpoint, or None."""
    if (reason := refusal_of_online_transforms(recipe)) is not None:
        return reason
    if (cache := recipe.scheme.kv_cache) is not None:
        return _refusal_of_cache(cache)
    if (reason := refusal_of_all(recipe, config)) is not None:
        return reason
    return next((reason for scheme in schemes(recipe, config) if (reason := _refusal_of(scheme, recipe)) is not None), None)


def _refusal_of_cache(cache: CacheArgs) -> str:
    keys, values = cache.bits["k"], cache.bits["v"]
    if keys != values:
        return (
            f"vLLM stores keys and values in one dtype, not in {keys} and {values} bits (kv_cache.value_bits); "
            "take the recipe without scheme.kv_cache, or evaluate form fake"
        )
    if keys not in (4, 8):
        return f"vLLM has no {keys}-bit KV cache; take the recipe without scheme.kv_cache, or evaluate form fake"
    return (
        f"vLLM refuses checkpoints with an integer KV cache; take the recipe without scheme.kv_cache and start vLLM with "
        f"--kv-cache-dtype int{keys}_per_token_head, which computes one scale per token and head as it runs"
    )


def _refusal_of(scheme: LinearScheme, recipe: Recipe) -> str | None:
    weights, inputs = scheme.weights, scheme.input_activations
    if weights is None or inputs is None:
        return None
    if not inputs.dynamic and (layout_of(scheme) != INT or weights.num_bits != 8):
        return (
            f"vLLM serves static inputs only beside symmetric weights of 8 bits by row, not for W{weights.num_bits}A"
            f"{inputs.num_bits} {weights.strategy} ({scheme.where}); use input_activations.dynamic: true"
        )
    if recipe.input_shards > 1 and scheme.linear in ROW_PARALLEL:
        return (
            f"engines quantize the whole input of {scheme.linear} with one scale per token, not {recipe.input_shards} shards; "
            "use input_shards 1"
        )
    if inputs.num_bits not in (4, 8):
        return f"vLLM quantizes inputs to 4 or 8 bits, not {inputs.num_bits} ({scheme.where}); use one of these"
    if not inputs.symmetric and layout_of(scheme) == PACKED:
        kind = "asymmetric " if not weights.symmetric else ""
        return (
            f"vLLM serves asymmetric inputs only for symmetric weights of 8 bits per channel or 4 bits with 8-bit inputs, "
            f"not for {kind}W{weights.num_bits}A{inputs.num_bits} {weights.strategy} ({scheme.where}); "
            "use input_activations.symmetric: true"
        )
    return None


def layout_of(scheme: LinearScheme) -> str:
    """How a linear's weight is stored: a byte per integer, or packed words.

    Bytes are W8A8 by row, which vLLM's int8 kernels read, and W4A8 with asymmetric inputs, for its int4 kernel for CPUs (which
    quantizes all inputs so). All else is packed.
    """
    weights, inputs = scheme.weights, scheme.input_activations
    assert weights is not None
    if inputs is None or inputs.num_bits != 8 or not weights.symmetric:
        return PACKED
    by_row = weights.num_bits == 8 and scheme.group_size is None
    return INT if by_row or (weights.num_bits == 4 and not inputs.symmetric) else PACKED


def quantization_config(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    """`quantization_config` of config.json: a group for linears that are quantized alike, by patterns if not all are."""
    members: dict[_Key, list[LinearScheme]] = {}
    found = schemes(recipe, config)
    for scheme in found:
        if scheme.weights is not None:
            members.setdefault(scheme.quantization, []).append(scheme)
    groups = {}
    for number, alike in enumerate(members.values()):
        targets = ["Linear"] if len(alike) == len(found) else _patterns(alike, found)
        groups[f"group_{number}"] = _group(alike[0], recipe, targets)
    formats = {group["format"] for group in groups.values()}
    # transformers 5.23 with compressed-tensors 0.20 expects packed zero points in the shape of unpacked ones, unless it
    # dequantizes as it loads: but then it ignores activations, and takes every group for the first.
    quantized = [scheme for alike in members.values() for scheme in alike]
    asymmetric = any(scheme.weights and not scheme.weights.symmetric for scheme in quantized)
    dequantize = {"dequantize": True} if asymmetric and not _unreadable(recipe, quantized) else {}
    return {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "version": VERSION,
        "config_groups": groups,
        "ignore": ["lm_head"],
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        **dequantize,
    }


def engine(recipe: Recipe) -> str | None:
    """transformers, where it reads the checkpoint."""
    return None if _unreadable(recipe, [scheme for scheme in schemes(recipe, None) if scheme.weights]) else "transformers"


def _patterns(alike: list[LinearScheme], found: list[LinearScheme]) -> list[str]:
    """One pattern per kind of linear, naming its layers."""
    patterns = []
    for linear in dict.fromkeys(scheme.linear for scheme in found):
        if not (of_kind := [scheme for scheme in alike if scheme.linear == linear]):
            continue
        before, after = of_kind[0].prefix.split(f".{of_kind[0].layer}.")
        layers = "|".join(str(scheme.layer) for scheme in of_kind)
        patterns.append(f"re:{re.escape(before)}\\.({layers})\\.{re.escape(after)}$")
    return patterns


def _group(scheme: LinearScheme, recipe: Recipe, targets: list[str]) -> dict[str, Any]:
    weights, inputs = scheme.weights, scheme.input_activations
    assert weights is not None
    grouped = scheme.group_size is not None
    ordered = grouped and recipe.rounding.orders_columns
    return {
        "targets": targets,
        "format": layout_of(scheme),
        "weights": {
            "num_bits": weights.num_bits,
            "type": "int",
            "symmetric": weights.symmetric,
            "strategy": "group" if grouped else "channel",
            "group_size": scheme.group_size,
            "dynamic": False,
            "actorder": "static" if ordered else None,  # columns were ordered while rounding only: nothing extra is stored
        },
        "input_activations": None
        if inputs is None
        else inputs.model_dump(include={"num_bits", "type", "symmetric", "strategy", "dynamic"}),
        "output_activations": None,
    }


def serve(recipe: Recipe, folder: str, server: str = VLLM) -> str | None:
    """The command that serves it; None where no engine does."""
    return command(folder, server)


def loading(recipe: Recipe, folder: str, server: str = VLLM) -> str:
    """How engines load it from a folder (Markdown)."""
    found = [scheme for scheme in schemes(recipe, None) if scheme.weights is not None]
    text = (
        f"vLLM: `{serve(recipe, folder, server)}`. transformers, with `compressed-tensors` >= 0.18 installed:\n\n"
        f"```python\nfrom transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained({folder!r})\n```"
    )
    if any(scheme.input_activations is not None and layout_of(scheme) == PACKED for scheme in found):
        text += (
            "\n\nOf these weights vLLM's Humming kernel alone (CUDA, `--linear-backend humming`) quantizes the inputs, too; its "
            "other kernels leave them in high precision without a word."
        )
    if _unreadable(recipe, found):
        text += "\n\ntransformers 5.23 with compressed-tensors 0.20 stops at the packed zero points."
    return text


def _unreadable(recipe: Recipe, found: list[LinearScheme]) -> bool:
    """Whether transformers cannot read a checkpoint: packed zero points that it cannot dequantize as it loads."""
    asymmetric = any(scheme.weights and not scheme.weights.symmetric for scheme in found)
    return asymmetric and (not recipe.is_weight_only() or len({scheme.quantization for scheme in found}) > 1)
