"""The cost tables as printed: every task of every variant; and float, simulated and real quantization side by side."""

from collections.abc import Sequence
from typing import Any

from ptqflow.checkpoints.registry import FAKE
from ptqflow.reporting.accuracy import PERPLEXITY
from ptqflow.reporting.render import TextTable, number, speed
from ptqflow.reporting.variants import BASELINE

Row = dict[str, Any]
_LEGEND = [
    "Time is the engine's wall time on the task's requests, all seeds together: without loading the model, and without what a "
    "job that was cut off had begun and not finished. On a CPU, jobs that run beside it slow it.",
    "Tokens are those generated (of alternatives and of text: those scored). Per solved: divided by the samples that were "
    "answered right, so that a model that talks longer or fails more pays for it.",
    "Length × and Time × are relative to the baseline of the same platform and engine, on the samples that both have. A fake "
    "form is an emulation: its times are what simulating the recipe costs, and say nothing of integer kernels.",
]
_SIDE_BY_SIDE = [
    "One row per seed: perplexity, then accuracy in percent with the engine's time in parentheses (h:mm:ss).",
    "Fake: simulated on dequantized weights. The average leaves perplexities out. n/a: not asked at this seed.",
]


def printed(rows: Sequence[Row]) -> list[TextTable]:
    """Cost by task over all seeds, then scores with times by seed: the layout of the source paper's Table 3."""
    return [_by_task([row for row in rows if row["seed"] is None]), _side_by_side([r for r in rows if r["seed"] is not None])]


def clock(seconds: float) -> str:
    """h:mm:ss, rounded."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _by_task(rows: Sequence[Row]) -> TextTable:
    header = ["Platform", "Model", "Recipe", "Form", "Engine", "Task", "Samples", "Time (s)", "Tokens", "Tokens/s", "Solved"]
    header += ["Time per solved (s)", "Tokens per solved", "Length ×", "Time ×"]
    body = []
    for r in rows:
        names = [r["platform"], r["model"], r["recipe"], r["form"] or "–", r["engine"], r["task"]]
        amounts = [str(r["samples"]), number(r["seconds"], 1), number(r["tokens"], 0), speed(r["tokens_per_second"])]
        solved = ["–" if r["solved"] is None else str(r["solved"]), number(r["seconds_per_solved"], 3)]
        ratios = [number(r["tokens_per_solved"], 0), number(r["length_ratio"], 2)]
        ratios.append("emulation" if r["form"] == FAKE else number(r["seconds_ratio"], 2))
        body.append(names + amounts + solved + ratios)
    return TextTable("Cost of each task", header, body, names=6, notes=_LEGEND)


def _side_by_side(rows: Sequence[Row]) -> TextTable:
    lines: dict[tuple[Any, ...], dict[str, Row]] = {}
    for r in rows:
        lines.setdefault((r["platform"], r["model"], r["recipe"], r["form"], r["engine"], r["seed"]), {})[r["task"]] = r
    perplexities = list(dict.fromkeys(r["task"] for r in rows if r["metric"] == PERPLEXITY))
    tasks = list(dict.fromkeys(r["task"] for r in rows if r["metric"] != PERPLEXITY))
    body = []
    for (platform, model, recipe, form, engine, seed), cells in lines.items():
        names = [platform, model, "float" if recipe == BASELINE else recipe, form or "–", engine, str(seed)]
        scores = [_score(cells.get(task), 2) for task in perplexities]
        scores += [_timed(cells.get(task)) for task in tasks]
        if tasks:
            found = [cells[task]["score"] for task in tasks if task in cells and cells[task]["score"] is not None]
            scores.append(number(sum(found) / len(found), 1) if len(found) == len(tasks) else "n/a")
        body.append([*names, *scores])
    header = ["Platform", "Model", "Recipe", "Form", "Engine", "Seed", *(f"{task} (perplexity)" for task in perplexities)]
    title = "Float, simulated and real quantization: scores and times by seed"
    return TextTable(title, [*header, *tasks, *(["Average"] if tasks else [])], body, names=6, notes=_SIDE_BY_SIDE)


def _score(row: Row | None, digits: int) -> str:
    return "n/a" if row is None or row["score"] is None else number(row["score"], digits)


def _timed(row: Row | None) -> str:
    return "n/a" if row is None else f"{_score(row, 1)} ({clock(row['seconds'])})"
