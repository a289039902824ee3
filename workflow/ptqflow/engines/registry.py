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
def _says(engine: str, flag: str) -> bool:
    """Whether an engine's module says `FLAG = True`. Read as text, since it imports torch.

    Raises ConfigError for an unknown engine.
    """
    source = Path(__file__).parent.parent / f"{module_of(engine).replace('.', '/')}.py"
    said = (node for node in ast.parse(source.read_text()).body if isinstance(node, ast.Assign))
    return any(ast.unparse(node) == f"{flag} = True" for node in said)


def forms_batches(engine: str) -> bool:
    """Whether an engine forms its batches itself."""
    return _says(engine, "FORMS_BATCHES")


def refuse_ranks(engine: str, tensor_parallel: int) -> None:
    """Raise ConfigError where an engine cannot share a model's tensors among so many devices."""
    if tensor_parallel > 1 and not _says(engine, "SHARES_TENSORS"):
        raise ConfigError(
            f"tensor_parallel {tensor_parallel}: engine {engine} computes on one device; use 1, or an engine that shares"
        )
