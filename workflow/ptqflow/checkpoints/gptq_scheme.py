"""Form `gptq`: the layout of AutoGPTQ and GPTQModel: weights of 2, 3, 4 or 8 bits, one setting for the whole model.

Symmetric weights are written as version 1 (`checkpoint_format` "gptq"), which every reader knows. Version 1 stores zero points
minus one, so a zero point of 0 would wrap: asymmetric weights are written as version 2 ("gptq_v2"), which stores them unchanged.
vLLM serves symmetric weights of 4 and 8 bits only; GPTQModel the rest.
"""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.schemes import refusal_of_packed_weights, schemes, skipped
from ptqflow.checkpoints.server import VLLM, command
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.recipes import Recipe

BITS = (2, 3, 4, 8)

SERVED = "GPTQModel, and transformers with gptqmodel and optimum; symmetric weights of 4 or 8 bits in vLLM"


def refusal(recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why no GPTQ checkpoint holds the recipe, or None."""
    if (reason := refusal_of_packed_weights(recipe, config, "GPTQ", BITS)) is not None:
        return reason
    for linear, shape in linear_shapes(config).items() if config is not None else ():
        if any(n % 32 for n in shape):
            return f"its words hold 32 rows or columns, and {linear} is {shape[0]} x {shape[1]}; use form compressed-tensors"
    return None


def quantization_config(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    """`quantization_config` of config.json, and content of `quantize_config.json`."""
    found = schemes(recipe, config)
    first = next(scheme for scheme in found if scheme.weights)
    assert first.weights is not None
    return {
        "quant_method": "gptq",
        "bits": first.weights.num_bits,
        "group_size": first.group_size or -1,
        "sym": first.weights.symmetric,
        "desc_act": False,  # groups are static: columns were ordered only while rounding
        "lm_head": False,
        "checkpoint_format": "gptq" if first.weights.symmetric else "gptq_v2",
        **({"damp_percent": recipe.rounding.damping} if recipe.rounding.damping is not None else {}),
        "true_sequential": False,
        "dynamic": skipped(found) or None,
        "meta": {"quantizer": ["ptqflow"]},
    }


def engine(recipe: Recipe) -> None:
    """None of ours: vLLM and GPTQModel need environments of their own."""
    return None


def serve(recipe: Recipe, folder: str, server: str = VLLM) -> str | None:
    """The command that serves it; None where no engine does."""
    weights = recipe.scheme.weights
    served = weights is not None and weights.symmetric and weights.num_bits in (4, 8)
    return command(folder, server) if served else None


def loading(recipe: Recipe, folder: str, server: str = VLLM) -> str:
    """How engines load it from a folder (Markdown)."""
    served = serve(recipe, folder, server)
    vllm = f"vLLM: `{served}`." if served else "vLLM does not serve it (symmetric weights of 4 or 8 bits only)."
    return f"{vllm} GPTQModel: `GPTQModel.load({folder!r})`; transformers, with `gptqmodel` and `optimum` installed."
