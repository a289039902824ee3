"""The collapse detector: how completions end, and how long they are, beside the baseline's. Accuracy alone hides it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import stats

from ptqflow.artifacts.table_schemas import COLLAPSE
from ptqflow.evaluation import statistics
from ptqflow.reporting.render import Bold, TextTable, number
from ptqflow.reporting.variants import Served

READS = ["looping", "open_thinking", "silent"]  # of schema SAMPLES, beside those of `runs`
SYMPTOMS = {
    "truncated": "cut at the token limit",
    "looping": "ends in a loop",
    "open_thinking": "thinking never ends",
    "silent": "says nothing",
}
LEAST, SURE = 0.05, 0.01  # a share that is a sign: so much above the baseline's, and p of Fisher's exact test at most this
INFLATED = 1.1  # lower end of the interval of length over the baseline's from which on it is a sign
_RESAMPLES = 2000
Row = dict[str, Any]


def build(samples: Sequence[tuple[Served, pa.Table]], seed: int = 0) -> list[Row]:
    """Rows of schema COLLAPSE, one per variant and task that generates, replicates of a recipe together."""
    frames: dict[Served, list[pd.DataFrame]] = {}
    for variant, table in samples:
        frame = table.to_pandas()
        if len(frame := frame[frame["finish_reason"].notna()]):
            frames.setdefault(variant.model_copy(update={"replicate": 0}), []).append(frame)
    joined = {variant: pd.concat(parts) for variant, parts in frames.items()}
    rows = [
        _row(variant, str(task), part, _of_task(joined.get(variant.baseline), str(task)), seed)
        for variant, frame in joined.items()
        for task, part in frame.groupby("task", sort=False)
    ]
    return [{name: row.get(name) for name in COLLAPSE.names} for row in rows]


def _of_task(frame: pd.DataFrame | None, task: str) -> pd.DataFrame | None:
    return None if frame is None or not (frame["task"] == task).any() else frame[frame["task"] == task]


def _row(variant: Served, task: str, frame: pd.DataFrame, baseline: pd.DataFrame | None, seed: int) -> Row:
    shown = {name: _flags(frame, name) for name in SYMPTOMS}
    row: Row = {**variant.columns, "task": task, "completions": len(frame)}
    row |= {name: float(flags.mean()) if len(flags) else None for name, flags in shown.items()}
    row["tokens"] = float(frame["completion_tokens"].mean())
    if baseline is None or variant == variant.baseline:
        return row
    row |= _length(frame, baseline, statistics.stream(seed, task, "length"))
    signs = [SYMPTOMS[name] for name, flags in shown.items() if _is_worse(flags, _flags(baseline, name))]
    if row.get("inflation_low") is not None and row["inflation_low"] >= INFLATED:
        signs.append("longer")
    return row | {"signs": ", ".join(signs) or None}


def _flags(frame: pd.DataFrame, name: str) -> statistics.Floats:
    """0 or 1 of each completion that can show a symptom."""
    if name == "truncated":
        return np.asarray((frame["finish_reason"].dropna() == "length").to_numpy(float))
    return np.asarray(frame[name].dropna().to_numpy(float))


def _is_worse(shown: statistics.Floats, before: statistics.Floats) -> bool:
    if not len(shown) or not len(before) or shown.mean() < before.mean() + LEAST:
        return False
    table = [[int(flags.sum()), int(len(flags) - flags.sum())] for flags in (shown, before)]
    return bool(stats.fisher_exact(table, alternative="greater").pvalue <= SURE)


def _length(frame: pd.DataFrame, baseline: pd.DataFrame, rng: np.random.Generator) -> Row:
    """Mean length over the baseline's on the items of both, with its bootstrap interval over items; none of a single item.

    Its distances from the estimate are stretched by what a bootstrap of so few items lacks, as those of perplexities.
    """
    before, after = (part.groupby("item")["completion_tokens"].mean() for part in (baseline, frame))
    items = before.index.intersection(after.index)
    if not len(items) or not before[items].sum():
        return {}
    ratio = float(after[items].sum() / before[items].sum())
    if len(items) == 1:
        return {"inflation": ratio}
    counts = rng.multinomial(len(items), np.full(len(items), 1 / len(items)), size=_RESAMPLES)
    ratios = (counts @ after[items].to_numpy()) / np.maximum(counts @ before[items].to_numpy(), 1)
    low, high = (ratio + statistics.few_items_factor(len(items)) * (end - ratio) for end in statistics.interval(ratios))
    return {"inflation": ratio, "inflation_low": max(low, 0.0), "inflation_high": high}


def printed(rows: Sequence[Row]) -> TextTable:
    """The table for reading, what is a sign of collapse in bold."""
    header = ["Platform", "Model", "Recipe", "Form", "Engine", "Task", *(f"{said} (%)" for said in SYMPTOMS.values())]
    header += ["tokens", "of baseline", "Signs"]
    body = []
    for row in rows:
        names = [row[c] for c in ("platform", "model", "recipe")] + [row["form"] or "–", row["engine"], row["task"]]
        signs = str(row["signs"]).split(", ")
        shares = [(number(None if row[name] is None else 100 * row[name], 1), said) for name, said in SYMPTOMS.items()]
        length = number(row["inflation"], 2)
        if row["inflation_low"] is not None:
            length += f" [{number(row['inflation_low'], 2)}, {number(row['inflation_high'], 2)}]"
        cells = [
            Bold(text) if said in signs else text for text, said in [*shares, (number(row["tokens"], 0), ""), (length, "longer")]
        ]
        body.append([*names, *cells, row["signs"] or ("–" if row["inflation"] is None else "none")])  # –: compared with nothing
    return TextTable(
        "Collapse",
        header,
        body,
        6,
        [
            "Shares of completions. Ends in a loop: of the 4-grams of a tail of 128 tokens or more, a quarter or less are "
            "distinct. Thinking never ends: of completions that think. Says nothing: only white space outside of thinking.",
            f"Signs, in bold: a share {100 * LEAST:.0f} points or more above the baseline's (Fisher's exact test, p ≤ {SURE}); "
            f"longer: mean length over the baseline's on the same items at least {INFLATED} with its 95 % interval.",
        ],
    )
