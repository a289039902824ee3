"""Checkpoint forms by name. Imports only the one asked for. Import-light: the Snakefile asks which recipes a form can hold.

Form `a-b` is two modules of this room: `a_b_scheme.py`, without torch, and `a_b_layout.py` with a class `Layout`. A new form is
these two files, and reruns no other form's jobs.

A scheme module offers
- `refusal(recipe, config) -> str | None`: `reason; remedy` why no engine that reads the form serves the recipe (`config` is the
  model's config.json, or None while it is not fetched);
- `SERVED`: who serves the form, for people;
- `serve(recipe, folder, server=VLLM) -> str | None`: the command that serves it, or None where no engine does (`server`: of
  `checkpoints.server`);
- `loading(recipe, folder, server=VLLM) -> str`: how engines load it, for the model card;
- `engine(recipe) -> str | None`: the engine of ours (`engines.registry`) that loads it, so that its logits can be verified.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from ptqflow.errors import ConfigError
from ptqflow.recipes import Recipe

FAKE = "fake"  # what engines of this repository evaluate


def forms() -> list[str]:
    """Names of all forms."""
    stems = (path.stem.removesuffix("_layout") for path in Path(__file__).parent.glob("*_layout.py"))
    return sorted(stem.replace("_", "-") for stem in stems)


def module_of(form: str) -> str:
    """Name of the module that lays `form` out, relative to the package. Raises ConfigError for an unknown form."""
    module = f"checkpoints.{form.replace('-', '_')}_layout"
    if "_" in form or find_spec(f"ptqflow.{module}") is None:
        raise ConfigError(f"form {form!r} is unknown; use one of {', '.join(forms())}")
    return module


def modules_of(form: str) -> tuple[str, str]:
    """Names of both modules of a form, relative to the package. Raises ConfigError for an unknown form."""
    return module_of(form), f"{module_of(form).removesuffix('_layout')}_scheme"


def layout(form: str) -> Any:
    """The class `Layout` of a form (protocol: `checkpoints.layout.BaseLayout`)."""
    return import_module(f"ptqflow.{module_of(form)}").Layout


def scheme(form: str) -> ModuleType:
    """The scheme module of a form. Raises ConfigError for an unknown form."""
    return import_module(f"ptqflow.{modules_of(form)[1]}")


def engine(form: str, recipe: Recipe) -> str | None:
    """Name of our engine that loads a recipe's checkpoint of a form; None where none does."""
    name: str | None = scheme(form).engine(recipe)
    return name


def refusal(form: str, recipe: Recipe, config: Mapping[str, Any] | None) -> str | None:
    """`reason; remedy` why `form` cannot hold a recipe, or None."""
    if recipe.emulate is not None and form != FAKE:
        return f"its engines compute as they do, and emulate {recipe.emulate} is of ours; evaluate form {FAKE}"
    reason: str | None = scheme(form).refusal(recipe, config)
    return reason
