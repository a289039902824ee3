"""The accuracy table: every variant on every task, with its paired drop against the baseline of its platform, model and engine.

A drop is computed on the (item, seed) pairs that both have; how many these are is stated. A variant that was not evaluated on a
task has a row that says so, and no average: means over different tasks cannot be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ptqflow.artifacts.schemas import ACCURACY
from ptqflow.errors import ArtifactError
from ptqflow.evaluation import statistics
from ptqflow.evaluation.scoring.verdict import NOT_FINITE
from ptqflow.reporting.variants import Served

AVERAGE = "average"
PERPLEXITY = "perplexity"
READS = ["task", "kind", "item", "seed", "completion", "prompt_sha256", "completion_tokens", "finish_reason"]
READS += ["nll", "correct", "unscored"]
_SEED = 0  # of the bootstrap: the same table from the same samples

Row = dict[str, Any]


@dataclass(frozen=True)
class Runs:
    """One variant on one task: a frame indexed by (item, seed) with `value` (mean over completions of correct, or summed nll),
    `tokens` and `prompt`; `truncated` is the share of completions that hit the token limit (None: nothing was generated);
    `unscored`: how many samples have no verdict, by reason. The frame is of the others.
    """

    kind: str
    frame: pd.DataFrame
    truncated: float | None
    unscored: dict[str, int]

    @property
    def collapsed(self) -> bool:
        """Whether logits were no numbers: a score of what is left would flatter the model."""
        return NOT_FINITE.unscored in self.unscored or not len(self.frame)

    @property
    def note(self) -> str | None:
        """What has no verdict, and why."""
        return "; ".join(f"{count} samples without a verdict: {reason}" for reason, count in self.unscored.items()) or None

    def samples(self, only: pd.MultiIndex | None = None) -> float:
        """Completions per item, all seeds together."""
        frame = self.frame if only is None else self.frame.loc[only]
        return float(frame["samples"].sum() / frame.index.get_level_values("item").nunique())

    @property
    def metric(self) -> str:
        """`perplexity` or `accuracy`."""
        return PERPLEXITY if self.kind == PERPLEXITY else "accuracy"

    def count(self, level: str) -> int:
        """Distinct items or seeds."""
        return int(self.frame.index.get_level_values(level).nunique())

    def items(self, column: str, only: pd.MultiIndex | None = None) -> statistics.Floats:
        """Mean of `column` per item (in sorted order) over its seeds, of all runs or `only` these."""
        frame = self.frame if only is None else self.frame.loc[only]
        index = frame.index
        return statistics.item_means(
            index.get_level_values("item").to_numpy(), index.get_level_values("seed").to_numpy(), frame[column].to_numpy(float)
        )


@dataclass(frozen=True)
class _Cell:
    """A finished row, with what the average needs: the items' scores and pairs (fractions)."""

    row: Row
    score: statistics.Floats | None = None
    samples: float = 1  # completions per item
    paired: statistics.Paired | None = None


def build(samples: Sequence[tuple[Served, pa.Table]], seed: int = _SEED) -> list[Row]:
    """Rows of schema ACCURACY from tables with the columns READS of schema SAMPLES; files of one variant are concatenated.

    Order: as the variants first appear; accuracy tasks, their average, perplexity tasks. Raises ArtifactError when a sample
    occurs twice, an accuracy sample says neither right nor wrong, or two variants were asked different things.
    """
    runs = gather(samples)
    rows: list[Row] = []
    for place in dict.fromkeys((v.platform, v.model, v.engine) for v in runs):
        group = {v: tasks for v, tasks in runs.items() if (v.platform, v.model, v.engine) == place}
        metrics = _metrics(group)
        found = [
            row
            for variant, tasks in group.items()
            for row in _variant_rows(variant, tasks, group.get(variant.baseline), metrics, seed)
        ]
        for task in [*metrics, AVERAGE]:
            compared = [row for row in found if row["task"] == task and row.get("p_value") is not None]
            for row, adjusted in zip(compared, statistics.holm([row["p_value"] for row in compared]), strict=True):
                row["p_holm"] = adjusted
        rows += found
    return [{name: row.get(name) for name in ACCURACY.names} for row in rows]


def gather(samples: Sequence[tuple[Served, pa.Table]]) -> dict[Served, dict[str, Runs]]:
    """Samples by variant and task, completions averaged."""
    tables: dict[Served, list[pa.Table]] = {}
    for variant, table in samples:
        tables.setdefault(variant, []).append(table)
    return {variant: _tasks(variant, pa.concat_tables(parts)) for variant, parts in tables.items()}


