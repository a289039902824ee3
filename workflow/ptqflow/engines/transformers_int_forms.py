"""Which checkpoints engine `transformers-int` has kernels for. Import-light: asked before any job.

As `compressed_tensors_linears` decides when it loads one; form `modelslim` holds nothing that it lacks.
"""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.schemes import LinearScheme, schemes
from ptqflow.recipes import Recipe

_COMPRESSED = "compressed-tensors"
_READ = ("fake", _COMPRESSED, "modelslim")


def refusal(form: str, recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why it does not compute a recipe's checkpoint of a form, or None."""
    if form not in _READ:
        return f"it reads {', '.join(_READ)}; use engine vllm, or one of these forms"
    reasons = map(_refusal_of, schemes(recipe, config) if form == _COMPRESSED else ())
    return next((reason for reason in reasons if reason is not None), None)


def _refusal_of(scheme: LinearScheme) -> str | None:
    weights, inputs = scheme.weights, scheme.input_activations
    if weights is None or (inputs is None and weights.num_bits == 4):
        return None
    symmetric, by_row = weights.symmetric, scheme.group_size is None
    if (inputs is not None and weights.num_bits < 8) or (weights.num_bits == 8 and symmetric and (by_row or inputs is not None)):
        return None
    kind = f"{'' if symmetric else 'asymmetric '}W{weights.num_bits}A{inputs.num_bits if inputs else 16} {weights.strategy}"
    return (
        f"it has no kernel for {kind} ({scheme.where}), but for weights and inputs of up to 8 bits (weights of 8: symmetric), "
        "W4A16, and symmetric W8A16 by row; use engine transformers or vllm, or form fake"
    )
