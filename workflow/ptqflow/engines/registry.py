"""Engines by name. Import-light: the Snakefile asks, before any job, whether an engine is there."""

import ast
from functools import cache
from pathlib import Path

from ptqflow.errors import ConfigError


def module_of(engine: str) -> str:
    """Name of the module of `engine`, relative to the package. Raises ConfigError for an unknown engine."""
    known = sorted(path.stem.removesuffix("_engine").replace("_", "-") for path in Path(__file__).parent.glob("*_engine.py"))
    if engine not in known:
        raise ConfigError(f"engine {engine!r} is unknown; use one of {', '.join(known)}")
    return f"engines.{engine.replace('-', '_')}_engine"


@cache
def forms_batches(engine: str) -> bool:
    """Whether an engine forms its batches itself: its module says `FORMS_BATCHES = True`. Read as text, since it imports torch.

    Raises ConfigError for an unknown engine.
    """
    source = Path(__file__).parent.parent / f"{module_of(engine).replace('.', '/')}.py"
    said = (node for node in ast.parse(source.read_text()).body if isinstance(node, ast.Assign))
    return any(ast.unparse(node) == "FORMS_BATCHES = True" for node in said)
