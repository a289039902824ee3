"""The accuracy table: every variant on every task, with its paired drop against the baseline of its platform, model and engine.

A drop is computed on the (item, seed) pairs that both have; how many these are is stated. A variant that was not evaluated on a
task has a row that says so, and no average: means over different tasks cannot be compared.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ptqflow.artifacts.table_schemas import ACCURACY
from ptqflow.evaluation import decision, difference, random_effects, significance, statistics
from ptqflow.reporting.runs import AVERAGE, PERPLEXITY, Runs, common, paired
from ptqflow.reporting.variants import Served
from ptqflow.words import counted

Row = dict[str, Any]


@dataclass(frozen=True)
class _Cell:
    """A finished row, with what the average needs: the items' scores and pairs (fractions), and what they can carry."""

    row: Row
    score: statistics.Floats | None = None
    samples: float = 1  # completions per item
    paired: statistics.Paired | None = None
    evidence: decision.Evidence | None = None


@dataclass(frozen=True)
class _How:
    """The seed of the bootstrap, the variants that another draw would make the same, the drop that a user allows, and how many
    drops a column holds."""

    seed: int
    exact: Collection[Served]
    max_drop: float
    family: int


def build(
    runs: Mapping[Served, dict[str, Runs]],
    seed: int = 0,
    exact: Collection[Served] = (),
    max_drop: float = decision.LOSSLESS,
) -> list[Row]:
    """Rows of schema ACCURACY. `exact`: variants of which no calibration draw and no seed could make another checkpoint;
    `max_drop`: the points of drop that `p_within` asks about.

    Order: as the variants first appear; accuracy tasks, their average, perplexity tasks. Raises ArtifactError when two variants
    were asked different things.
    """
    how = _How(seed, exact, max_drop, len(runs))
    rows: list[Row] = []
    for place in dict.fromkeys((v.platform, v.model, v.engine) for v in runs):
        group = {v: tasks for v, tasks in runs.items() if (v.platform, v.model, v.engine) == place}
        metrics = _metrics(group)
        found = [
            row
            for variant, tasks in group.items()
            for row in _variant_rows(variant, tasks, group.get(variant.baseline), metrics, how)
        ]
        for task in [*metrics, AVERAGE]:
            _adjust("p_holm", [row for row in found if row["task"] == task])
        for variant in group:
            _adjust("p_tasks", [row for row in found if row["task"] != AVERAGE and variant.columns.items() <= row.items()])
        rows += found
    return [{name: row.get(name) for name in ACCURACY.names} for row in rows]


def _adjust(column: str, rows: Sequence[Row]) -> None:
    """Holm's p in `column` of the rows that have a p: they are one family."""
    family = [row for row in rows if row.get("p_value") is not None]
    for row, adjusted in zip(family, significance.holm([row["p_value"] for row in family]), strict=True):
        row[column] = adjusted


def _metrics(group: dict[Served, dict[str, Runs]]) -> dict[str, str]:
    """Task -> metric for all tasks of a model, accuracy tasks first."""
    found = {task: runs.metric for tasks in group.values() for task, runs in tasks.items()}
    return dict(sorted(found.items(), key=lambda entry: entry[1] == PERPLEXITY))


def _variant_rows(
    variant: Served, tasks: dict[str, Runs], baseline: dict[str, Runs] | None, metrics: dict[str, str], how: _How
) -> list[Row]:
    cells = {}
    for task, metric in metrics.items():
        reference = None if variant == variant.baseline else (baseline or {}).get(task)
        if task not in tasks:
            cells[task] = _Cell(_row(variant, task, metric, note="not evaluated"))
        elif metric == PERPLEXITY:
            cells[task] = _perplexity(variant, task, tasks[task], reference, how)
        else:
            cells[task] = _accuracy(variant, task, tasks[task], reference, how)
    accuracy = [cells[task] for task, metric in metrics.items() if metric != PERPLEXITY]
    rows = [cell.row for cell in accuracy]
    if accuracy:
        rows.append(_average(variant, accuracy, how))
    return rows + [cells[task].row for task, metric in metrics.items() if metric == PERPLEXITY]


