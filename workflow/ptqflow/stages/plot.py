"""One figure from the tables. `figure` names a module of `ptqflow.reporting.figures`; only that one is imported."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ptqflow.artifacts.atomic import atomic_path, canonical_json
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.table_schemas import ACCURACY, ANSWER, COLLAPSE, LATENCY_PARTS, LATENCY_SUMMARY, LAYER_ERROR
from ptqflow.artifacts.tables import read_table
from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.reporting import catalogue, theme

SCHEMAS = {
    **{"accuracy": ACCURACY, "answer": ANSWER, "collapse": COLLAPSE, "layer_error": LAYER_ERROR},
    **{"latency": LATENCY_SUMMARY, "latency_parts": LATENCY_PARTS},
}


class Settings(Model):
    """Which figure."""

    figure: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per table, each needed only by the figures that draw it, and the picture."""
    for name in SCHEMAS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="PARQUET", help=f"table {name}, from aggregate")
    parser.add_argument("--output", required=True, type=Path, help="picture: .svg or .png")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Draw and write the figure."""
    form = args.output.suffix.removeprefix(".")
    if form not in ("svg", "png"):
        raise ConfigError(f"--output {args.output}: figures are .svg or .png; change the suffix")
    drawn = catalogue.tables_of(settings.figure)
    module = import_module(f"ptqflow.reporting.figures.{settings.figure}")
    missing = [name for name in drawn if getattr(args, name) is None]
    if missing:
        raise ConfigError(f"figure {settings.figure} needs {' and '.join('--' + m.replace('_', '-') for m in missing)}")
    tables = {name: read_table(getattr(args, name), SCHEMAS[name]) for name in drawn}
    picture = theme.render(module.chart(tables), form)
    if form == "svg":
        inputs = {name: sha256(getattr(args, name)) for name in drawn}
        picture = with_metadata(picture, provenance("plot", settings.model_dump(mode="json"), args.code or "", inputs=inputs))
    with atomic_path(args.output) as temporary:
        temporary.write_bytes(picture)


def with_metadata(svg: bytes, metadata: dict[str, Any]) -> bytes:
    """The picture with `metadata` as JSON in its `<metadata>` element (a PNG carries none)."""
    head, tag, rest = svg.partition(b">")
    return head + tag + f"<metadata>{escape(canonical_json(metadata))}</metadata>".encode() + rest
