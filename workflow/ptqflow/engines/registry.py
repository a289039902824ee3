"""Engines by name. Import-light: the Snakefile asks, before any job, whether an engine is there."""

from pathlib import Path

from ptqflow.errors import ConfigError


def module_of(engine: str) -> str:
    """Name of the module of `engine`, relative to the package. Raises ConfigError for an unknown engine."""
    known = sorted(path.stem.removesuffix("_engine").replace("_", "-") for path in Path(__file__).parent.glob("*_engine.py"))
    if engine not in known:
        raise ConfigError(f"engine {engine!r} is unknown; use one of {', '.join(known)}")
    return f"engines.{engine.replace('-', '_')}_engine"
