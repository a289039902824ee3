"""Form `fake`: dequantized weights in the model's dtype; activations and cache are rounded while the model runs."""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints.server import VLLM, command
from ptqflow.recipes import Recipe

SERVED = (
    "transformers after `import ptqflow`, and vLLM with ptqflow's plugin; recipes that quantize weights alone load anywhere. "
    "For evaluation: the weights are stored in high precision"
)


def engine(recipe: Recipe) -> str:
    """transformers loads them all."""
    return "transformers"


def refusal(recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """Every recipe can be written so."""
    return None


def serve(recipe: Recipe, folder: str, server: str = VLLM) -> str | None:
    """None: it emulates what another form is deployed as."""
    return None


def loading(recipe: Recipe, folder: str, server: str = VLLM) -> str:
    """How an engine loads it from a folder (Markdown)."""
    if recipe.is_weight_only():
        load = f"AutoModelForCausalLM.from_pretrained({folder!r})"
        return f"Any engine loads it as the float model: `{command(folder, server)}`, `{load}`."
    return (
        "transformers loads it after `import ptqflow`, which quantizes activations and cache as the recipe says:\n\n"
        "```python\nimport ptqflow\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})\n```"
    )
