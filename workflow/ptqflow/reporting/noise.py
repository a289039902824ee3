"""The noise floor: the baseline against itself with other seeds, in other batches, in another engine, on another platform, where
there are runs.

Two runs of one model on the same items differ by the items whose answer changed. Of n items with differences d the mean
difference has variance mean(d^2) / n, whatever the true scores are; a drop within 1.96 of its standard deviations is what a model
loses against itself. Greedy decoding repeats itself under another seed, so its floor is what batches, engines and platforms
change.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import stats

from ptqflow.artifacts.table_schemas import NOISE
from ptqflow.evaluation.statistics import LEVEL, Floats
from ptqflow.reporting.render import TextTable, number
from ptqflow.reporting.runs import AVERAGE, PERPLEXITY, Runs, gather
from ptqflow.reporting.variants import BASELINE, Scores, Served

Row = dict[str, Any]
_PLACE = ("platform", "model", "engine")


Repeated = Mapping[int, Mapping[Served, dict[str, Runs]]]  # by batch size


def repeated(scored: Sequence[tuple[Scores, pa.Table]]) -> Repeated:
    """Runs of the baselines that were asked once more, from tables as `runs.gather` reads them."""
    sizes = sorted({entry.batch_size for entry, _ in scored if entry.batch_size is not None})
    return {size: gather([(entry.served, table) for entry, table in scored if entry.batch_size == size]) for size in sizes}


def build(runs: Mapping[Served, dict[str, Runs]], others: Repeated | None = None) -> list[Row]:
    """Rows of schema NOISE: every baseline, task and kind of repetition that there are runs of, and their average over tasks.

    `others`: runs in other batches.
    """
    baselines = [variant for variant in runs if variant.recipe == BASELINE]
    rows: list[Row] = []
    for variant in baselines:
        tasks = {task: found for task, found in runs[variant].items() if found.metric != PERPLEXITY and found.scored}
        found = [row for task, own in tasks.items() for row in _of_task(variant, task, own, runs, baselines, others or {})]
        rows += found
        for kind, other in dict.fromkeys((row["kind"], row["other"]) for row in found):
            same = [row for row in found if (row["kind"], row["other"]) == (kind, other)]
            if len(same) == len(tasks):
                rows.append(same[0] | {"task": AVERAGE} | _average(same))
    return [{name: row.get(name) for name in NOISE.names} for row in rows]


def _of_task(
    variant: Served,
    task: str,
    own: Runs,
    runs: Mapping[Served, dict[str, Runs]],
    baselines: Sequence[Served],
    others: Repeated,
) -> Iterator[Row]:
    who = {column: getattr(variant, column) for column in _PLACE} | {"task": task}
    values = own.frames[0]["value"].unstack("seed")  # [items, seeds]
    pairs = [(values[a] - values[b]).dropna().to_numpy() for a, b in combinations(values.columns, 2)]
    if pairs := [pair for pair in pairs if len(pair)]:
        yield who | {"kind": "seeds", "other": None} | _floor(pairs, len(values.columns))
    for size, again in others.items():
        found = again.get(variant, {}).get(task)
        if found is not None and found.scored:
            alike = (values - found.frames[0]["value"].unstack("seed")).dropna(axis=1, how="all")
            if pairs := [alike[seed].dropna().to_numpy() for seed in alike]:
                yield who | {"kind": "batches", "other": str(size)} | _floor(pairs, len(values.columns))
    for other in baselines:
        kind = next((c for c in ("engine", "platform") if _alike(variant, other, c)), None)
        if kind is None or task not in runs[other] or not runs[other][task].scored:
            continue
        index = own.index.intersection(runs[other][task].index)
        if len(index):
            difference = own.items("value", index) - runs[other][task].items("value", index)
            yield who | {"kind": f"{kind}s", "other": getattr(other, kind)} | _floor([difference], 1)


def _alike(one: Served, other: Served, column: str) -> bool:
    """Whether two baselines differ in this column and in nothing else."""
    return one != other and one.model_copy(update={column: getattr(other, column)}) == other


def _floor(pairs: Sequence[Floats], seeds: int) -> Row:
    """What pairs of runs, [items] each, say of two evaluations of as many `seeds`; in points."""
    items = float(np.mean([len(pair) for pair in pairs]))
    variance = float(np.mean([np.mean(pair**2) for pair in pairs])) / items / seeds
    return {
        "items": round(items),
        "pairs": len(pairs),
        "changed": float(np.mean([np.mean(pair != 0) for pair in pairs])),
        "difference": 100 * max(abs(float(pair.mean())) for pair in pairs),
        "floor": 100 * float(stats.norm.ppf((1 + LEVEL) / 2)) * variance**0.5,
    }


def _average(tasks: Sequence[Row]) -> Row:
    return {
        "items": sum(row["items"] for row in tasks),
        "pairs": min(row["pairs"] for row in tasks),
        "changed": float(np.mean([row["changed"] for row in tasks])),
        "difference": None,
        "floor": float(np.sqrt(sum(row["floor"] ** 2 for row in tasks))) / len(tasks),
    }


def beside(scores: Sequence[Row], floors: Sequence[Row]) -> list[Row]:
    """Rows of schema ACCURACY with the largest floor of their platform, model, engine and task; null where none was measured.

    A variant that was asked at fewer seeds than its baseline has as much more noise of seeds and batches.
    """

    def key(row: Row) -> tuple[Any, ...]:
        return (*(row[c] for c in _PLACE), row["task"])

    seeds = {key(row): row["seeds"] for row in scores if row["recipe"] == BASELINE}

    def floor(row: Row) -> float | None:
        more = max(1.0, seeds.get(key(row), 0) / max(row["seeds"], 1)) ** 0.5
        here = [found for found in floors if key(found) == key(row)]
        return max((found["floor"] * (more if found["kind"] in ("seeds", "batches") else 1) for found in here), default=None)

    return [row | {"noise_floor": floor(row)} for row in scores]


def printed(rows: Sequence[Row]) -> TextTable:
    """The table for reading."""
    header = ["Platform", "Model", "Engine", "Task", "Other", "Items", "Pairs of runs", "Changed (%)"]
    header += ["Largest difference", "Floor (points)"]
    body = [
        [
            *(row[c] for c in _PLACE), row["task"], ": ".join(filter(None, (row["kind"], row["other"]))),
            str(row["items"]), str(row["pairs"]), number(100 * row["changed"], 1), number(row["difference"], 1),
            f"±{number(row['floor'], 1)}",
        ]
        for row in rows
    ]  # fmt: skip
    notes = [
        "The baseline against itself: what changes with other seeds, in batches of another size, in another engine or on another "
        "platform. Changed: items "
        "whose answers are not right as often in both runs. Floor: 95 % of differences between two evaluations of the "
        "unquantized model, with as many seeds as here, are smaller; a drop below it says nothing.",
    ]
    if not rows:
        notes.append("Nothing was run twice: give a suite a second seed, noise_batch_sizes, or a second engine.")
    return TextTable("Noise floor", header, body, 5, notes)
