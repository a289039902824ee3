"""Every point of the accuracy table, computed a second time from the samples in plain loops."""

import math
from collections import defaultdict
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from ptqflow.artifacts.schemas import SAMPLES
from ptqflow.artifacts.tables import to_table
from ptqflow.reporting import accuracy, runs
from scipy import stats
from synthetic_study import sample, served

TASKS = {"hard": 13, "easy": 40}  # task -> items
Rows = list[dict[str, Any]]


def ragged(variant: int) -> Rows:
    """Samples with items, seeds and completions missing here and there, in no order; windows of perplexity at the end."""
    random = np.random.default_rng(variant)
    rows = [
        sample(task, f"i{item}", bool(random.random() < 0.6 + 0.3 * (item % 2)), seed=seed, completion=completion)
        | {"finish_reason": "length" if random.random() < 0.1 else "stop"}
        for task, items in TASKS.items()
        for seed in ((0, 1, 7) if variant % 3 or task == "easy" else (1, 7))
        for item in range(items)
        if random.random() < 0.9
        for completion in range(random.integers(1, 4))
    ]
    random.shuffle(rows)  # type: ignore[arg-type]
    nll = random.normal(500, 50, 9)
    return rows + [sample("text", f"{i:06d}", None, kind="perplexity", nll=nll[i]) for i in reversed(range(9))]


def by_run(rows: Rows, task: str) -> dict[tuple[str, int], float]:
    """(item, seed) -> share of right completions."""
    found = defaultdict(list)
    for row in rows:
        if row["task"] == task:
            found[row["item"], row["seed"]].append(float(row["correct"]))
    return {run: fmean(values) for run, values in found.items()}


def over_items(runs: dict[tuple[str, int], float]) -> float:
    """Percent: the mean over items of the mean over an item's runs."""
    found = defaultdict(list)
    for (item, _), value in runs.items():
        found[item].append(value)
    return 100 * fmean(map(fmean, found.values()))


def expected(rows: Rows, baseline: Rows | None, task: str) -> dict[str, float]:
    runs = by_run(rows, task)
    reasons = [row["finish_reason"] for row in rows if row["task"] == task]
    found = {
        "items": len({item for item, _ in runs}),
        "seeds": len({seed for _, seed in runs}),
        "score": over_items(runs),
        "truncated": reasons.count("length") / len(reasons),
    }
    if baseline is None:
        return found
    before = {run: value for run, value in by_run(baseline, task).items() if run in runs}
    after = {run: runs[run] for run in before}
    found |= {"paired_runs": len(before), "paired_items": len({item for item, _ in before})}
    found |= {"drop": over_items(before) - over_items(after), "recovery": 100 * over_items(after) / over_items(before)}
    return found | {"before": over_items(before)}


def mean_nll(rows: Rows) -> float:
    windows = [row for row in rows if row["task"] == "text"]
    return sum(row["nll"] for row in windows) / sum(row["completion_tokens"] for row in windows)


def test_every_point_of_the_table_follows_from_the_samples() -> None:
    names = [(platform, model, recipe) for platform in ("cpu", "gpu") for model in "ab" for recipe in ("baseline", "r", "s")]
    study = {name: ragged(i) for i, name in enumerate(names)}
    files = [
        (served(recipe, platform, model), to_table(SAMPLES, rows).select(runs.READS))
        for (platform, model, recipe), rows in study.items()
    ]
    table = accuracy.build(runs.gather(files), 3)
    assert len(table) == len(names) * 4
    for row in table:
        rows = study[row["platform"], row["model"], row["recipe"]]
        baseline = None if row["recipe"] == "baseline" else study[row["platform"], row["model"], "baseline"]
        each = [expected(rows, baseline, task) for task in TASKS]
        if row["task"] == "text":
            right = {"items": 9, "seeds": 1, "score": math.exp(mean_nll(rows))}
            if baseline:
                right["drop"] = 100 * (math.exp(mean_nll(rows) - mean_nll(baseline)) - 1)
        elif row["task"] == "average":
            right = {"items": sum(e["items"] for e in each), "seeds": min(e["seeds"] for e in each)}
            right["score"] = fmean(e["score"] for e in each)
            if baseline:
                right["drop"] = fmean(e["drop"] for e in each)
                right["recovery"] = 100 - 100 * right["drop"] / fmean(e["before"] for e in each)
                right |= {column: sum(e[column] for e in each) for column in ("paired_items", "paired_runs")}
        else:
            right = dict(zip(TASKS, each, strict=True))[row["task"]]
            right.pop("before", None)
        assert {column: row[column] for column in right} == pytest.approx(right)
        assert row["score_low"] < row["score"] < row["score_high"]
        assert baseline is None or row["drop_low"] < row["drop"] < row["drop_high"]


def test_average_of_tasks_all_right_or_all_lost_lies_within_its_interval() -> None:
    """What guards one task must not draw the average of several away from it: six alike have the interval of all their items."""
    tasks = [f"t{i}" for i in range(6)]
    perfect, broken = ([sample(task, f"i{item}", right) for task in tasks for item in range(30)] for right in (True, False))
    files = [
        (served(recipe), to_table(SAMPLES, rows).select(runs.READS)) for recipe, rows in (("baseline", perfect), ("r", broken))
    ]
    averages = [row for row in accuracy.build(runs.gather(files)) if row["task"] == "average"]
    assert [row["score"] for row in averages] == [100, 0]
    wilson = stats.binomtest(180, 180).proportion_ci(method="wilson")
    assert (averages[0]["score_low"], averages[0]["score_high"]) == pytest.approx((100 * wilson.low, 100))
    assert averages[1]["drop_high"] == pytest.approx(100)
    assert averages[1]["drop_low"] > 95
