"""The table of rescued blocks: what each attempt gained and cost."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ptqflow.reporting.render import TextTable
from ptqflow.reporting.variants import Rescued


def build(tables: Sequence[tuple[Rescued, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema RESCUE_SUMMARY from tables of schema RESCUE."""
    return [{**who.model_dump(), **row} for who, table in tables for row in table.to_pylist()]


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading, in order of attempts."""
    header = [
        "Platform",
        "Model",
        "Recipe",
        "Block",
        "Rung",
        "Error untrained",
        "before",
        "after",
        "Score before",
        "after",
        "Kept",
        "At 8 bits",
    ]
    header += ["Seconds", "Calibrations"]
    body = [
        [
            *(r["platform"], r["model"], r["recipe"], str(r["layer"]), r["rung"]),
            "–" if r["error_untrained"] is None else f"{r['error_untrained']:.3g}",
            *(f"{r['error_before']:.3g}", f"{r['error_after']:.3g}", f"{r['score_before']:.1f}", f"{r['score_after']:.1f}"),
            *("yes" if r["kept"] else "no", r["at_8_bits"] or "–", f"{r['seconds']:.1f}", f"{r['calibrations']:.1f}"),
        ]
        for r in rows
    ]
    notes = ["Errors are held out, relative to what the float block adds; calibrations are those of one block by its recipe."]
    return TextTable("Rescued blocks", header, body, names=5, notes=notes)
