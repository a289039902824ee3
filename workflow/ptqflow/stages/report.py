"""The report of a study, from its tables and figures alone: the answer, then a page per question; one file."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ptqflow.artifacts import table_schemas as schemas
from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.evidence_schemas import OVERLAP_SUMMARY, PUBLISHED
from ptqflow.artifacts.schemas import SELFTEST
from ptqflow.artifacts.tables import read_table
from ptqflow.datamodel import Model
from ptqflow.reporting import (
    accuracy_table,
    captions,
    collapse,
    comparison,
    cost_table,
    flips,
    latency,
    latency_parts,
    layer_error,
    learning,
    made_from,
    noise,
    overlap,
    page,
    published,
    rescue,
    selftest,
    sizes,
    verification,
)
from ptqflow.reporting.render import TextTable

Rows = Sequence[dict[str, Any]]
Printed = Callable[[Rows], TextTable | Sequence[TextTable]]
ACCURACY, COLLAPSE, SAMPLES, LAYERS, LATENCY, CHECKPOINTS = (
    "Accuracy",
    "Collapse and length",
    "Samples",
    "Layers",
    "Latency",
    "Checkpoints",
)
# Page, schema and what prints it, of every table but the answer: in order of the pages, and of the tables on each.
TABLES: dict[str, tuple[str, pa.Schema, Printed]] = {
    "accuracy": (ACCURACY, schemas.ACCURACY, accuracy_table.printed),
    "comparison": ("Recipe × recipe", schemas.COMPARISON, comparison.printed),
    "collapse": (COLLAPSE, schemas.COLLAPSE, collapse.printed),
    "flips": (SAMPLES, schemas.FLIPS, flips.printed),
    "layer_error": (LAYERS, schemas.LAYER_ERROR, layer_error.printed),
    "learning": (LAYERS, schemas.LEARNING, learning.printed),
    "rescue": (LAYERS, schemas.RESCUE_SUMMARY, rescue.printed),
    "latency": (LATENCY, schemas.LATENCY_SUMMARY, lambda rows: (latency.printed(rows), latency.printed_requests(rows))),
    "latency_parts": (LATENCY, schemas.LATENCY_PARTS, latency_parts.printed),
    "cost": ("Cost", schemas.COST, cost_table.printed),
    "sizes": (CHECKPOINTS, schemas.SIZES, sizes.printed),
    "verification": (CHECKPOINTS, schemas.VERIFICATION_SUMMARY, verification.printed),
    "noise": ("Noise", schemas.NOISE, noise.printed),
    "overlap": ("Overlap", OVERLAP_SUMMARY, overlap.printed),
    "published": ("Published", PUBLISHED, published.printed),
    "selftest": ("Devices", SELFTEST, selftest.printed),
    "provenance": ("Provenance", schemas.PROVENANCE, made_from.printed),
}
FIGURES = {
    "pareto": page.ANSWER,
    "accuracy": ACCURACY,
    "collapse": COLLAPSE,
    "layer_error": LAYERS,
    "linear_error": LAYERS,
    "learning_overview": LAYERS,
    "learning": LAYERS,
    "latency": LATENCY,
    "latency_parts": LATENCY,
}
_VIEWER = (
    '<p><a href="{0}">Prompts, completions, answers and log-likelihoods</a>: what the baseline got right and a variant wrong, '
    "and the rest, side by side, in a file of their own beside this one.</p>"
)


class Settings(Model):
    """`samples`: where the viewer of samples lies, as the report names it."""

    samples: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Input and output paths."""
    parser.add_argument("--tables", required=True, type=Path, help="folder of the tables, from aggregate")
    parser.add_argument(
        "--figures", nargs="*", type=Path, default=[], metavar="SVG", help="from plot; a PDF beside one is taken, too"
    )
    parser.add_argument("--captions", required=True, type=Path, help="folder of captions, as reStructuredText")
    parser.add_argument("--output", required=True, type=Path, help="HTML file")


def run(settings: Settings, args: argparse.Namespace) -> None:
    """Write the report."""
    pages = {title: page.Page() for title, _, _ in TABLES.values()} | {page.ANSWER: page.Page()}
    for path in sorted(args.figures, key=lambda path: [*FIGURES, path.stem].index(path.stem)):
        pdf = path.with_suffix(".pdf")
        caption = captions.of_figure(args.captions, path.stem)
        content = pdf.read_bytes() if pdf.is_file() else None
        pages[FIGURES.get(path.stem, page.ANSWER)].figures.append(page.Figure(path.stem, path.read_bytes(), caption, content))
    for name, (title, schema, printed) in TABLES.items():
        rows = read_table(args.tables / f"{name}.parquet", schema).to_pylist()
        if rows:
            grids = printed(rows)
            shown = [grids] if isinstance(grids, TextTable) else list(grids)
            pages[title].tables.append((captions.of_table(args.captions, name), shown))
    if settings.samples:
        pages[SAMPLES].lead = _VIEWER.format(settings.samples)
    full = {title: content for title, content in pages.items() if content.tables or content.figures or content.lead}
    answers = read_table(args.tables / "answer.parquet", schemas.ANSWER).to_pylist()
    write_text(args.output, page.page(answers, full))
