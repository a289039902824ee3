"""Captions of tables and figures as HTML, from the reStructuredText that Snakemake's own report shows, too."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
from docutils.core import publish_parts

_QUIET = {"report_level": 3, "halt_level": 3, "file_insertion_enabled": False, "raw_enabled": False, "doctitle_xform": False}


def of_table(folder: Path, name: str) -> str:
    """Of a table; empty where it has none."""
    path = folder / f"{name}.rst"
    return _html(path.read_text(), None) if path.is_file() else ""


def of_figure(folder: Path, name: str) -> str:
    """Of a figure: all are in one file."""
    return _html((folder / "figure.rst").read_text(), name)


def _html(text: str, figure: str | None) -> str:
    # Snakemake fills captions in as templates that know its job; what they ask is which figure it is of.
    job: Any = SimpleNamespace(wildcards=SimpleNamespace(figure=figure))
    source = jinja2.Environment(autoescape=False).from_string(text).render(snakemake=job)  # HTML is made below, of plain text
    parts = publish_parts(source, writer="html5", settings_overrides=_QUIET)
    return str(parts["fragment"]).strip()
