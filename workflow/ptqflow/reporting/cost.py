"""What scores cost: the engine's time and the tokens of each variant on each task, by solved problem and against the baseline."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ptqflow.artifacts.table_schemas import COST
from ptqflow.evaluation.scoring.verdict import NOT_FINITE
from ptqflow.evaluation.statistics import LARGEST_LOSS
from ptqflow.reporting.accuracy import PERPLEXITY
from ptqflow.reporting.variants import Served

READS = ["task", "kind", "item", "seed", "completion", "completion_tokens", "seconds", "nll", "correct", "unscored"]

Row = dict[str, Any]


def build(samples: Sequence[tuple[Served, pa.Table]]) -> list[Row]:
    """Rows of schema COST from tables with the columns READS of schema SAMPLES: per variant and task, all seeds and each of them.

    Order: as variants, their tasks and seeds first appear. Of replicates the recipe's own draw alone: others cost the same.
    """
    tables: dict[Served, list[pa.Table]] = {}
    for variant, table in samples:
        if variant.replicate:
            continue
        tables.setdefault(variant, []).append(table.select(READS))
    frames = {variant: pa.concat_tables(parts).to_pandas() for variant, parts in tables.items()}
    return [
        {name: row.get(name) for name in COST.names}
        for variant, frame in frames.items()
        for row in _rows(variant, frame, frames.get(variant.baseline))
    ]


def _rows(variant: Served, frame: pd.DataFrame, baseline: pd.DataFrame | None) -> Iterator[Row]:
    for task, part in frame.groupby("task", sort=False):
        reference = None if baseline is None else baseline[baseline["task"] == task]
        for seed in [None, *part["seed"].unique()]:
            own = part if seed is None else part[part["seed"] == seed]
            who = variant.columns | {"task": task, "seed": seed, "metric": "accuracy"}
            yield who | _cost(own) | ({} if reference is None else _against(own, reference))


def _cost(part: pd.DataFrame) -> Row:
    seconds, tokens = float(part["seconds"].sum()), int(part["completion_tokens"].sum())
    row: Row = {"samples": len(part), "seconds": seconds, "tokens": tokens}
    row["tokens_per_second"] = tokens / seconds if seconds else None
    if part["kind"].iloc[0] == PERPLEXITY:
        loss = float(part["nll"].sum(skipna=False)) / tokens
        return row | {"metric": PERPLEXITY, "score": float(np.exp(loss)) if loss <= LARGEST_LOSS else None}
    solved = int(part["correct"].eq(True).sum())
    row["solved"] = solved
    if solved:
        row |= {"seconds_per_solved": seconds / solved, "tokens_per_solved": tokens / solved}
    judged = part[part["unscored"].isna()]
    if len(judged) and NOT_FINITE.unscored not in set(part["unscored"]):
        runs = judged.assign(correct=judged["correct"].astype(float)).groupby(["item", "seed"])["correct"].mean()
        row["score"] = 100 * float(runs.groupby("item").mean().mean())
    return row


def _against(part: pd.DataFrame, reference: pd.DataFrame) -> Row:
    """Ratios to the baseline on the samples that both have."""
    both = part.merge(reference, on=["item", "seed", "completion"], suffixes=("", "_baseline"))
    generated = part["kind"].iloc[0] == "generation"
    pairs = {"seconds_ratio": "seconds"} | ({"length_ratio": "completion_tokens"} if generated else {})
    sums = {ratio: (float(both[column].sum()), float(both[f"{column}_baseline"].sum())) for ratio, column in pairs.items()}
    return {ratio: own / other for ratio, (own, other) in sums.items() if other}
