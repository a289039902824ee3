"""Ask one checkpoint, in one engine, all of one task at one seed; keep everything the engine said. Nothing is judged here."""

import argparse
import math
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ptqflow.artifacts.datasets import data_files
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import GENERATIONS
from ptqflow.artifacts.tables import write_rows
from ptqflow.datamodel import Model
from ptqflow.devices.device import select
from ptqflow.engines.protocol import load
from ptqflow.errors import ConfigError, explain
from ptqflow.evaluation import benchmark
from ptqflow.sources import Sources, each


class Settings(Model):
    """`protocol`: the keys of `evaluation/requests/<kind>.py`; `seed`: the run seed, from which each completion's own is derived;
    `batch_size` in sequences.
    """

    task: str
    benchmark: str
    source: Sources
    protocol: dict[str, Any] = {}
    engine: str = "transformers"
    seed: int = 0
    batch_size: Annotated[int, Field(ge=1)] = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", required=True, help="where to run: cpu, gpu or ascend")
    parser.add_argument("--checkpoint", required=True, type=Path, help="manifest.json of the model or checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="Parquet file: one row per item and completion, or window")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write what the engine said, sorted by item and completion."""
    device = select(args.platform)
    definition = benchmark.load(settings.benchmark).BENCHMARK
    requests = import_module(f"ptqflow.evaluation.requests.{definition.kind}")
    own = {key: value for key, value in definition.defaults.items() if key in requests.Protocol.model_fields}
    try:
        protocol = requests.Protocol.model_validate(own | settings.protocol)
    except ValidationError as error:
        raise ConfigError(f"--settings: protocol: {explain(error, requests.Protocol)}") from None
    limit = None if definition.kind == "perplexity" else protocol.limit  # a text is limited by windows
    items = benchmark.load_items(
        settings.task, settings.benchmark, settings.source, limit, partial(print, file=sys.stderr)
    )  # before the model: fail at once
    Manifest.read(args.checkpoint).verify(args.checkpoint.parent)
    engine = load(settings.engine, args.checkpoint.parent, device)
    rows = requests.generate(settings.task, items, engine, protocol, settings.seed, settings.batch_size)
    if broken := sum(map(_broken, rows)):
        print(f"{settings.task}: the model's logits are not finite in {broken} of {len(rows)} rows", file=sys.stderr)
    who = {"task": settings.task, "kind": definition.kind, "seed": settings.seed}
    hashes = HashCache()
    inputs = {"checkpoint": hashes.sha256(args.checkpoint)} | {
        str(file): hashes.sha256(file) for source in each(settings.source) for file in data_files(source)
    }
    recorded = settings.model_copy(update={"protocol": protocol.model_dump()}).model_dump(mode="json")
    served = engine.settings()
    metadata = provenance("generate", recorded, args.code or "", device=device.name, engine=served, inputs=inputs)
    rows.sort(key=lambda row: (row["item"], row["completion"]))
    write_rows(args.output, GENERATIONS, [who | row for row in rows], metadata)


def _broken(row: dict[str, Any]) -> bool:
    numbers = [*row.get("choice_logprobs", []), row.get("nll", 0.0)]
    return row.get("finish_reason") == "not_finite" or any(map(math.isnan, numbers))
