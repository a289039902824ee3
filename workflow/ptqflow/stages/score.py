"""Score what an engine said: extract answers and compare them with gold, by the benchmark's own scorer. Needs no model."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import GENERATIONS, SAMPLES
from ptqflow.artifacts.tables import read_metadata, read_table, write_rows
from ptqflow.datamodel import Model
from ptqflow.errors import ArtifactError, ConfigError, explain
from ptqflow.evaluation import benchmark, symptoms
from ptqflow.evaluation.items import GenerationItem
from ptqflow.sources import Sources

_COPIED = [name for name in SAMPLES.names if name in GENERATIONS.names]


class Settings(Model):
    """`metric`: the keys of `evaluation/scoring/<kind>.py`; `version`: the benchmark's, on record; `source`: the data
    set's rows, of a benchmark that is judged by them.
    """

    benchmark: str
    version: int = 1
    metric: dict[str, Any] = {}
    source: Sources | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--generations", required=True, type=Path, help="Parquet file, from generate")
    parser.add_argument("--output", required=True, type=Path, help="Parquet file: the verdict on each of its rows")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write one verdict per row, and say how many rows have none."""
    module = benchmark.load(settings.benchmark)
    scoring = import_module(f"ptqflow.evaluation.scoring.{module.BENCHMARK.kind}")
    own = {key: value for key, value in module.BENCHMARK.defaults.items() if key in scoring.Metric.model_fields}
    try:
        metric = scoring.Metric.model_validate(own | settings.metric)
    except ValidationError as error:
        raise ConfigError(f"--settings: metric: {explain(error, scoring.Metric)}") from None
    rows = read_table(args.generations, GENERATIONS).to_pylist()
    generated = read_metadata(args.generations)
    asked = generated.get("settings", {}).get("benchmark")
    if asked != settings.benchmark:
        raise ArtifactError(f"{args.generations} holds answers to {asked}, not to {settings.benchmark}; generate this task again")
    scored, unscored = list[dict[str, Any]](), dict[str, int]()
    for row in _with_data(rows, settings) if module.BENCHMARK.judged_by_rows else rows:
        verdict = module.score(row, metric)
        if verdict.unscored:
            unscored[verdict.unscored] = unscored.get(verdict.unscored, 0) + 1
        scored.append({name: row[name] for name in _COPIED} | vars(verdict) | symptoms.of(row))
    for reason, count in unscored.items():
        print(f"{count} of {len(rows)} rows have no verdict: {reason}", file=sys.stderr)
    recorded = settings.model_copy(update={"metric": metric.model_dump()}).model_dump(mode="json")
    metadata = provenance(
        "score", recorded, args.code or "", inputs={"generations": sha256(args.generations)}, generated=generated
    )
    scored.sort(key=lambda row: (row["item"], row["completion"]))
    write_rows(args.output, SAMPLES, scored, metadata)


def _with_data(rows: Sequence[dict[str, Any]], settings: Settings) -> Iterator[dict[str, Any]]:
    """Each row with the data set's under `data`, in that one's order, so that one is in memory at a time.

    Raises ArtifactError for rows that were asked otherwise than the data set says now, or are not in it.
    """
    if settings.source is None:
        raise ConfigError(f"--settings: source: {settings.benchmark} is judged by its data set; name it")
    waiting = defaultdict[str, list[dict[str, Any]]](list)
    for row in rows:
        waiting[row["item"]].append(row)
    for item, data in benchmark.items_and_rows(settings.benchmark, settings.benchmark, settings.source):
        for row in waiting.pop(item.id, []):
            if not isinstance(item, GenerationItem) or row["gold"] != item.gold:
                raise ArtifactError(f"item {item.id} has other tests than when it was asked; generate the task again")
            yield row | {"data": data}
        if not waiting:
            return
    raise ArtifactError(f"the data set has no item {', '.join(sorted(waiting)[:3])}, which was asked; generate the task again")