def _row(variant: Served, task: str, metric: str, **values: Any) -> Row:
    nothing = {"items": 0, "seeds": 0, "replicates": 0, "collapsed": False}
    return {**variant.columns, "task": task, "metric": metric, **nothing, **values}


def _counts(variant: Served, runs: Runs, reference: Runs | None, pairs: pd.MultiIndex | None) -> Row:
    """How much was scored and how much of it is paired, with a note where these differ or nothing can be paired."""
    counts: Row = {"items": runs.count("item"), "seeds": runs.count("seed"), "replicates": len(runs.frames)}
    counts |= {"truncated": runs.truncated, "note": runs.note}
    if reference is None or pairs is None:
        lacks = "no baseline of this platform, model, engine and task to pair with"
        if reference is not None:
            lacks = "no item and seed in common with the baseline"
        return counts if variant == variant.baseline else counts | {"note": _both(counts["note"], lacks)}
    items, scored, asked = int(pairs.get_level_values("item").nunique()), len(runs.frames[0]), len(reference.index)
    counts |= {"paired_items": items, "paired_runs": len(pairs)}
    if {len(pairs)} != {asked, *(len(frame) for frame in runs.frames)}:
        note = f"paired on {counted(len(pairs), 'run')} of {counted(items, 'item')} (scored {scored}, baseline {asked})"
        counts["note"] = _both(counts["note"], note)
    return counts


def _both(*notes: str | None) -> str:
    return "; ".join(note for note in notes if note)


def _accuracy(variant: Served, task: str, runs: Runs, reference: Runs | None, how: _How) -> _Cell:
    if not runs.scored:
        collapsed = {"collapsed": runs.collapsed, "note": runs.note}
        return _Cell(_row(variant, task, "accuracy", truncated=runs.truncated, **collapsed))
    pairs = common(variant, task, runs, reference)
    score = runs.items("value")
    samples = runs.samples()
    low, high = statistics.accuracy_interval([score], [samples])
    row = _row(variant, task, "accuracy", **_counts(variant, runs, reference, pairs))
    row |= {"score": 100 * float(score.mean()), "score_low": 100 * low, "score_high": 100 * high}
    if reference is not None and not reference.scored:
        return _Cell(row | {"note": _both(runs.note, f"baseline: {reference.note}")}, score, samples)
    if reference is None or pairs is None:
        return _Cell(row, score, samples)
    both = paired(reference, runs, pairs)
    evidence = decision.Evidence(len(both.before), 100 * float(both.before.mean()), reference.truncated)
    drop = _drop(variant, {task: both}, {task: evidence}, runs.count("seed"), task, how)
    return _Cell(row | drop, score, samples, both, evidence)


def _drop(
    variant: Served,
    pairs: dict[str, statistics.Paired],
    evidence: dict[str, decision.Evidence],
    seeds: int,
    name: str,
    how: _How,
) -> Row:
    """Columns of the drop in points, the mean over tasks, and of its verdict."""
    tasks = [random_effects.of(pair.each, pair.changed) for pair in pairs.values() if pair.each is not None]
    effects = [] if variant in how.exact else [random_effects.average(tasks)]
    found = difference.of(pairs, effects, seeds, how.seed, name, how.family)
    baseline = 100 * float(np.mean([pair.before.mean() for pair in pairs.values()]))
    lossless, fair, risky = probabilities = decision.class_probabilities(found.posterior)
    verdict, doubt = decision.verdict(probabilities, evidence)
    open_question = verdict == "undecided" and doubt is None  # else no number of items would change anything
    needed = decision.needed(decision.sd_for_class(found.mean), found.spread) if open_question else decision.Needed()
    return {
        "drop": found.mean,
        "drop_low": found.low,
        "drop_high": found.high,
        "replicate_sd": 100 * effects[0].variance ** 0.5 if effects and len(effects[0].means) > 1 else None,
        "p_value": found.p,
        "recovery": 100 * (1 - found.mean / baseline) if baseline > 0 else None,
        "p_lossless": lossless,
        "p_fair": fair,
        "p_risky": risky,
        "p_within": float(np.mean(found.posterior <= how.max_drop)),
        "verdict": verdict,
        "doubt": doubt,
        **decision.columns(needed),
    }


