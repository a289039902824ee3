"""What engines do not compute, said before any job. Apart from `registry`, which jobs of no recipe read."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ptqflow.engines.registry import module_of
from ptqflow.recipes import Recipe


def refusal(engine: str, form: str, recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why an engine does not compute a recipe's checkpoint of a form, or None. `config`: the model's, if here.

    What `engines.<name>_forms` says, where there is one; other engines say it when they load a checkpoint.
    """
    forms = _forms(engine)
    reason: str | None = forms.refusal(form, recipe, config) if forms else None
    return reason


@cache
def _forms(engine: str) -> Any:
    """The module of an engine that says it, or None; asked for every recipe at every parse of the Snakefile."""
    module = f"ptqflow.{module_of(engine).removesuffix('_engine')}_forms"
    return import_module(module) if find_spec(module) else None
