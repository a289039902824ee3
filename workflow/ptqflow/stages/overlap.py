"""Stage `overlap`: how much of a task's items stands in the rows that a calibration set was drawn from. Needs no model."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ptqflow.artifacts.datasets import rows_of
from ptqflow.artifacts.evidence_schemas import OVERLAP
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import TOKENS
from ptqflow.artifacts.tables import read_table, write_rows
from ptqflow.calibration import Fields, id_of
from ptqflow.datamodel import Model
from ptqflow.evaluation import benchmark
from ptqflow.evaluation.overlap import overlaps
from ptqflow.sources import CalibrationSource, Sources


class Settings(Model):
    """`calibration`: where its rows are, with the names of their `fields`; the task's benchmark, `source` and `limit`."""

    calibration: CalibrationSource
    fields: Fields = Fields()
    task: str
    benchmark: str
    source: Sources
    limit: Annotated[int, Field(ge=1)] | None = None


def add_arguments(parser: ArgumentParser) -> None:
    """Paths of the stage."""
    parser.add_argument("--tokens", type=Path, required=True, help="tokens.parquet, which says what rows were drawn")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file: one row per item")


def run(settings: Settings, args: Namespace) -> None:
    """Write the overlap of each item."""
    items = benchmark.load_items(settings.task, settings.benchmark, settings.source, settings.limit, say=lambda text: None)
    drawn = {name for rows in read_table(args.tokens, TOKENS, ["rows"]).to_pylist() for name in rows["rows"]}
    rows = (row for number, row in enumerate(rows_of(settings.calibration)) if id_of(row, number, settings.fields) in drawn)
    found = [vars(overlap) | {"seen": overlap.seen} for overlap in overlaps(items, rows)]
    inputs = {"tokens": sha256(args.tokens)}
    write_rows(
        args.output, OVERLAP, found, provenance("overlap", settings.model_dump(mode="json"), args.code or "", inputs=inputs)
    )
