"""The report of a study, from its tables and figures alone: the answer, then a page per question; one file."""

import argparse
from pathlib import Path

from ptqflow.artifacts.atomic import write_text
from ptqflow.artifacts.study_tables import SCHEMA_OF
from ptqflow.artifacts.tables import read_table
from ptqflow.datamodel import Model
from ptqflow.reporting import captions, page
from ptqflow.reporting.paged import ACCURACY, COLLAPSE, LATENCY, LAYERS, SAMPLES, TABLES, grids

FIGURES = {
    "pareto": page.ANSWER,
    "accuracy": ACCURACY,
    "collapse": COLLAPSE,
    "layer_error": LAYERS,
    "linear_error": LAYERS,
    "outliers": LAYERS,
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
    pages = {title: page.Page() for title, _ in TABLES.values()} | {page.ANSWER: page.Page()}
    for path in sorted(args.figures, key=lambda path: [*FIGURES, path.stem].index(path.stem)):
        pdf = path.with_suffix(".pdf")
        caption = captions.of_figure(args.captions, path.stem)
        content = pdf.read_bytes() if pdf.is_file() else None
        pages[FIGURES.get(path.stem, page.ANSWER)].figures.append(page.Figure(path.stem, path.read_bytes(), caption, content))
    for name, (title, _) in TABLES.items():
        rows = read_table(args.tables / f"{name}.parquet", SCHEMA_OF[name]).to_pylist()
        if rows:
            pages[title].tables.append((captions.of_table(args.captions, name), grids(name, rows)))
    if settings.samples:
        pages[SAMPLES].lead = _VIEWER.format(settings.samples)
    full = {title: content for title, content in pages.items() if content.tables or content.figures or content.lead}
    answers = read_table(args.tables / "answer.parquet", SCHEMA_OF["answer"]).to_pylist()
    write_text(args.output, page.page(answers, full))
