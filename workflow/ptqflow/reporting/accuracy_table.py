"""The accuracy table as printed: model x recipe by task, with what of it is more than noise."""

from collections.abc import Callable, Sequence
from typing import Any

from ptqflow.evaluation.statistics import LEVEL, drop_class
from ptqflow.reporting.accuracy import AVERAGE, PERPLEXITY
from ptqflow.reporting.render import Bold, Grid, number
from ptqflow.reporting.variants import BASELINE

Row = dict[str, Any]
Lines = dict[tuple[str, ...], dict[str, Row]]  # (platform, model, recipe, form[, engine]) -> task -> row
_NAMES = ["Platform", "Model", "Recipe", "Form", "Engine"]
_LEGEND = [
    "Scores in percent. Drop: baseline − score in points, on the items and seeds that both have; in brackets its 95 % "
    "interval (paired bootstrap over items).",
    "Bold: the drop differs from zero at 5 %, by Holm's correction over the recipes of a column: where no recipe changes "
    "anything, one column in twenty at most has a bold drop. Everything else may be noise, also where an interval excludes zero.",
    "Class: the most probable of lossless (≤ 1 point), fair (1 to 3) and risky (≥ 3), with its probability under a flat prior "
    "over the shares of items that are lost, gained and unchanged.",
    "Perplexity (lower is better): in parentheses the change against the baseline with its 95 % interval over blocks of windows.",
    "n/a: not evaluated. –: nothing to compare with.",
]


def printed(rows: Sequence[Row]) -> list[Grid]:
    """Scores with average, drop, class and recovery; then every task's drop; then truncation, if anything was truncated."""
    lines: Lines = {}
    several = len({row["engine"] for row in rows}) > 1  # one engine goes without saying
    for row in rows:
        key = (row["platform"], row["model"], row["recipe"], row["form"] or "–", *([row["engine"]] if several else []))
        lines.setdefault(key, {})[row["task"]] = row
    tasks = list(dict.fromkeys(r["task"] for r in rows if r["metric"] != PERPLEXITY and r["task"] != AVERAGE))
    perplexities = list(dict.fromkeys(r["task"] for r in rows if r["metric"] == PERPLEXITY))
    grids = [_scores(lines, tasks, perplexities)]
    if tasks:
        drops = {key: cells for key, cells in lines.items() if key[2] != BASELINE}
        grids.append(_by_task("Drop by task (points)", drops, tasks, _drop))
    if any(row.get("truncated") for row in rows):
        grids.append(_by_task("Completions cut at the token limit (%)", lines, tasks, _truncated))
    return grids


def _scores(lines: Lines, tasks: Sequence[str], perplexities: Sequence[str]) -> Grid:
    names = _names(lines)
    header = [*names, *tasks]
    header += ["Average", "Drop", "Class", "Recovery (%)"] if tasks else []
    body = []
    for key, cells in lines.items():
        line = [*key, *(_score(cells.get(task)) for task in tasks)]
        if tasks:
            average = cells.get(AVERAGE, {})
            line += [_score(average), _drop(average), _class(average), number(average.get("recovery"), 1)]
        body.append([*line, *(_perplexity(cells.get(task)) for task in perplexities)])
    return Grid(
        "Accuracy", [*header, *(f"{task} (perplexity)" for task in perplexities)], body, len(names), [*_LEGEND, *_notes(lines)]
    )


def _by_task(title: str, lines: Lines, tasks: Sequence[str], cell: Callable[[Row | None], str]) -> Grid:
    body = [[*key, *(cell(cells.get(task)) for task in tasks)] for key, cells in lines.items()]
    names = _names(lines)
    return Grid(title, [*names, *tasks], body, len(names))


def _names(lines: Lines) -> list[str]:
    return _NAMES[: len(next(iter(lines), _NAMES))]


def _notes(lines: Lines) -> list[str]:
    """What rows say of themselves; the average repeats its tasks, so it is left out."""
    return [
        f"{' '.join(part for part in key if part != '–')}, {task}: {row['note']}."
        for key, cells in lines.items()
        for task, row in cells.items()
        if row.get("note") and task != AVERAGE
    ]


def _significant(row: Row) -> bool:
    return row.get("p_holm") is not None and row["p_holm"] <= 1 - LEVEL + 1e-12


def _emphasis(row: Row, text: str) -> str:
    return Bold(text) if _significant(row) else text


def _score(row: Row | None) -> str:
    if not row or row.get("score") is None:
        return "n/a"
    return _emphasis(row, number(row["score"], 1))


def _interval(row: Row, digits: int) -> str:
    if row.get("drop_low") is None:
        return "[–]"
    return f"[{number(row['drop_low'], digits)}, {number(row['drop_high'], digits)}]"


def _drop(row: Row | None) -> str:
    if not row or row.get("score") is None:
        return "n/a"
    if row.get("drop") is None:
        return "–"
    return _emphasis(row, f"{number(row['drop'], 1)} {_interval(row, 1)}")


def _class(row: Row) -> str:
    if row.get("p_lossless") is None:
        return "–"
    name, probability = drop_class(row["p_lossless"], row["p_fair"], row["p_risky"])
    return f"{name} ({'> 99' if probability > 0.99 else round(100 * probability)} %)"


def _perplexity(row: Row | None) -> str:
    if not row or row.get("score") is None:
        return "n/a"
    score = number(row["score"], 2 if row["score"] < 1000 else 0)
    if row.get("drop") is None:
        return score
    sign = "+" if row["drop"] >= 0 else ""
    return _emphasis(row, f"{score} ({sign}{number(row['drop'], 1)} % {_interval(row, 1)})")


def _truncated(row: Row | None) -> str:
    return "n/a" if not row or row.get("truncated") is None else number(100 * row["truncated"], 1)
