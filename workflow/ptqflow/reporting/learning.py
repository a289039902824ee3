"""What every step and check of learned transforms measured, block by block; its curves; and what became of them, by recipe."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import Chunk

LOSS, HELD_OUT = "loss", "held_out_loss"
POINTS = 60  # of a curve that are drawn; what is no plain step (a rollback) is drawn besides
_PLAIN = (None, "best")
Row = dict[str, Any]


def build(losses: Sequence[tuple[Chunk, pa.Table]]) -> list[Row]:
    """Rows of schema LEARNING from tables of schema LOSSES, in their order."""
    return [{**chunk.model_dump(), **row} for chunk, table in losses for row in table.to_pylist()]


def thinned(curve: Sequence[Row]) -> list[Row]:
    """At most POINTS of the plain steps, evenly, with the first and the last; and every event."""
    kept = {round(i * (len(curve) - 1) / (POINTS - 1)) for i in range(POINTS)}
    return [row for i, row in enumerate(curve) if i in kept or row["event"] not in _PLAIN]


def curves(rows: Sequence[Row]) -> dict[tuple[str, str, str, int], list[Row]]:
    """By platform, model, recipe and block: its held-out losses, or where nothing was held out its losses, in order of steps.

    A block of which nothing is quantized has learned nothing, and has no curve.
    """
    found: dict[tuple[str, str, str, int], dict[str, list[Row]]] = {}
    for row in rows:
        place = (row["platform"], row["model"], row["recipe"], row["layer"])
        found.setdefault(place, {}).setdefault(row["measure"], []).append(row)
    known = {place: by.get(HELD_OUT, by.get(LOSS, [])) for place, by in found.items()}
    return {place: sorted(curve, key=lambda r: r["step"]) for place, curve in known.items() if curve}


def before_rescue(attempts: Sequence[Row]) -> list[str]:
    """Whose losses are not those of what is served, from rows of schema RESCUE_SUMMARY: losses are of the first calibration."""
    replaced: dict[tuple[str, str, str], set[int]] = {}
    for row in attempts:
        if row["kept"]:
            replaced.setdefault((row["recipe"], row["model"], row["platform"]), set()).add(row["layer"])
    found = [
        f"{recipe} ({model} on {platform}), block{'s' * (len(layers) > 1)} {', '.join(map(str, sorted(layers)))}"
        for (recipe, model, platform), layers in replaced.items()
    ]
    return [f"Before rescue, which calibrated again and replaced: {'; '.join(found)} (table rescue)."] if found else []


def printed(rows: Sequence[Row]) -> TextTable:
    """By recipe: how far the held-out loss of its blocks fell, and how often training was thrown back."""
    by_recipe: dict[tuple[str, str, str], list[list[Row]]] = {}
    for (platform, model, recipe, _), curve in curves(rows).items():
        by_recipe.setdefault((platform, model, recipe), []).append(curve)
    body = []
    for place, found in by_recipe.items():
        ratios = [min(r["value"] for r in curve) / curve[0]["value"] for curve in found if curve[0]["value"] > 0]
        thrown = [r for r in rows if (r["platform"], r["model"], r["recipe"]) == place and r["event"] == "rollback"]
        numbers = [number(100 * value, 1) for value in (median(ratios), min(ratios), max(ratios))] if ratios else ["–"] * 3
        body.append([*place, str(len(found)), *numbers, str(len(thrown)), str(len({r["layer"] for r in thrown}))])
    header = ["Platform", "Model", "Recipe", "Blocks", "Best loss / first (%), median", "least", "most", "Rollbacks", "in blocks"]
    notes = [
        "Losses on the held-out part of the calibration set where the recipe holds one out, else on what it learns from.",
        "Of rescued blocks: before rescue.",
    ]
    return TextTable("Learning", header, body, names=3, notes=notes)
