"""Benchmarks by name: `benchmarks/<name>.py`, one file each. Light enough for the Snakefile."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from ptqflow.errors import ArtifactError, ConfigError
from ptqflow.evaluation.items import Item
from ptqflow.sources import Source, Sources, each


def module_of(benchmark: str) -> str:
    """Name of the module of `benchmark`, relative to the package. Raises ConfigError for an unknown benchmark."""
    if benchmark not in known_benchmarks():
        raise ConfigError(f"unknown benchmark {benchmark!r}; known benchmarks: {', '.join(known_benchmarks())}")
    return f"evaluation.benchmarks.{benchmark.replace('-', '_')}"


def load(benchmark: str) -> ModuleType:
    """The benchmark's module: `BENCHMARK`, `item(row, index)`, `score(row, metric)`."""
    return import_module(f"ptqflow.{module_of(benchmark)}")


@cache
def known_benchmarks() -> tuple[str, ...]:
    """Names of the benchmarks that ship (a new one is one new file beside them)."""
    names = (
        path.stem.replace("_", "-") for path in Path(__file__).with_name("benchmarks").glob("*.py") if path.stem != "__init__"
    )
    return tuple(sorted(names))


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """The columns of a row that hold something: null would become the text "None" where a benchmark reads it."""
    return {key: value for key, value in row.items() if value is not None and not (isinstance(value, list) and None in value)}


def load_items(
    task: str, benchmark: str, sources: Sources, limit: int | None = None, say: Callable[[str], object] = print
) -> list[Item]:
    """The items of a task in file order, the first `limit`; ids of several sources begin with the source's number.

    Raises ArtifactError when there are none, and for odd rows. `say` is told where they are not as many as published scores are
    of.
    """
    published = load(benchmark).BENCHMARK.published
    items = [item for item, _ in islice(items_and_rows(f"task {task}", benchmark, sources), limit)]
    if limit is None and published not in (None, len(items)):
        say(f"task {task}: {len(items)} items; published scores of {benchmark} are of {published}")
    return items


def items_and_rows(who: str, benchmark: str, sources: Sources) -> Iterator[tuple[Item, dict[str, Any]]]:
    """The items of all sources and the rows that they are of, one at a time. Raises ArtifactError, of `who`, as `load_items`."""
    several = each(sources)
    for number, source in enumerate(several, 1):
        yield from _of_source(who, benchmark, source, f"{number}-" if len(several) > 1 else "")


def check_first(who: str, benchmark: str, source: Source) -> None:
    """Raise ArtifactError unless the first row of a local source is one of the benchmark's, ConfigError where there is none.

    Reads no other row.
    """
    from ptqflow.artifacts.datasets import first_row

    _read(who, benchmark, source, _present(first_row(source)), 0)


def _read(who: str, benchmark: str, source: Source, row: dict[str, Any], index: int) -> Item:
    try:
        item: Item = load(benchmark).item(row, index)
        json.dumps(asdict(item), ensure_ascii=False).encode()  # half a surrogate pair is no text that could be tokenized
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        why = f"it lacks {error}; it has {', '.join(map(repr, row))}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(
            f"{who}: row {index} of {source.label} is not a row of {benchmark} ({why}); correct benchmark, subset or split, "
            "or the row"
        ) from None
    return item


def _of_source(who: str, benchmark: str, source: Source, prefix: str) -> Iterator[tuple[Item, dict[str, Any]]]:
    from ptqflow.artifacts.datasets import rows_of

    ids = set[str]()
    for index, row in enumerate(rows_of(source)):
        present = _present(row)
        item = _read(who, benchmark, source, present, index)
        if item.id in ids:
            raise ArtifactError(f"{who}: ids repeat in {source.label} ({item.id}); give each row its own id")
        ids.add(item.id)
        yield replace(item, id=prefix + item.id), present
    if not ids:
        raise ArtifactError(f"{who}: {source.label} holds no rows; correct subset or split, or leave the task out")
