"""The accuracy table as printed: model x recipe by task, with what of it is more than noise."""

from collections.abc import Callable, Sequence
from typing import Any

from ptqflow.evaluation.decision import DECIDED, drop_class
from ptqflow.evaluation.statistics import LEVEL
from ptqflow.reporting.render import Bold, TextTable, number
from ptqflow.reporting.runs import AVERAGE, PERPLEXITY
from ptqflow.reporting.variants import BASELINE

Row = dict[str, Any]
Lines = dict[tuple[str, ...], dict[str, Row]]  # (platform, model, recipe, form[, engine]) -> task -> row
_NAMES = ["Platform", "Model", "Recipe", "Form", "Engine"]
_LEGEND = [
    "Scores in percent. Drop: baseline − score in points, on the items and seeds that both have; in brackets its 95 % "
    "interval over paired items and calibration draws (random effect of replicates; of a recipe that was quantized "
    "once, a prior: half a point at most). A recipe that draws nothing, as plain rounding, has the items' noise alone.",
    "Noise: what the baseline differs from itself by, with other seeds, in other batches, in another engine or on another "
    "platform (table noise); "
    "– where nothing was run twice.",
    "Bold: the drop differs from zero at 5 %, by Holm's correction over the recipes of a column, and of a task over the tasks of "
    "the recipe, too: where no recipe changes anything, one column in twenty at most has a bold drop. Everything else may be "
    "noise, also where an interval excludes zero.",
    f"Class: lossless (≤ 1 point), fair (1 to 3) or risky (≥ 3), where its probability reaches {100 * DECIDED:.0f} % under a "
    "flat prior over the shares of items that are lost, gained and unchanged; else undecided, with the most probable one. To "
    "decide: how many items, seeds or replicates in all would do, each alone, were the drop as estimated; or what makes the "
    "evidence too thin.",
    "Perplexity (lower is better): in parentheses the change against the baseline with its 95 % interval over blocks of windows.",
    "n/a: not evaluated. –: nothing to compare with.",
]


def printed(rows: Sequence[Row]) -> list[TextTable]:
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
        floors = any(row.get("noise_floor") is not None for row in rows)  # the baseline's line says its noise
        drops = {key: cells for key, cells in lines.items() if floors or key[2] != BASELINE}
        grids.append(_by_task("Drop by task (points)", drops, tasks, _drop))
    if any(row.get("truncated") for row in rows):
        grids.append(_by_task("Completions cut at the token limit (%)", lines, tasks, _truncated))
    return grids


def _scores(lines: Lines, tasks: Sequence[str], perplexities: Sequence[str]) -> TextTable:
    names = _names(lines)
    header = [*names, *tasks]
    header += ["Average", "Drop", "Noise", "Class", "To decide", "Recovery (%)"] if tasks else []
    body = []
    for key, cells in lines.items():
        line = [*key, *(_score(cells.get(task)) for task in tasks)]
        if tasks:
            average = cells.get(AVERAGE, {})
            line += [
                _score(average),
                _drop(average),
                _noise(average),
                _class(average),
                _to_decide(average),
                number(average.get("recovery"), 1),
            ]
        body.append([*line, *(_perplexity(cells.get(task)) for task in perplexities)])
    notes = [*_LEGEND, *_notes(lines)] if body else ["Nothing was scored: no suite of the study asks a task."]
    return TextTable("Accuracy", [*header, *(f"{task} (perplexity)" for task in perplexities)], body, len(names), notes)


def _by_task(title: str, lines: Lines, tasks: Sequence[str], cell: Callable[[Row | None], str]) -> TextTable:
    body = [[*key, *(cell(cells.get(task)) for task in tasks)] for key, cells in lines.items()]
    names = _names(lines)
    return TextTable(title, [*names, *tasks], body, len(names))


def _names(lines: Lines) -> list[str]:
    return _NAMES[: len(next(iter(lines), _NAMES))]


def _notes(lines: Lines) -> list[str]:
    """What rows say of themselves; the average repeats its tasks, so it is left out."""
    drawn = [
        f"{' '.join(part for part in key if part != '–')}: {row['replicates']} calibration draws, whose scores differ by "
        f"{number(row['replicate_sd'], 1)} points (standard deviation, without the noise of items)."
        for key, cells in lines.items()
        if (row := cells.get(AVERAGE, {})).get("replicate_sd") is not None
    ]
    return drawn + [
        f"{' '.join(part for part in key if part != '–')}, {task}: {row['note']}."
        for key, cells in lines.items()
        for task, row in cells.items()
        if row.get("note") and task != AVERAGE
    ]


def significant(row: Row) -> bool:
    """Whether the drop of a row differs from zero at 5 %: among the recipes of its column, and among the tasks of its recipe."""
    return all(p <= 1 - LEVEL + 1e-12 for p in (row["p_holm"], row["p_tasks"] or 0.0)) if row.get("p_holm") is not None else False


def _emphasis(row: Row, text: str) -> str:
    return Bold(text) if significant(row) else text


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
    if row["recipe"] == BASELINE:
        return _noise(row)
    if row.get("drop") is None:
        return "–"
    return _emphasis(row, f"{number(row['drop'], 1)} {_interval(row, 1)}")


def _noise(row: Row) -> str:
    return "–" if row.get("noise_floor") is None else f"±{number(row['noise_floor'], 1)}"


def _class(row: Row) -> str:
    if row.get("verdict") is None:
        return "–"
    name, probability = drop_class(row["p_lossless"], row["p_fair"], row["p_risky"])
    rounded = round(100 * probability)
    if probability < DECIDED <= rounded / 100:
        rounded -= 1  # what is undecided has not reached the bound
    said = f"{name if row['verdict'] == 'undecided' else ''} {'> 99' if probability > 0.99 else rounded} %"
    return f"{row['verdict']} ({said.strip()})"


def _to_decide(row: Row) -> str:
    """What would make a verdict of an undecided row."""
    if row.get("verdict") != "undecided":
        return "–"
    if row["doubt"]:
        return str(row["doubt"])
    return needed(row) or "at a limit of classes"


def needed(row: Row) -> str:
    """How many items, seeds or replicates in all would decide; empty where no number is known."""
    wanted = [(row[f"needed_{of}"], of) for of in ("items", "seeds", "replicates") if row[f"needed_{of}"] is not None]
    parts = [f"{count:,} {of}".replace(",", " ") for count, of in ((_about(count), of) for count, of in wanted)]
    return (" and " if row["needed_together"] else " or ").join(parts)


def _about(count: int) -> int:
    """Two significant digits, rounded up: it is an estimate."""
    unit = 10 ** max(len(str(count)) - 2, 0)
    return -(-count // unit) * unit


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