def _tasks(variant: Served, samples: pa.Table) -> dict[str, Runs]:
    # Asked of Arrow, since pandas cannot tell a null from a loss that is not a number, as a collapsed model has.
    null = {column: samples[column].is_null().to_numpy() for column in ("nll", "correct")}
    frame = samples.to_pandas()
    frame["missing"] = np.where(frame["kind"] == PERPLEXITY, null["nll"], null["correct"] & frame["unscored"].isna())
    repeated = frame.duplicated(["task", "item", "seed", "completion"])
    if repeated.any():
        task, item, seed = frame.loc[repeated, ["task", "item", "seed"]].iloc[0]
        raise ArtifactError(
            f"{variant}: task {task} item {item} seed {seed} occurs twice; let one suite only hold this task and seed"
        )
    found = {}
    for task, part in frame.groupby("task", sort=False):
        kind, name = str(part["kind"].iloc[0]), str(task)
        value = part["nll"] if kind == PERPLEXITY else part["correct"]
        if name == AVERAGE or part["missing"].any():
            raise ArtifactError(f"{variant}: task {name}: a sample without a score, or a task named 'average'; evaluate it again")
        unscored = {str(reason): int(count) for reason, count in part["unscored"].value_counts().items()}
        reason = part["finish_reason"].dropna()
        part = part.assign(value=value)[part["unscored"].isna()].astype({"value": float})
        cells = part.groupby(["item", "seed"]).agg(
            value=("value", "mean"),
            tokens=("completion_tokens", "mean"),
            prompt=("prompt_sha256", "first"),
            samples=("value", "size"),
        )
        found[name] = Runs(kind, cells, float((reason == "length").mean()) if len(reason) else None, unscored)
    return found


def _metrics(group: dict[Served, dict[str, Runs]]) -> dict[str, str]:
    """Task -> metric for all tasks of a model, accuracy tasks first."""
    found = {task: runs.metric for tasks in group.values() for task, runs in tasks.items()}
    return dict(sorted(found.items(), key=lambda entry: entry[1] == PERPLEXITY))


def _variant_rows(
    variant: Served, tasks: dict[str, Runs], baseline: dict[str, Runs] | None, metrics: dict[str, str], seed: int
) -> list[Row]:
    cells = {}
    for task, metric in metrics.items():
        reference = None if variant == variant.baseline else (baseline or {}).get(task)
        if task not in tasks:
            cells[task] = _Cell(_row(variant, task, metric, note="not evaluated"))
        elif metric == PERPLEXITY:
            cells[task] = _perplexity(variant, task, tasks[task], reference, seed)
        else:
            cells[task] = _accuracy(variant, task, tasks[task], reference, seed)
    accuracy = [cells[task] for task, metric in metrics.items() if metric != PERPLEXITY]
    rows = [cell.row for cell in accuracy]
    if accuracy:
        rows.append(_average(variant, accuracy, seed))
    return rows + [cells[task].row for task, metric in metrics.items() if metric == PERPLEXITY]


def _row(variant: Served, task: str, metric: str, **values: Any) -> Row:
    return {**variant.model_dump(), "task": task, "metric": metric, "items": 0, "seeds": 0, **values}


def _counts(variant: Served, runs: Runs, reference: Runs | None, common: pd.MultiIndex | None) -> Row:
    """How much was scored and how much of it is paired, with a note where these differ or nothing can be paired."""
    counts: Row = {"items": runs.count("item"), "seeds": runs.count("seed"), "truncated": runs.truncated, "note": runs.note}
    if reference is None or common is None:
        return (
            counts
            if variant == variant.baseline
            else counts | {"note": "no baseline of this platform, model, engine and task to pair with"}
        )
    items = int(common.get_level_values("item").nunique())
    counts |= {"paired_items": items, "paired_runs": len(common)}
    if not len(common) == len(runs.frame) == len(reference.frame):
        paired = f"paired on {len(common)} runs of {items} items (scored {len(runs.frame)}, baseline {len(reference.frame)})"
        counts["note"] = "; ".join(note for note in (counts["note"], paired) if note)
    return counts


def _common(variant: Served, task: str, runs: Runs, reference: Runs | None) -> pd.MultiIndex | None:
    """The (item, seed) pairs of both; None without a reference or without any. Both must have been asked the same."""
    if reference is None:
        return None
    common = runs.frame.index.intersection(reference.frame.index).sort_values()
    columns = ["prompt", "tokens"] if runs.kind == PERPLEXITY else ["prompt"]
    differs = (runs.frame.loc[common, columns] != reference.frame.loc[common, columns]).any(axis=1)
    if differs.any():
        item, seed = differs.index[differs.argmax()]
        raise ArtifactError(
            f"{variant}: task {task}: {differs.sum()} prompts differ from the baseline's (first: item {item}, seed {seed}); "
            "evaluate both with the same tokenizer and settings"
        )
    return common if len(common) else None


