"""Published numbers beside ours, and what they say of themselves: which averages their own cells contradict, which cells no run
can give, and which differences from the baseline are larger than the noise of two runs.

Noise is binomial: a score over n items and k seeds is taken for a share of n k independent trials (two more right and two more
wrong: Agresti and Coull 1998), a difference for one of two independent runs. Runs on the same items differ by less, seeds of one
item by more.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ptqflow.datamodel import Model
from ptqflow.errors import ArtifactError
from ptqflow.reporting.render import Bold, TextTable, number
from ptqflow.reporting.variants import BASELINE

AVERAGE, ACCURACY = "average", "accuracy"
_Z = 1.959964
_Blank = BeforeValidator(lambda text: None if text == "" else text)


class Published(Model):
    """A row of `resources/reference/*.csv`: one value as printed."""

    source: str
    table: str
    date: str
    device: str
    engine: str
    protocol: str
    seeds: Annotated[int | None, _Blank]
    tensor_parallel: Annotated[int | None, _Blank]
    model: str
    recipe: str
    task: str
    metric: str
    items: Annotated[int | None, _Blank]
    value: Annotated[str, Field(pattern=r"^-?\d+(\.\d+)?$")]
    note: str

    @property
    def run(self) -> tuple[str, ...]:
        """What rows of one run have in common."""
        return (self.source, self.table, self.device, self.model, self.recipe, self.note)

    @property
    def digit(self) -> Decimal:
        """The value of one of the last digit printed."""
        return Decimal(1).scaleb(-len(self.value.partition(".")[2]))


class Ours(Model):
    """What this study calls the published models, recipes and tasks: our name to theirs."""

    models: dict[str, str] = {}
    recipes: dict[str, str] = {}
    tasks: dict[str, str] = {}


def read(path: Path) -> list[Published]:
    """The rows of one file. Raises ArtifactError naming the line that is none."""
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        found = []
        for row in rows:
            try:
                found.append(Published.model_validate(row))
            except ValueError as error:
                raise ArtifactError(f"{path}, line {rows.line_num}: {' '.join(str(error).split())}; correct it") from None
    return found


def build(published: Sequence[Published], scores: Sequence[Mapping[str, Any]], ours: Ours) -> list[dict[str, Any]]:
    """Rows of schema PUBLISHED, in the order of `published`; those of runs that we have too, once for each of ours."""
    means = _means(published)
    bases = {(*row.run[:4], row.task, row.metric): row for row in published if row.recipe == BASELINE and row.metric == ACCURACY}
    rows = []
    for row in published:
        base = bases.get((*row.run[:4], row.task, row.metric)) if row.recipe != BASELINE else None
        stated = row.model_dump() | {"printed": row.value, "value": float(row.value), "note": _notes(row, means) or None}
        stated |= _difference(row, base)
        rows += [stated | own for own in _own(row, scores, ours)] or [stated]
    return rows


def _means(published: Sequence[Published]) -> dict[tuple[str, ...], list[Published]]:
    """The accuracy cells of each run, without its average."""
    cells: dict[tuple[str, ...], list[Published]] = {}
    for row in published:
        if row.metric == ACCURACY and row.task != AVERAGE:
            cells.setdefault(row.run, []).append(row)
    return cells


def _notes(row: Published, means: Mapping[tuple[str, ...], Sequence[Published]]) -> str:
    """The row's own note, and what contradicts it: its cells' mean, or the number of items."""
    said = [row.note] if row.note else []
    cells = means.get(row.run, ())
    if row.task == AVERAGE and row.metric == ACCURACY and len(cells) > 1:
        mean = sum((Decimal(cell.value) for cell in cells), Decimal(0)) / len(cells)
        if abs(mean - Decimal(row.value)) > max(row.digit, *(cell.digit for cell in cells)):
            said.append(f"its {len(cells)} cells average {mean.quantize(row.digit)}, not {row.value}")
    elif row.metric == ACCURACY and row.items and row.seeds == 1:
        right = round(float(row.value) * row.items / 100)
        if abs(Decimal(100 * right) / row.items - Decimal(row.value)) > row.digit:
            said.append(f"{row.value} % is no whole number of {row.items} items")
    return "; ".join(said)


def _variance(row: Published) -> float:
    """Of the score in percent."""
    trials = (row.items or 0) * (row.seeds or 1) + 4
    share = (float(row.value) / 100 * (trials - 4) + 2) / trials
    return 1e4 * share * (1 - share) / trials


def _difference(row: Published, base: Published | None) -> dict[str, Any]:
    """Baseline - score in points, the 95 % noise of such a difference, and whether it is larger than that."""
    if base is None:
        return {}
    drop = float(base.value) - float(row.value)
    if not (row.items and base.items):
        return {"drop": drop}
    noise = _Z * math.sqrt(_variance(row) + _variance(base))
    return {"drop": drop, "noise": noise, "beyond_noise": abs(drop) > noise}


def _own(row: Published, scores: Sequence[Mapping[str, Any]], ours: Ours) -> Iterator[dict[str, Any]]:
    """Our scores of the same model, recipe, task and metric."""
    for score in scores:
        theirs = ours.models.get(score["model"]), ours.recipes.get(score["recipe"]), ours.tasks.get(score["task"])
        if score["score"] is not None and (*theirs, score["metric"]) == (row.model, row.recipe, row.task, row.metric):
            yield {
                "our_platform": score["platform"],
                "our_form": score["form"],
                "our_engine": score["engine"],
                "our_items": score["items"],
                "our_seeds": score["seeds"],
                "our_score": score["score"],
                "our_low": score["score_low"],
                "our_high": score["score_high"],
            }


def printed(rows: Sequence[Mapping[str, Any]]) -> list[TextTable]:
    """Ours beside published; what does not add up; which published differences are larger than their noise, by source."""
    return [_beside(rows), _contradicted(rows), _beyond(rows)]


def _place(row: Mapping[str, Any]) -> str:
    table = str(row["table"])
    return f"{row['source']}, {f'table {table}' if table[:1].isdigit() else table}"


def _beside(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    body = []
    for row in rows:
        if row.get("our_score") is not None:
            low, high = row.get("our_low"), row.get("our_high")
            outside = low is not None and high is not None and not low <= row["value"] <= high
            own = f"{number(row['our_score'], 2)} [{number(low, 2)}, {number(high, 2)}]"
            body.append(
                [
                    row["model"],
                    row["recipe"],
                    row["task"],
                    _place(row),
                    row["device"],
                    row["printed"],
                    Bold(own) if outside else own,
                ]
            )
    notes = [
        "Ours with its 95 % interval, bold where the published value is outside of it. Rows are there where model, recipe and "
        "task are what was published; an interval is of our items and seeds alone.",
    ]
    if not body:
        notes = ["This study has no model, recipe and task together that was published (resources/reference)."]
    return TextTable(
        "Published numbers beside ours", ["Model", "Recipe", "Task", "Source", "Device", "Published", "Ours"], body, 5, notes
    )


def _contradicted(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    marks = ("cells average", "no whole number")
    said = {
        (row["model"], row["recipe"], row["task"], _place(row), row["printed"], row["note"]): None
        for row in rows
        if any(mark in (row["note"] or "") for mark in marks)
    }
    header = ["Model", "Recipe", "Task", "Source", "Published", "What contradicts it"]
    return TextTable("Published numbers that do not add up", header, [list(line) for line in said], 4)


def _beyond(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    tested: dict[tuple[str, str], dict[tuple[str, ...], bool]] = {}
    for row in rows:
        if row.get("beyond_noise") is not None:
            run = (row["device"], row["model"], row["task"], row["note"] or "")
            tested.setdefault((_place(row), row["recipe"]), {})[run] = row["beyond_noise"]
    body = []
    for (place, recipe), found in tested.items():
        names = [f"{model} {task}" for (_, model, task, _), beyond in found.items() if beyond]
        body.append([place, recipe, f"{len(names)} of {len(found)}", ", ".join(names) or "none"])
    notes = [
        "Larger than the 95 % binomial noise of a difference of two independent runs of as many items and seeds. Not corrected "
        "for the number of differences, of which one in twenty is expected to be.",
    ]
    title = "Published differences from the baseline that are larger than their noise"
    return TextTable(title, ["Source", "Recipe", "Larger", "Which"], body, 4, notes)
