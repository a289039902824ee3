"""Form `autoawq`: the layout of the AutoAWQ library, version "gemm": 4-bit weights in groups, one setting for the whole model."""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.schemes import refusal_of_packed_weights, schemes, skipped
from ptqflow.checkpoints.server import VLLM, command
from ptqflow.modeling.dimensions import linear_shapes
from ptqflow.recipes import Recipe

BITS = 4

SERVED = "vLLM, GPTQModel, and transformers with gptqmodel"


def refusal(recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why no AutoAWQ checkpoint holds the recipe, or None."""
    if (reason := refusal_of_packed_weights(recipe, config, "AutoAWQ", (BITS,))) is not None:
        return reason
    if any(scheme.weights and scheme.group_size is None for scheme in schemes(recipe, config)):
        return "AutoAWQ has scales per group, not per row; use weights.strategy group (128), or form compressed-tensors"
    shapes = linear_shapes(config).items() if config is not None else ()
    odd = next((f"{linear} has {rows} rows" for linear, (rows, _) in shapes if rows % 8), None)
    return f"its words hold 8 rows, and {odd}; use form compressed-tensors" if odd else None


def quantization_config(recipe: Recipe, config: Mapping[str, Any]) -> dict[str, Any]:
    """`quantization_config` of config.json. Symmetric weights are stored as asymmetric ones with zero point 8."""
    found = schemes(recipe, config)
    kept = [scheme.prefix for scheme in found if scheme.weights is None]
    return {
        "quant_method": "awq",
        "bits": BITS,
        "group_size": next(scheme.group_size for scheme in found if scheme.weights),
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": [*kept, "lm_head"] if kept else None,
        **({"dynamic": skipped(found)} if kept else {}),  # GPTQModel ignores the line above, and would run unloaded weights
    }


def engine(recipe: Recipe) -> None:
    """None of ours: vLLM and GPTQModel need environments of their own."""
    return None


def serve(recipe: Recipe, folder: str, server: str = VLLM) -> str | None:
    """The command that serves it; None where no engine does."""
    return command(folder, server)


def loading(recipe: Recipe, folder: str, server: str = VLLM) -> str:
    """How engines load it from a folder (Markdown)."""
    return f"vLLM: `{serve(recipe, folder, server)}`. transformers reads it with `gptqmodel` installed."
