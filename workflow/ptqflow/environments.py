"""Environments by name: families of packages that cannot be installed together, and where each is on this machine.

A family has a list of pins, `envs/<family>.txt`. `core` is the one that is active: of the stages and of transformers. An engine
with pins of its own runs in the family of its name. Another one's interpreter is what PTQFLOW_PYTHON_<FAMILY> names (a user's own
environment, a container's), or that of `.venv-<family>`, which `make` creates.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from ptqflow.errors import ConfigError

CORE = "core"
ROOT = Path(__file__).resolve().parents[2]


def of_engine(engine: str, root: Path = ROOT) -> str:
    """The family that an engine runs in."""
    return engine if (root / "envs" / f"{engine}.txt").is_file() else CORE


def python(family: str, root: Path = ROOT, variables: Mapping[str, str] = os.environ) -> str:
    """The interpreter of a family. Raises ConfigError, with the command that makes it, where there is none."""
    if family == CORE:
        return "python"
    name = f"PTQFLOW_PYTHON_{family.upper()}"
    own = root / f".venv-{family}" / "bin" / "python"
    if chosen := variables.get(name):
        if not Path(chosen).is_file():
            raise ConfigError(f"{name}: {chosen} does not exist; name the interpreter of an environment that has {family}")
        return chosen
    if not own.is_file():
        raise ConfigError(f"no environment for {family}; run `make {family}` (CPUs), or set {name} to the interpreter of one")
    return str(own)
