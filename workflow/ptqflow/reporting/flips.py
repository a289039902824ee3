"""How many answers changed, not only how far the score did: a recipe can lose ten items, win ten others and drop by nothing."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.variants import BASELINE, Served

_KEY = ["task", "item", "seed", "completion"]


def build(samples: Sequence[tuple[Served, pa.Table]]) -> list[dict[str, Any]]:
    """Rows of schema FLIPS from tables with the columns READS of `runs`: completions with a verdict, beside the baseline's."""
    verdicts: dict[Served, list[pd.DataFrame]] = {}
    for served, table in samples:
        frame = table.select([*_KEY, "correct"]).to_pandas()
        frame = frame[frame["correct"].notna()].astype({"correct": bool})
        verdicts.setdefault(served.model_copy(update={"replicate": 0}), []).append(frame)
    joined = {served: pd.concat(frames) for served, frames in verdicts.items()}
    found = []
    for served, frame in joined.items():
        if served == served.baseline or served.baseline not in joined:
            continue
        both = frame.merge(joined[served.baseline], on=_KEY, suffixes=("", "_baseline"))
        for task, part in both.groupby("task", sort=False):
            own, reference = part["correct"], part["correct_baseline"]
            counts = {
                "both": own & reference,
                "lost": reference & ~own,
                "gained": own & ~reference,
                "neither": ~own & ~reference,
            }
            row = {**served.columns, "task": str(task), "completions": len(part)}
            found.append(row | {name: int(which.sum()) for name, which in counts.items()})
    return found


def printed(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The table for reading."""
    header = ["Platform", "Model", "Recipe", "Form", "Engine", "Task", "Completions", "Both right", "Lost", "Gained", "Neither"]
    header.append("Flipped (%)")
    body = [
        [
            *(r["platform"], r["model"], r["recipe"], r["form"] or "–", r["engine"], r["task"]),
            *(str(r[name]) for name in ("completions", "both", "lost", "gained", "neither")),
            number(100 * (r["lost"] + r["gained"]) / r["completions"], 1),
        ]
        for r in rows
        if r["recipe"] != BASELINE
    ]
    return TextTable("Answers that changed", header, body, names=6)
