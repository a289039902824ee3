"""From draws of a drop to a verdict: lossless, fair, risky, or undecided; and what would decide it.

A class is named when its probability reaches DECIDED and the evidence carries it: enough items, a baseline that has something to
lose, that items are not too easy for, and that no limit cuts. Two studies of one truth, each right with probability
DECIDED or more, name different classes only if one of them is wrong; `benchmarks/verdicts.py` counts how often they do.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from ptqflow.evaluation.statistics import Floats
from ptqflow.words import counted

LOSSLESS, RISKY = 1.0, 3.0  # points of drop: at most, at least (source paper's classes; fair lies between)
DECIDED = 0.9
FEWEST_ITEMS = 30
FLOOR, CEILING = 5.0, 99.0  # percent right: below, there is nothing to lose; above, items are too easy to show a loss
CUT = 0.1  # share of the baseline's completions that the token limit may cut
MOST = 1000  # times as much as there is: beyond that, nothing would decide

Class = Literal["lossless", "fair", "risky"]
Verdict = Literal["lossless", "fair", "risky", "undecided"]


def class_probabilities(drop_points: Floats) -> tuple[float, float, float]:
    """Probabilities of lossless (drop <= 1 point), fair (between) and risky (>= 3), from draws of the drop in points."""
    lossless, risky = float(np.mean(drop_points <= LOSSLESS)), float(np.mean(drop_points >= RISKY))
    return lossless, float(np.mean((drop_points > LOSSLESS) & (drop_points < RISKY))), risky


def drop_class(lossless: float, fair: float, risky: float) -> tuple[Class, float]:
    """The most probable class and its probability; the worse class on a tie."""
    ranked: list[tuple[Class, float]] = [("risky", risky), ("fair", fair), ("lossless", lossless)]
    return max(ranked, key=lambda entry: entry[1])


@dataclass(frozen=True)
class Evidence:
    """What a task has to say anything with: paired items, the baseline's score (percent) and the share of its completions cut."""

    items: int
    baseline: float
    truncated: float | None = None

    def doubt(self, found: Class) -> str | None:
        """Why it does not carry this class, however probable; None: it does."""
        if self.items < FEWEST_ITEMS:
            return f"{counted(self.items, 'item')}, fewer than {FEWEST_ITEMS}"
        if self.baseline <= FLOOR:
            return "baseline at the floor"
        if self.baseline >= CEILING and found != "risky":
            return "baseline at the ceiling"
        if self.truncated is not None and self.truncated > CUT:
            return f"{100 * self.truncated:.0f} % of the baseline's completions cut"
        return None


def doubts(tasks: Mapping[str, Evidence], found: Class) -> str | None:
    """Why an average over tasks does not carry this class: half of them or more do not. None: it does."""
    reasons = {task: reason for task, evidence in tasks.items() if (reason := evidence.doubt(found))}
    if 2 * len(reasons) < len(tasks):
        return None
    return "; ".join(f"{task}: {reason}" if len(tasks) > 1 else reason for task, reason in reasons.items())


def verdict(probabilities: tuple[float, float, float], tasks: Mapping[str, Evidence]) -> tuple[Verdict, str | None]:
    """The class, if it is probable enough and the evidence carries it; and what is in doubt of the evidence."""
    name, probability = drop_class(*probabilities)
    doubtful = doubts(tasks, name)
    return name if probability >= DECIDED and doubtful is None else "undecided", doubtful


@dataclass(frozen=True)
class Spread:
    """Where the variance of a mean difference (in points^2) comes from, and of how much of each.

    `by_items` falls with items and `by_replicates` with replicates; of `by_items` the share that seeds of the same items cannot
    lower is `shared` (None where one seed tells nothing of it).
    """

    by_items: float
    items: int
    by_replicates: float = 0.0
    replicates: int = 1
    seeds: int = 1
    shared: float | None = None


@dataclass(frozen=True)
class Needed:
    """How many items, seeds or replicates, each alone, would decide; None: no number of it. `both`: items and replicates."""

    items: int | None = None
    seeds: int | None = None
    replicates: int | None = None
    both: tuple[int, int] | None = None


def columns(found: Needed) -> dict[str, int | None]:
    """As columns of a table; `both` is in those of items and replicates, `needed_both` says so."""
    items, replicates = found.both or (found.items, found.replicates)
    return {
        "needed_items": items,
        "needed_seeds": found.seeds,
        "needed_replicates": replicates,
        "needed_together": None if items is None and replicates is None else found.both is not None,
    }


def sd_for_class(drop: float) -> float:
    """The standard deviation at which the class of a normal drop has probability DECIDED; 0 at a limit.

    From above or below it has one limit to clear; fair has both.
    """
    nearest = min(abs(drop - LOSSLESS), abs(drop - RISKY))
    if not LOSSLESS < drop < RISKY:
        return sd_for_sign(nearest)

    def lacking(sd: float) -> float:
        return DECIDED - float(stats.norm.cdf((RISKY - drop) / sd) - stats.norm.cdf((LOSSLESS - drop) / sd))

    return float(optimize.brentq(lacking, nearest / 4, sd_for_sign(nearest)))


def sd_for_sign(difference: float) -> float:
    """The standard deviation at which the sign of a normal difference has probability DECIDED."""
    return abs(difference) / float(stats.norm.ppf(DECIDED))


def needed(sd: float, spread: Spread) -> Needed:
    """What would bring a difference, were it as estimated, to this standard deviation in points."""
    allowed = sd**2

    def times(variance: float, rest: float, of: int) -> int | None:
        if allowed <= rest or variance > MOST * (allowed - rest):
            return None
        return max(of, math.ceil(of * variance / (allowed - rest)))

    fixed = None if spread.shared is None else spread.by_items * spread.shared + spread.by_replicates
    found = Needed(
        times(spread.by_items, spread.by_replicates, spread.items),
        None if fixed is None else times(spread.by_items + spread.by_replicates - fixed, fixed, spread.seeds),
        times(spread.by_replicates, spread.by_items, spread.replicates) if spread.by_replicates else None,
    )
    total = spread.by_items + spread.by_replicates
    if (found.items, found.seeds, found.replicates) != (None, None, None) or not spread.by_replicates or total > MOST * allowed:
        return found
    return Needed(both=(math.ceil(spread.items * total / allowed), math.ceil(spread.replicates * total / allowed)))
