"""One figure from the tables, once per file that is asked for.

`figure` names a module of `ptqflow.reporting.figures`; only that one is imported.
"""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from ptqflow.artifacts.atomic import atomic_path, canonical_json
from ptqflow.artifacts.hashing import sha256
from ptqflow.artifacts.provenance import provenance
from ptqflow.artifacts.study_tables import SCHEMA_OF
from ptqflow.artifacts.tables import read_table
from ptqflow.datamodel import Model
from ptqflow.errors import ConfigError
from ptqflow.reporting import catalogue, theme

FORMS = ("svg", "pdf", "png")


class Settings(Model):
    """Which figure."""

    figure: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option per table, each needed only by the figures that draw it, and the picture."""
    for name in sorted({table for figure in catalogue.FIGURES for table in catalogue.tables_of(figure)}):
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="PARQUET", help=f"table {name}, from aggregate")
    parser.add_argument("--output", required=True, nargs="+", type=Path, help="pictures: .svg, .pdf or .png")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Draw and write the figure."""
    forms = {path: path.suffix.removeprefix(".") for path in args.output}
    if wrong := [path for path, form in forms.items() if form not in FORMS]:
        raise ConfigError(f"--output {wrong[0]}: figures are .svg, .pdf or .png; change the suffix")
    drawn = catalogue.tables_of(settings.figure)
    module = import_module(f"ptqflow.reporting.figures.{settings.figure}")
    missing = [name for name in drawn if getattr(args, name) is None]
    if missing:
        raise ConfigError(f"figure {settings.figure} needs {' and '.join('--' + m.replace('_', '-') for m in missing)}")
    tables = {name: read_table(getattr(args, name), SCHEMA_OF[name]) for name in drawn}
    chart = module.chart(tables)
    inputs = {name: sha256(getattr(args, name)) for name in drawn}
    metadata = provenance("plot", settings.model_dump(mode="json"), args.code or "", inputs=inputs)
    for path, form in forms.items():
        picture = theme.render(chart, form)
        with atomic_path(path) as temporary:
            temporary.write_bytes(with_metadata(picture, metadata) if form == "svg" else picture)


def with_metadata(svg: bytes, metadata: dict[str, Any]) -> bytes:
    """The picture with `metadata` as JSON in its `<metadata>` element (a PDF or PNG carries none)."""
    head, tag, rest = svg.partition(b">")
    return head + tag + f"<metadata>{escape(canonical_json(metadata))}</metadata>".encode() + rest
