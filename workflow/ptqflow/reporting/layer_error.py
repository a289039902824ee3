"""The layer-error table: diagnostics of every chunk, side by side (the source paper's Figure 1 and what explains it)."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from ptqflow.errors import ArtifactError
from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import Chunk

BLOCK = "block"


def build(diagnostics: Sequence[tuple[Chunk, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema LAYER_ERROR from tables of schema DIAGNOSTICS, in order of layers.

    Raises ArtifactError when two chunks of a recipe hold the same layer and module: they overlap.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], Chunk] = {}
    for chunk, table in diagnostics:
        for entry in table.to_pylist():
            key = (chunk.platform, chunk.model, chunk.recipe, str(entry["layer"]), entry["module"])
            if key in seen:
                raise ArtifactError(
                    f"{chunk}: layer {entry['layer']} {entry['module']} is also in {seen[key]}; quantize both chunks again"
                )
            seen[key] = chunk
            rows.append({**chunk.model_dump(), **entry})
    order = {name: i for i, name in enumerate(dict.fromkeys((r["platform"], r["model"], r["recipe"]) for r in rows))}
    return sorted(rows, key=lambda r: (order[r["platform"], r["model"], r["recipe"]], r["layer"]))


def printed(rows: Sequence[dict[str, Any]]) -> list[TextTable]:
    """By recipe and linear, over blocks: typical and worst error, clipping, damping; then what is not as the recipe says."""
    parts: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        parts.setdefault((row["platform"], row["model"], row["recipe"], row["module"]), []).append(row)
    body = []
    for who, part in parts.items():
        measured = [r for r in part if r["output_error"] is not None]
        worst = max(measured, key=lambda r: ordered(r["output_error"]), default=None)
        clipped, damped, condition = (
            [r[c] for r in part if r[c] is not None] for c in ("clip_fraction", "damping", "condition_number")
        )
        weights = [ordered(r["weight_error"]) for r in part if r["weight_error"] is not None]
        body.append(
            [
                *who,
                small(median(ordered(r["output_error"]) for r in measured)) if measured else "–",
                *((small(worst["output_error"]), str(worst["layer"])) if worst else ("–", "–")),
                small(median(weights)) if weights else "–",
                number(100 * max(clipped), 2) if clipped else "–",
                number(max(damped), 3) if damped else "–",
                small(max(condition)) if condition else "–",
                str(sum(r["fallback"] is not None for r in part) or "–"),
            ]
        )
    header = ["Platform", "Model", "Recipe", "Module", "Output error, median", "worst", "in block", "Weight error, median"]
    header += ["At an end of the grid, most (%)", "Damping, most", "Condition number, most", "Fallbacks"]
    note = "Errors are relative: |XW - X'W'|² / |XW|² over the calibration set; of module `block`, of what the block adds."
    tables = [TextTable("Errors by recipe and module", header, body, names=4, notes=[note])]
    whole = "Every linear and block is as its recipe says."
    tables.append(_places(rows, "fallback", "Fallbacks", "Instead of the recipe", whole))
    warnings = _places(rows, "warning", "Warnings", "What is doubtful")
    return [*tables, warnings] if warnings.rows else tables


def ordered(error: float) -> float:
    """An error that is no number is the largest: what it is compared with would hide it."""
    return math.inf if math.isnan(error) else error


def small(value: float) -> str:
    """Two significant digits, as 1.2e-03."""
    return f"{value:.1e}".replace("-", "−")


def _places(rows: Sequence[dict[str, Any]], column: str, title: str, heading: str, none: str = "") -> TextTable:
    """Each reason in a column, in how many places, and in which blocks."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if row[column] is not None:
            found.setdefault((row["platform"], row["model"], row["recipe"], row[column]), []).append(row)
    header = ["Platform", "Model", "Recipe", heading, "Places", "Blocks"]
    body = [[*who, str(len(at)), ", ".join(map(str, sorted({r["layer"] for r in at})))] for who, at in found.items()]
    return TextTable(title, header, body, names=4, notes=[] if body else [none])
