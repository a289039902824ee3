"""Score what an engine said: extract answers and compare them with gold, by the benchmark's own scorer. Needs no model."""

import argparse
import sys
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

_COPIED = [name for name in SAMPLES.names if name in GENERATIONS.names]


class Settings(Model):
    """`metric`: the keys of `evaluation/scoring/<kind>.py`; `version`: the benchmark's, on record."""

    benchmark: str
    version: int = 1
    metric: dict[str, Any] = {}


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
    scored, unscored = [], dict[str, int]()
    for row in rows:
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
    write_rows(args.output, SAMPLES, scored, metadata)
