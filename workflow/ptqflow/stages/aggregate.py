"""Tables across models, recipes and tasks, from the samples, diagnostics, timings and manifests of a study.

Settings say what each input file is, in the order of the paths on the command line: nothing is read from a path's name.
Outputs, in the folder `--tables`:

    accuracy     .parquet .csv .md .tex .html
    layer_error  .parquet .csv
    latency      .parquet .csv .md .html
    sizes        .parquet .csv .md .html
    verification .parquet .csv .md .html

All are always written; a kind of input that the study lacks gives a table without rows.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.hashing import HashCache
from ptqflow.artifacts.manifests import Manifest
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.schemas import (
    ACCURACY,
    DIAGNOSTICS,
    LATENCY,
    LATENCY_SUMMARY,
    LAYER_ERROR,
    SAMPLES,
    SIZES,
    VERIFICATION,
    VERIFICATION_SUMMARY,
)
from ptqflow.artifacts.tables import read_table, to_table, write_table
from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.progress import progress
from ptqflow.reporting import accuracy, accuracy_table, latency, layer_error, render, sizes, verification
from ptqflow.reporting.variants import Chunk, Suite, Timing, Variant, refuse_duplicates

KINDS = ("evaluation", "diagnostics", "latency", "checkpoints", "verification")


class Settings(Model):
    """What each input file is, one entry per path and in the same order; `seed` is that of the bootstrap."""

    evaluation: tuple[Suite, ...] = ()
    diagnostics: tuple[Chunk, ...] = ()
    latency: tuple[Timing, ...] = ()
    checkpoints: tuple[Variant, ...] = ()
    verification: tuple[Variant, ...] = ()
    seed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input files by kind, and the folder of the tables."""
    parser.add_argument("--evaluation", nargs="*", type=Path, default=[], metavar="PARQUET", help="samples, from evaluate")
    parser.add_argument("--diagnostics", nargs="*", type=Path, default=[], metavar="PARQUET", help="errors, from quantize")
    parser.add_argument("--latency", nargs="*", type=Path, default=[], metavar="PARQUET", help="timings, from measure")
    parser.add_argument("--checkpoints", nargs="*", type=Path, default=[], metavar="MANIFEST", help="from fetch and export")
    parser.add_argument("--verification", nargs="*", type=Path, default=[], metavar="PARQUET", help="checks, from verify")
    parser.add_argument(
        "--tables",
        required=True,
        type=Path,
        help="folder: accuracy, layer_error, latency, sizes and verification as .parquet, .csv, ...",
    )


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write all tables and print the accuracy table."""
    for kind in KINDS:
        listed, paths = getattr(settings, kind), getattr(args, kind)
        if len(listed) != len(paths):
            raise ConfigError(f"settings.{kind} names {len(listed)} files, --{kind} gives {len(paths)}; they go one to one")
        refuse_duplicates(kind, listed)
    paths = [path for kind in KINDS for path in getattr(args, kind)]
    with progress("aggregate", len(paths), "files") as bar:

        def read(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
            bar.update()
            return read_table(path, schema, columns)

        samples = [
            (suite.variant, read(path, SAMPLES, accuracy.READS))
            for suite, path in zip(settings.evaluation, args.evaluation, strict=True)
        ]
        errors = [(c, read(path, DIAGNOSTICS)) for c, path in zip(settings.diagnostics, args.diagnostics, strict=True)]
        timings = [(t, read(path, LATENCY)) for t, path in zip(settings.latency, args.latency, strict=True)]
        verified = [(v, read(path, VERIFICATION)) for v, path in zip(settings.verification, args.verification, strict=True)]
        manifests = [(v, Manifest.read(path)) for v, path in zip(settings.checkpoints, args.checkpoints, strict=True)]
        bar.update(len(manifests))

    cache = HashCache()
    inputs = {str(path): cache.sha256(path) for path in paths}
    metadata = provenance("aggregate", settings.model_dump(mode="json"), args.code or "", inputs=inputs)

    def write(name: str, schema: pa.Schema, rows: Sequence[dict[str, Any]]) -> None:
        table = to_table(schema, rows)
        write_table(args.tables / f"{name}.parquet", table, schema, metadata)
        write_text(args.tables / f"{name}.csv", render.csv(table))

    def publish(name: str, grids: Sequence[render.Grid]) -> None:
        write_text(args.tables / f"{name}.md", render.markdown(grids))
        write_text(args.tables / f"{name}.html", render.html(grids[0].title, grids))

    scores = accuracy.build(samples, settings.seed)
    grids = accuracy_table.printed(scores)
    write("accuracy", ACCURACY, scores)
    publish("accuracy", grids)
    write_text(args.tables / "accuracy.tex", render.latex(grids))
    write("layer_error", LAYER_ERROR, layer_error.build(errors))
    times = latency.build(timings)
    write("latency", LATENCY_SUMMARY, times)
    publish("latency", [latency.printed(times)])
    weights = sizes.build(manifests)
    write("sizes", SIZES, weights)
    publish("sizes", [sizes.printed(weights)])
    checked = verification.build(verified)
    write("verification", VERIFICATION_SUMMARY, checked)
    publish("verification", [verification.printed(checked)])
    print(render.markdown(grids[:1]))
