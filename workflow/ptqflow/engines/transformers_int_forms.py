"""Which checkpoints engine `transformers-int` has kernels for. Import-light: asked before any job.

As `compressed_tensors_linears` decides when it loads one; form `modelslim` holds nothing that it lacks.
"""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.schemes import LinearScheme, schemes
from ptqflow.devices import packed_int4
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.platforms import PLATFORMS, Platform
from ptqflow.recipes import Recipe

_COMPRESSED = "compressed-tensors"
_READ = ("fake", _COMPRESSED, "modelslim")


def refusal(form: str, recipe: Recipe, config: Mapping[str, Any] | None, platform: Platform) -> str | None:
    """`reason; remedy` why it does not compute a recipe's checkpoint of a form, or None."""
    if form not in _READ:
        return f"it reads {', '.join(_READ)}; use engine vllm, or one of these forms"
    shapes = linear_shapes(config) if config is not None else {}
    for scheme in schemes(recipe, config) if form == _COMPRESSED else ():
        if (reason := _refusal_of(scheme, shapes.get(scheme.linear), PLATFORMS[platform])) is not None:
            return reason
    return None


def _refusal_of(scheme: LinearScheme, shape: tuple[int, int] | None, device: str) -> str | None:
    weights, inputs = scheme.weights, scheme.input_activations
    if weights is None:
        return None
    symmetric, by_row = weights.symmetric, scheme.group_size is None
    if inputs is None and weights.num_bits == 4:
        if shape is None or device not in packed_int4.INPUTS:
            return None
        reason = packed_int4.refusal(device, *shape, scheme.group_size or shape[1])
        return None if reason is None else f"{scheme.where}: {reason}"
    if (inputs is not None and weights.num_bits < 8) or (weights.num_bits == 8 and symmetric and (by_row or inputs is not None)):
        return None
    kind = f"{'' if symmetric else 'asymmetric '}W{weights.num_bits}A{inputs.num_bits if inputs else 16} {weights.strategy}"
    return (
        f"it has no kernel for {kind} ({scheme.where}), but for weights and inputs of up to 8 bits (weights of 8: symmetric), "
        "W4A16, and symmetric W8A16 by row; use engine transformers or vllm, or form fake"
    )
