"""The overlap table: how many items of each task stand in each calibration set, and the scores that this marks."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ptqflow.datamodel import Model
from ptqflow.evaluation.overlap import LONGEST, MARKED, SEEN, SHORTEST
from ptqflow.reporting.render import Bold, TextTable, number


class Pair(Model):
    """A calibration set, as drawn for a model, and a task; `recipes` are those of the model that calibrate on it."""

    model: str
    calibration: str
    task: str
    recipes: tuple[str, ...] = ()


def build(files: Sequence[tuple[Pair, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema OVERLAP_SUMMARY."""
    rows = []
    for pair, table in files:
        judged, seen = (int(pc.sum(column).as_py() or 0) for column in (pc.greater(table["ngrams"], 0), table["seen"]))
        who = {"model": pair.model, "calibration": pair.calibration, "task": pair.task}
        rows.append(who | {"items": len(table), "judged": judged, "seen": seen, "marked": seen > MARKED * judged})
    return rows


def touched(files: Sequence[tuple[Pair, pa.Table]]) -> dict[tuple[str, str, str], str]:
    """(model, recipe, task) -> what is said of scores on a task whose items stand in the recipe's calibration set."""
    return {
        (pair.model, recipe, pair.task): f"{row['seen']} of {row['judged']} items stand in its calibration set {pair.calibration}"
        for (pair, _), row in zip(files, build(files), strict=True)
        for recipe in pair.recipes
        if row["marked"]
    }


def mark(scores: Sequence[dict[str, Any]], said_of: Mapping[tuple[str, str, str], str]) -> None:
    """Say so in the notes of accuracy rows; `said_of` as of `touched`."""
    for score in scores:
        if said := said_of.get((score["model"], score["recipe"], score["task"])):
            score["note"] = f"{score['note']}; {said}" if score.get("note") else said


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """One line per calibration set and task."""
    body = []
    for row in rows:
        share = number(100 * row["seen"] / row["judged"], 1) if row["judged"] else "–"
        cells = [str(row["items"]), str(row["judged"]), str(row["seen"]), share]
        body.append([row["model"], row["calibration"], row["task"], *(Bold(cell) if row["marked"] else cell for cell in cells)])
    notes = [
        f"Seen: at least {SEEN:.0%} of an item's {LONGEST}-grams of words are in the rows of the calibration set; of "
        f"items of {SHORTEST} to {LONGEST - 1} words, all of it. Shorter ones are not judged.",
        f"Bold: more than {MARKED:.0%} are; notes below the accuracy table then name each score that this touches.",
    ]
    header = ["Model", "Calibration", "Task", "Items", "Judged", "Seen", "Share (%)"]
    return TextTable("Items that stand in calibration sets", header, body, 3, notes)
