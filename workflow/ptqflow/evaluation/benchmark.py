"""Benchmarks by name: `benchmarks/<name>.py`, one file each. Light enough for the Snakefile."""

import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.evaluation.items import Item
from ptqflow.sources import Source


def module_of(benchmark: str) -> str:
    """Name of the module of `benchmark`, relative to the package. Raises ConfigError for an unknown benchmark."""
    if benchmark not in known_benchmarks():
        raise ConfigError(f"unknown benchmark {benchmark!r}; known benchmarks: {', '.join(known_benchmarks())}")
    return f"evaluation.benchmarks.{benchmark.replace('-', '_')}"


def load(benchmark: str) -> ModuleType:
    """The benchmark's module: `BENCHMARK`, `item(row, index)`, `score(row, metric)`."""
    return import_module(f"ptqflow.{module_of(benchmark)}")


def known_benchmarks() -> list[str]:
    """Names of the benchmarks that ship (a new one is one new file beside them)."""
    return sorted(
        path.stem.replace("_", "-") for path in Path(__file__).with_name("benchmarks").glob("*.py") if path.stem != "__init__"
    )


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row that hold something: null would become the text "None" where a benchmark reads it."""
    return {key: value for key, value in row.items() if value is not None and not (isinstance(value, list) and None in value)}


def load_items(task: str, benchmark: str, source: Source, limit: int | None = None) -> list[Item]:
    """The items of a task in file order, the first `limit`. Raises ArtifactError when there are none, and for odd rows."""
    from ptqflow.artifacts.datasets import load_rows

    rows = load_rows(source)
    if not rows:
        raise ArtifactError(f"task {task}: {source.label} holds no rows; correct subset or split, or leave the task out")
    read = load(benchmark).item
    items: list[Item] = []
    for index, row in enumerate(rows[:limit]):
        try:
            item = read(_present(row), index)
            json.dumps(asdict(item), ensure_ascii=False).encode()  # half a surrogate pair is no text that could be tokenized
            items.append(item)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"task {task}: row {index} of {source.label} is not a row of {benchmark} "
                f"({type(error).__name__}: {error}); correct benchmark, subset or split"
            ) from None
    if len({item.id for item in items}) != len(items):
        raise ArtifactError(f"task {task}: ids repeat in {source.label}; give each row its own id")
    return items
