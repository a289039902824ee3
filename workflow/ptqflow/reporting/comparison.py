"""Is recipe A better than recipe B? Every two variants of a model on an engine, paired on the items and seeds that both have.

What both lose against the baseline says little of it: two drops whose intervals overlap may differ beyond doubt, since most items
are easy or hard for both. Calibration draws of the two count as independent, which widens an interval rather than narrows it.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ptqflow.artifacts.table_schemas import COMPARISON
from ptqflow.evaluation import decision, difference, random_effects, statistics
from ptqflow.progress import progress
from ptqflow.reporting.render import Bold, TextTable, number
from ptqflow.reporting.runs import AVERAGE, PERPLEXITY, Runs, common, paired
from ptqflow.reporting.variants import BASELINE, Served

Row = dict[str, Any]
_PLACE = ("platform", "model", "engine")
_NOTES = [
    "Points by which the row's average is higher than the column's, on the items and seeds that both have, and the probability "
    "that it is higher at all (flat prior over the shares of items that one of them alone solves; calibration draws included).",
    "Bold: the two differ at 5 %, by Holm's correction over all pairs.",
]


def build(runs: Mapping[Served, dict[str, Runs]], seed: int = 0, exact: Collection[Served] = ()) -> list[Row]:
    """Rows of schema COMPARISON, each pair once, by task and on average, of accuracy alone. `exact` as in `accuracy.build`."""
    rows: list[Row] = []
    for place in dict.fromkeys(tuple(getattr(v, c) for c in _PLACE) for v in runs):
        group = [v for v in runs if tuple(getattr(v, c) for c in _PLACE) == place and v.recipe != BASELINE]
        tasks = dict.fromkeys(task for v in group for task, found in runs[v].items() if found.metric != PERPLEXITY)
        both, found = list(combinations(group, 2)), []
        with progress(f"compare recipes on {place[1]}", len(both), "pairs") as done:
            for one, other in both:
                found += _pair(runs, one, other, list(tasks), seed, exact, len(both))
                done.update()
        for task in [*tasks, AVERAGE]:
            family = [row for row in found if row["task"] == task]
            for row, adjusted in zip(family, statistics.holm([row["p_value"] for row in family]), strict=True):
                row["p_holm"] = adjusted
        rows += found
    return [{name: row.get(name) for name in COMPARISON.names} for row in rows]


def _pair(
    runs: Mapping[Served, dict[str, Runs]],
    one: Served,
    other: Served,
    tasks: list[str],
    seed: int,
    exact: Collection[Served],
    family: int,
) -> list[Row]:
    pairs, effects = {}, {}
    for task in tasks:
        first, second = runs[one].get(task), runs[other].get(task)
        if first is None or second is None or not (first.scored and second.scored):
            continue
        index = common(other, task, second, first)
        if index is None:
            continue
        pairs[task] = paired(first, second, index)
        changed = pairs[task].changed
        effects[task] = {v: random_effects.of(f.each("value", index), changed) for v, f in ((one, first), (other, second))}
    who = {**one.columns, "other_recipe": other.recipe, "other_form": other.form}

    def row(name: str, chosen: Sequence[str]) -> Row:
        seeds = min(runs[who][task].count("seed") for who in (one, other) for task in chosen)
        drawn = [random_effects.average([effects[task][v] for task in chosen]) for v in (one, other) if v not in exact]
        found = difference.of({task: pairs[task] for task in chosen}, drawn, seeds, seed, name, family)
        better = float(np.mean(found.posterior > 0) + np.mean(found.posterior == 0) / 2)
        decided = max(better, 1 - better) >= decision.DECIDED
        needed = decision.Needed() if decided else decision.needed(decision.sd_for_sign(found.mean), found.spread)
        return {
            **who,
            "task": name,
            "items": sum(len(pairs[task].before) for task in chosen),
            "seeds": seeds,
            "replicates": found.spread.replicates,
            "difference": found.mean,
            "difference_low": found.low,
            "difference_high": found.high,
            "p_better": better,
            "p_value": found.p,
            **decision.columns(needed),
        }

    average = [row(AVERAGE, list(pairs))] if pairs and len(pairs) == len(tasks) else []
    return [*(row(task, [task]) for task in pairs), *average]


def printed(rows: Sequence[Row]) -> list[TextTable]:
    """A matrix for each model on a platform and engine, of the averages; one without rows where there is nothing to compare."""
    grids = []
    for place in dict.fromkeys(tuple(row[c] for c in _PLACE) for row in rows):
        here = [row for row in rows if tuple(row[c] for c in _PLACE) == place and row["task"] == AVERAGE]
        forms = {row[c] for row in here for c in ("form", "other_form")}
        cells: dict[tuple[str, str], str] = {}
        for row in here:
            one, other = (
                row[name] + (f".{row[form]}" if len(forms) > 1 else "")
                for name, form in (("recipe", "form"), ("other_recipe", "other_form"))
            )
            cells[one, other] = _cell(row, 1)
            cells[other, one] = _cell(row, -1)
        names = list(dict.fromkeys(name for pair in cells for name in pair))
        notes = _NOTES if here else ["No two recipes have a score on every task, so none of their averages can be compared."]
        body = [[name, *(cells.get((name, other), "–") for other in names)] for name in names]
        grids.append(TextTable(f"Is the row better than the column? {', '.join(place)}", ["Recipe", *names], body, 1, notes))
    nothing = "No two recipes of a model have a score on the same task, items and seeds."
    return grids or [TextTable("Is the row better than the column?", ["Recipe"], [], 1, [nothing])]


def _cell(row: Row, sign: int) -> str:
    """Difference and probability that it is positive, seen from one side (1) or the other (-1)."""
    better = row["p_better"] if sign > 0 else 1 - row["p_better"]
    sure = "> 99" if better > 0.99 else "< 1" if better < 0.01 else f"{100 * better:.0f}"
    value = sign * row["difference"]
    text = f"{'+' if value > 0.05 else ''}{number(value, 1)} ({sure} %)"
    return Bold(text) if row["p_holm"] <= 1 - statistics.LEVEL + 1e-12 else text