def _accuracy(variant: Served, task: str, runs: Runs, reference: Runs | None, seed: int) -> _Cell:
    if runs.collapsed:
        return _Cell(_row(variant, task, "accuracy", truncated=runs.truncated, note=runs.note))
    common = _common(variant, task, runs, reference)
    score = runs.items("value")
    samples = runs.samples()
    low, high = statistics.accuracy_interval(score, statistics.stream(seed, task, "score"), samples=samples)
    row = _row(variant, task, "accuracy", **_counts(variant, runs, reference, common))
    row |= {"score": 100 * float(score.mean()), "score_low": 100 * low, "score_high": 100 * high}
    if reference is not None and reference.collapsed:
        return _Cell(row | {"note": f"baseline: {reference.note}"}, score, samples)
    if reference is None or common is None:
        return _Cell(row, score, samples)
    least = min(reference.samples(common), runs.samples(common))
    paired = statistics.Paired(reference.items("value", common), runs.items("value", common), least)
    return _Cell(row | _drop({task: paired}, statistics.stream(seed, task, "flips"), seed), score, samples, paired)


def _drop(pairs: dict[str, statistics.Paired], flips: np.random.Generator, seed: int) -> Row:
    """Drop columns in points of the mean over tasks."""

    def mean(draw: Callable[..., statistics.Floats], name: str) -> statistics.Floats:
        draws = [draw(paired, statistics.stream(seed, task, name), tasks=len(pairs)) for task, paired in pairs.items()]
        return 100 * statistics.average(draws)

    drop, baseline = (float(np.mean([getattr(p, name).mean() for p in pairs.values()])) for name in ("drop", "before"))
    low, high = statistics.interval(mean(statistics.drop_distribution, "drop"))
    lossless, fair, risky = statistics.class_probabilities(mean(statistics.drop_posterior, "class"))
    return {
        "drop": 100 * drop,
        "drop_low": low,
        "drop_high": high,
        "p_value": statistics.flipped_p([paired.drop for paired in pairs.values()], flips),
        "recovery": 100 * (1 - drop / baseline) if baseline > 0 else None,
        "p_lossless": lossless,
        "p_fair": fair,
        "p_risky": risky,
    }


def _average(variant: Served, cells: Sequence[_Cell], seed: int) -> Row:
    rows = [cell.row for cell in cells]
    average = _row(variant, AVERAGE, "accuracy", items=sum(r["items"] for r in rows), seeds=min(r["seeds"] for r in rows))
    scores = [
        statistics.accuracy_distribution(
            cell.score, statistics.stream(seed, cell.row["task"], "score"), tasks=len(cells), samples=cell.samples
        )
        for cell in cells
        if cell.score is not None
    ]
    if len(scores) < len(cells):
        missing = ", ".join(row["task"] for row in rows if row.get("score") is None)
        return average | {"note": f"no average: not evaluated on {missing}"}
    low, high = statistics.interval(100 * statistics.average(scores))
    average |= {"score": float(np.mean([row["score"] for row in rows])), "score_low": low, "score_high": high}
    pairs = {str(cell.row["task"]): cell.paired for cell in cells if cell.paired is not None}
    if len(pairs) < len(cells):
        unpaired = ", ".join(row["task"] for row in rows if row.get("drop") is None)
        return average if variant == variant.baseline else average | {"note": f"no drop: no baseline for {unpaired}"}
    for column in ("paired_items", "paired_runs"):
        average[column] = sum(row[column] for row in rows)
    notes = [f"{row['task']}: {row['note']}" for row in rows if row.get("note")]
    return average | _drop(pairs, statistics.stream(seed, AVERAGE, "flips"), seed) | {"note": "; ".join(notes) or None}


def _perplexity(variant: Served, task: str, runs: Runs, reference: Runs | None, seed: int) -> _Cell:
    row = _row(variant, task, PERPLEXITY, **_counts(variant, runs, reference, _common(variant, task, runs, reference)))
    broken = int((~np.isfinite(runs.frame["value"])).sum())
    if broken:
        return _Cell(row | {"note": f"{broken} of {len(runs.frame)} windows have a loss that is not finite"})
    nll, tokens = runs.items("value"), runs.items("tokens")
    row["score"] = statistics.perplexity(nll, tokens)
    row |= _ends("score", statistics.perplexity_interval(nll, tokens, statistics.stream(seed, task, "score")))
    common = _common(variant, task, runs, reference)
    if reference is None or common is None:
        return _Cell(row)
    before, after, tokens = reference.items("value", common), runs.items("value", common), runs.items("tokens", common)
    if not np.isfinite(before).all():
        return _Cell(row | {"note": "the baseline's loss is not finite"})
    ratio = statistics.perplexity(after - before, tokens)
    ends = statistics.perplexity_ratio_interval(after, before, tokens, statistics.stream(seed, task, "drop"))
    row["p_value"] = statistics.perplexity_p(after, before, tokens, statistics.stream(seed, task, "drop"))
    percent = None if ends is None else (100 * (ends[0] - 1), 100 * (ends[1] - 1))
    return _Cell(row | {"drop": 100 * (ratio - 1)} | _ends("drop", percent))


def _ends(name: str, ends: tuple[float, float] | None) -> Row:
    return {} if ends is None else {f"{name}_low": ends[0], f"{name}_high": ends[1]}
