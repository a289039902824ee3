"""Is recipe A better than recipe B? Two variants of a model on an engine, paired on the items and seeds that both have.

Of up to `FEW` variants every two are compared; of more, those of one format, which cost the same, and each with the unquantized
model: nobody reads a matrix of a hundred, and Holm's correction would count its thousands of pairs.

What both lose against the baseline says little of it: two drops whose intervals overlap may differ beyond doubt, since most items
are easy or hard for both. Calibration draws of the two count as independent, which widens an interval rather than narrows it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ptqflow.artifacts.table_schemas import COMPARISON
from ptqflow.errors import ArtifactError
from ptqflow.evaluation import decision, difference, random_effects, significance, statistics
from ptqflow.progress import progress
from ptqflow.reporting.render import Bold, TextTable, number
from ptqflow.reporting.runs import AVERAGE, PERPLEXITY, Runs, common, paired
from ptqflow.reporting.variants import BASELINE, FEW, Served, Variant

Row = dict[str, Any]
Sides = dict[str, dict[str, tuple[Row, int]]]
_PLACE = ("platform", "model", "engine")
_NOTES = [
    "Points by which the row's average is higher than the column's, on the items and seeds that both have, and the probability "
    "that it is higher at all (flat prior over the shares of items that one of them alone solves; calibration draws included).",
    "Bold: the two differ at 5 %, by Holm's correction over all pairs.",
]
_NOTES_OF_FORMAT = [
    "Best first. Points by which the row's average is higher than the column's, on the items and seeds that both have, and the "
    "95 % interval of this pair alone.",
    "Bold: the two differ at 5 %, by Holm's correction over all pairs of one format, or over all with the baseline.",
]
_NOTES_OF_FORMATS = [
    "A format is what recipes cost whatever their method: bits of weights, inputs and cache, and g, the inputs of a row that "
    "share one scale. Recipes of different formats are not compared with each other.",
    "The best is the highest on average; where others are not told from it, chance had a part in which it is. Against baseline: "
    "points above the unquantized model, and the 95 % interval.",
    _NOTES_OF_FORMAT[1],
]


def build(
    runs: Mapping[Served, dict[str, Runs]],
    seed: int = 0,
    exact: Collection[Served] = (),
    formats: Mapping[Variant, str] | None = None,
) -> list[Row]:
    """Rows of schema COMPARISON, each pair once, by task and on average, of accuracy alone. `exact` as in `accuracy.build`.

    `formats` of the variants, by `formats.format_of`. Raises ArtifactError where there are more than `FEW` and one has none.
    """
    rows: list[Row] = []
    for place in dict.fromkeys(tuple(getattr(v, c) for c in _PLACE) for v in runs):
        group = [v for v in runs if tuple(getattr(v, c) for c in _PLACE) == place and v.recipe != BASELINE]
        tasks = dict.fromkeys(task for v in group for task, found in runs[v].items() if found.metric != PERPLEXITY)
        families = _families(group, runs, formats or {})
        with progress(f"compare recipes on {place[1]}", sum(map(len, families)), "pairs") as done:
            for pairs in families:
                found = []
                for cost, one, other in pairs:
                    found += [row | {"format": cost} for row in _pair(runs, one, other, list(tasks), seed, exact, len(pairs))]
                    done.update()
                for task in [*tasks, AVERAGE]:
                    family = [row for row in found if row["task"] == task]
                    for row, adjusted in zip(family, significance.holm([row["p_value"] for row in family]), strict=True):
                        row["p_holm"] = adjusted
                rows += found
    return [{name: row.get(name) for name in COMPARISON.names} for row in rows]


def _families(
    group: Sequence[Served], runs: Collection[Served], formats: Mapping[Variant, str]
) -> Sequence[Sequence[tuple[str | None, Served, Served]]]:
    """The pairs that are compared, with their format (None where every two variants are), by what Holm's correction is over."""
    if len(group) <= FEW:
        return [[(None, one, other) for one, other in combinations(group, 2)]]
    if unknown := [str(v) for v in group if v.variant not in formats]:
        raise ArtifactError(f"{unknown[0]}: what it costs is not known; give aggregate the manifest of its checkpoint")
    cost = {v: formats[v.variant] for v in group}
    against = [(cost[v], v.baseline, v) for v in group if v.baseline in runs]
    alike = [(cost[one], one, other) for one, other in combinations(group, 2) if cost[one] == cost[other]]
    return [against, alike]


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
        variable = [v for v in (one, other) if v not in exact and v.recipe != BASELINE]
        drawn = [random_effects.average([effects[task][v] for task in chosen]) for v in variable]
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
    """A matrix for each model on a platform and engine, of the averages; one without rows where there is nothing to compare.

    Where recipes are compared by format: what is best in each, and a matrix for each that has several.
    """
    grids = []
    for place in dict.fromkeys(tuple(row[c] for c in _PLACE) for row in rows):
        everything = [row for row in rows if tuple(row[c] for c in _PLACE) == place]
        here = [row for row in everything if row["task"] == AVERAGE]
        where, formats = ", ".join(place), dict.fromkeys(row["format"] for row in here)
        every, compared = ({name for row in found for name in _names(row, forms=True)} for found in (everything, here))
        partly = sorted(every - compared)
        left_out = [f"Not compared, for want of a score on every task: {', '.join(partly)}."] if here and partly else []
        if formats and None not in formats:
            sides = {cost: _sides([row for row in here if row["format"] == cost]) for cost in formats}
            grids += _by_format(where, sides, left_out)
        else:
            notes = _NOTES if here else ["No two recipes have a score on every task, so none of their averages can be compared."]
            grids.append(_matrix(f"Is the row better than the column? {where}", _sides(here), _cell, [*notes, *left_out]))
    nothing = "No two recipes of a model have a score on the same task, items and seeds."
    return grids or [TextTable("Is the row better than the column?", ["Recipe"], [], 1, [nothing])]


