"""Evaluate one checkpoint on all tasks of a suite, for one run seed, with one loaded model."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ptqflow.artifacts.datasets import data_files
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.tables import write_rows
from ptqflow.datamodel import Model
from ptqflow.devices.device import select
from ptqflow.engines.transformers_engine import load
from ptqflow.evaluation.tasks import TaskConfig, kind_module, load_items


class Settings(Model):
    """`tasks` by name; `seed`: the run seed, from which each completion's own is derived; `batch_size` in sequences."""

    tasks: Annotated[dict[str, TaskConfig], Field(min_length=1)]
    seed: int = 0
    batch_size: Annotated[int, Field(ge=1)] = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--platform", required=True, help="where to run: cpu, gpu or ascend")
    parser.add_argument("--checkpoint", required=True, type=Path, help="manifest.json of the model or checkpoint")
    parser.add_argument("--output", required=True, type=Path, help="Parquet file: one row per item and completion, or window")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write the samples of every task, sorted by task, item, seed and completion."""
    device = select(args.platform)
    tasks = {name: task.resolved() for name, task in sorted(settings.tasks.items())}
    items = {name: load_items(name, task) for name, task in tasks.items()}  # before the model: bad data should fail at once
    Manifest.read(args.checkpoint).verify(args.checkpoint.parent)
    engine = load(args.checkpoint.parent, device)
    rows = []
    for name, task in tasks.items():
        evaluate = import_module(kind_module(task)).evaluate
        rows += evaluate(name, task, items[name], engine, settings.seed, settings.batch_size)
    rows.sort(key=lambda row: (row["task"], row["item"], row["seed"], row["completion"]))
    hashes = HashCache()
    inputs = {"checkpoint": hashes.sha256(args.checkpoint)} | {
        str(file): hashes.sha256(file) for task in tasks.values() for file in data_files(task.source)
    }
    metadata = provenance("evaluate", settings.model_dump(mode="json"), args.code or "", device=device.name, inputs=inputs)
    write_rows(args.output, SAMPLES, rows, metadata)
