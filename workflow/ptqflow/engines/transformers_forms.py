"""Which checkpoints engine `transformers` loads. Import-light: asked before any job."""

from collections.abc import Mapping
from typing import Any

from ptqflow.checkpoints import registry
from ptqflow.engines import transformers_int_forms
from ptqflow.recipes import Recipe


def refusal(form: str, recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why it does not load a recipe's checkpoint of a form, or None."""
    if registry.engine(form, recipe) == "transformers":
        return None
    others = "vllm" if transformers_int_forms.refusal(form, recipe, config) else "vllm or transformers-int"
    return f"the packages of this environment do not load it; use engine {others}"
