"""Checkpoint formats by name. Imports only the one asked for. Import-light."""

from importlib import import_module
from types import ModuleType

from ptqflow.errors import ConfigError

# form (as in `results/.../checkpoints/{model}/{recipe}/{form}`) -> module in this room
MODULES = {"fake": "dense"}


def module_of(form: str) -> str:
    """Name of the module that writes `form`, relative to the package. Raises ConfigError for an unknown form."""
    if form not in MODULES:
        raise ConfigError(f"form {form!r} is unknown; use one of {', '.join(MODULES)}")
    return f"checkpoints.{MODULES[form]}"


def writer(form: str) -> ModuleType:
    """The module that writes `form`: it offers `write(model, names, qparams, recipe, folder)`."""
    return import_module(f"ptqflow.{module_of(form)}")
