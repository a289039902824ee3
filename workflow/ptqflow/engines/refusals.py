"""What engines do not compute, said before any job. Apart from `registry`, which jobs of no recipe read."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ptqflow.engines.registry import module_of
from ptqflow.recipes import Recipe


def refusal(engine: str, form: str, recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why an engine does not compute a recipe's checkpoint of a form, or None. `config`: the model's, if here.

    What `engines.<name>_forms` says, where there is one; other engines say it when they load a checkpoint.
    """
    module = f"ptqflow.{module_of(engine).removesuffix('_engine')}_forms"
    reason: str | None = import_module(module).refusal(form, recipe, config) if find_spec(module) else None
    return reason