def _names(row: Row, forms: bool) -> tuple[str, str]:
    """Both recipes; with `forms`, and that which each has."""
    one, other = (
        row[name] + (f".{row[form]}" if forms and row[form] else "")
        for name, form in (("recipe", "form"), ("other_recipe", "other_form"))
    )
    return one, other


def _sides(rows: Sequence[Row]) -> Sides:
    """What each variant is compared with: the row, and from which side it is seen, the first one's (1) or the other's (-1)."""
    forms = {row[c] for row in rows for c in ("form", "other_form")} - {None}
    found: Sides = {}
    for row in rows:
        one, other = _names(row, len(forms) > 1)
        found.setdefault(one, {})[other] = row, 1
        found.setdefault(other, {})[one] = row, -1
    return found


def _matrix(title: str, sides: Sides, cell: Callable[[Row, int], str], notes: Sequence[str]) -> TextTable:
    body = [[name, *(cell(*found[other]) if other in found else "–" for other in sides)] for name, found in sides.items()]
    return TextTable(title, ["Recipe", *sides], body, 1, notes)


def _by_format(where: str, formats: Mapping[str, Sides], left_out: Sequence[str]) -> list[TextTable]:
    """What is best in each format, then a matrix, best first, of each that has several recipes."""
    body, matrices = [], []
    for cost, unsorted in formats.items():
        ahead = {name: sum(sign * row["difference"] for row, sign in found.values()) for name, found in unsorted.items()}
        sides = {name: unsorted[name] for name in sorted(ahead, key=lambda name: -ahead[name])}
        best, *others = (name for name in sides if name != BASELINE)
        alike = [name for name in others if name in sides[best] and not _differ(sides[best][name][0])]
        against = _interval(*sides[best][BASELINE]) if BASELINE in sides[best] else "–"
        body.append([cost, best, ", ".join(alike) or "–", str(1 + len(others)), against])
        if others:
            matrices.append(_matrix(f"{cost}: is the row better than the column? {where}", sides, _interval, _NOTES_OF_FORMAT))
    header = ["Format", "Best", "Not told from it", "Recipes", "Best against baseline"]
    return [
        TextTable(f"Which recipe is best in each format? {where}", header, body, 3, [*_NOTES_OF_FORMATS, *left_out]),
        *matrices,
    ]


def _cell(row: Row, sign: int) -> str:
    """Difference and probability that it is positive, seen from one side (1) or the other (-1)."""
    better = row["p_better"] if sign > 0 else 1 - row["p_better"]
    sure = "> 99" if better > 0.99 else "< 1" if better < 0.01 else f"{100 * better:.0f}"
    return _points(row, sign, f"({sure} %)")


def _interval(row: Row, sign: int) -> str:
    """Difference and its interval, as `_cell`."""
    low, high = sorted(sign * row[end] for end in ("difference_low", "difference_high"))
    return _points(row, sign, f"[{number(low, 1)}, {number(high, 1)}]")


def _points(row: Row, sign: int, sure: str) -> str:
    value = sign * row["difference"]
    text = f"{'+' if value > 0.05 else ''}{number(value, 1)} {sure}"
    return Bold(text) if _differ(row) else text


def _differ(row: Row) -> bool:
    return bool(row["p_holm"] <= 1 - statistics.LEVEL + 1e-12)