def _average(variant: Served, cells: Sequence[_Cell], how: _How) -> Row:
    rows = [cell.row for cell in cells]
    average = _row(variant, AVERAGE, "accuracy", items=sum(r["items"] for r in rows), seeds=min(r["seeds"] for r in rows))
    average |= {"replicates": min(r["replicates"] for r in rows), "collapsed": any(r["collapsed"] for r in rows)}
    scores = [(cell.score, cell.samples) for cell in cells if cell.score is not None]
    if len(scores) < len(cells):
        return average | {"note": f"no average: {_reasons([row for row in rows if row.get('score') is None])}"}
    low, high = statistics.accuracy_interval(*zip(*scores, strict=True))
    average |= {"score": float(np.mean([row["score"] for row in rows])), "score_low": 100 * low, "score_high": 100 * high}
    pairs = {str(cell.row["task"]): cell.paired for cell in cells if cell.paired is not None}
    if len(pairs) < len(cells):
        unpaired = [row for row in rows if row.get("drop") is None]
        return average if variant == variant.baseline else average | {"note": f"no drop: {_reasons(unpaired)}"}
    for column in ("paired_items", "paired_runs"):
        average[column] = sum(row[column] for row in rows)
    notes = [f"{row['task']}: {row['note']}" for row in rows if row.get("note")]
    evidence = {str(cell.row["task"]): cell.evidence for cell in cells if cell.evidence is not None}
    drop = _drop(variant, pairs, evidence, average["seeds"], AVERAGE, how)
    return average | drop | {"note": "; ".join(notes) or None}


def _reasons(rows: Sequence[Row]) -> str:
    """What rows say of themselves, tasks that say the same together."""
    tasks: dict[str, list[str]] = {}
    for row in rows:
        tasks.setdefault(row["note"], []).append(row["task"])
    return "; ".join(f"{', '.join(names)}: {note}" for note, names in tasks.items())


def _perplexity(variant: Served, task: str, runs: Runs, reference: Runs | None, how: _How) -> _Cell:
    row = _row(variant, task, PERPLEXITY, **_counts(variant, runs, reference, common(variant, task, runs, reference)))
    losses = runs.each("value")
    if broken := int((~np.isfinite(losses)).sum()):
        note = f"{broken} of {losses.size} windows have a loss that is not finite"
        return _Cell(row | {"collapsed": True, "note": note})
    nll, tokens = runs.items("value"), runs.items("tokens")
    if (loss := nll.sum() / tokens.sum()) > statistics.LARGEST_LOSS:
        return _Cell(row | {"collapsed": True, "note": f"a loss of {loss:.0f} nats per token, whose perplexity no number holds"})
    row["score"] = statistics.perplexity(nll, tokens)
    row |= _ends("score", statistics.perplexity_interval(nll, tokens, statistics.stream(how.seed, task, "score")))
    pairs = common(variant, task, runs, reference)
    if reference is None or pairs is None:
        return _Cell(row)
    before, after, tokens = reference.items("value", pairs), runs.items("value", pairs), runs.items("tokens", pairs)
    if not np.isfinite(before).all():
        return _Cell(row | {"note": "the baseline's loss is not finite"})
    ratio = statistics.perplexity(after - before, tokens)
    ends = statistics.perplexity_ratio_interval(after, before, tokens, statistics.stream(how.seed, task, "drop"))
    row["p_value"] = statistics.perplexity_p(after, before, tokens, statistics.stream(how.seed, task, "drop"))
    percent = None if ends is None else (100 * (ends[0] - 1), 100 * (ends[1] - 1))
    return _Cell(row | {"drop": 100 * (ratio - 1)} | _ends("drop", percent))


def _ends(name: str, ends: tuple[float, float] | None) -> Row:
    return {} if ends is None else {f"{name}_low": ends[0], f"{name}_high": ends[1]}
