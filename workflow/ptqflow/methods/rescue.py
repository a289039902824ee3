"""Which blocks came out badly, and the ladder by which each is calibrated again: the paper's tuning of single layers, as a rule.

A block stands out where its held-out error, relative to what the float block adds, is far above that of its neighbours and above
the trend of the model's blocks, both in robust standard deviations of log errors; or where its calibration fell back to plain
rounding. Only such blocks are calibrated again, worst first, one rung at a time, until they stand out no more or the budget is
spent. What a rung finds is a list of overrides, so that a rescued recipe is a recipe like any other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median, median_low
from typing import Any

from ptqflow.recipes import EIGHT_BITS, Override, Recipe

_NEIGHBOURS = 2  # on each side
_LEAST_SPREAD = 0.1  # of log errors: a tenth more than the others is nothing that stands out by itself
_TO_SIGMA = 1.4826  # of a normal distribution's median absolute deviation
_FEWEST = 3  # blocks of which one can stand out
_SLOPE_FROM = 12  # blocks whose trend is a line; that of fewer is their median


@dataclass(frozen=True)
class Outcome:
    """A calibration of a block. `error`: held-out mean squared error / mean square of the float block's update;
    `linear_errors`: by linear, relative; `fallback`: what was done instead of the recipe; `overrides`: of the recipe.
    """

    error: float
    linear_errors: Mapping[str, float]
    fallback: str | None = None
    seconds: float = 0.0
    overrides: tuple[Override, ...] = ()


@dataclass
class _Spent:
    """What is left: calibrations of a block, and linears that may go to 8 bits."""

    calibrations: float
    linears: int


Calibrate = Callable[[int, Sequence[Override]], Outcome]


def scores(errors: Sequence[float]) -> list[float]:
    """By block, how far log(error) is above its neighbours and a Theil-Sen line (the smaller), in robust deviations from it."""
    if len(errors) < _FEWEST:
        return [0.0] * len(errors)
    logs = [math.log(max(error, 1e-30)) if math.isfinite(error) else math.inf for error in errors]
    largest = max([value for value in logs if math.isfinite(value)], default=0.0)
    logs = [min(value, largest + 100.0) for value in logs]  # an error that is no number is a very large one
    steps = [(logs[j] - logs[i]) / (j - i) for i, j in combinations(range(len(logs)), 2)]
    slope = median(steps) if len(logs) >= _SLOPE_FROM else 0.0
    level = median(value - slope * i for i, value in enumerate(logs))
    residuals = [value - slope * i - level for i, value in enumerate(logs)]
    spread = max(_TO_SIGMA * median(abs(r) for r in residuals), _LEAST_SPREAD)
    # The lower median, since a neighbour that stands out itself must not hide a block.
    return [min(residuals[i], value - median_low(_near(logs, i))) / spread for i, value in enumerate(logs)]


def _near(values: Sequence[float], i: int) -> list[float]:
    return [values[j] for j in range(max(0, i - _NEIGHBOURS), min(len(values), i + _NEIGHBOURS + 1)) if j != i]


class Ladder:
    """Climbs for every block that stands out. `best`: by block, the best outcome; `rows`: one per attempt, of schema RESCUE."""

    def __init__(self, recipe: Recipe, blocks: Sequence[Outcome], sites: Sequence[Sequence[str]], calibrate: Calibrate) -> None:
        """`blocks`: the first calibration of every block; `sites`: linears that read one input, which go to 8 bits together;
        `calibrate(layer, overrides)`: a block once more by the recipe with overrides.
        """
        assert recipe.rescue is not None, "asked for by the recipe"
        self._recipe, self._settings, self._sites, self._calibrate = recipe, recipe.rescue, sites, calibrate
        self.best, self.rows = list(blocks), list[dict[str, Any]]()
        linears = sum(map(len, sites)) * len(blocks)
        self._left = _Spent(self._settings.budget * len(blocks), math.floor(self._settings.at_8_bits * linears))

    def overrides(self) -> list[Override]:
        """What the blocks ended with, in order of layers."""
        return [override for outcome in self.best for override in outcome.overrides]

    def climb(self) -> None:
        """Try rungs for all blocks that stand out, worst first."""
        tried: set[int] = set()
        while standing := [layer for layer in range(len(self.best)) if layer not in tried and self._stands_out(layer)]:
            worst = max(standing, key=lambda layer: (self.best[layer].fallback is not None, self._score(layer)))
            tried.add(worst)
            for rung in self._settings.rungs or [*self._recipe.transform.rungs(), EIGHT_BITS]:
                if self._stands_out(worst):
                    self._raise(worst) if rung == EIGHT_BITS else self._learn(worst, rung)

    def _score(self, layer: int) -> float:
        return scores([outcome.error for outcome in self.best])[layer]

    def _stands_out(self, layer: int) -> bool:
        return self.best[layer].fallback is not None or self._score(layer) > self._settings.score

    def _learn(self, layer: int, rung: str) -> None:
        changes = self._recipe.transform_of(layer).rungs()[rung]
        base = max(getattr(self._recipe.transform_of(layer), "epochs", 1), 1)
        self._attempt(layer, rung, [Override(layers=[layer], transform=changes)], max(changes.get("epochs", base), 1) / base)

    def _raise(self, layer: int) -> None:
        """Sites to 8 bits, on top of the best that was learned: the one whose linears lost most first, until it is enough."""
        lost = self.best[layer].linear_errors
        for site in sorted(self._sites, key=lambda site: max((lost.get(name, 0.0) for name in site), default=0.0), reverse=True):
            if not self._stands_out(layer):
                return
            raised = [name for name in site if self._below_8(layer, name)]
            if raised and len(raised) <= self._left.linears:
                own = [*self.best[layer].overrides, *(self._at_8(layer, name) for name in raised)]
                if self._attempt(layer, EIGHT_BITS, own, self._cost(layer)):
                    self._left.linears -= len(raised)

    def _cost(self, layer: int) -> float:
        """Calibrations of the block that one by its best settings costs."""
        changed = self._recipe.changed(list(self.best[layer].overrides))
        epochs = [max(getattr(recipe.transform_of(layer), "epochs", 1), 1) for recipe in (changed, self._recipe)]
        return float(epochs[0] / epochs[1])

    def _below_8(self, layer: int, linear: str) -> bool:
        args = self._recipe.weights(layer, linear)
        return args is not None and args.num_bits < 8

    def _at_8(self, layer: int, linear: str) -> Override:
        given = {
            "weights": self._recipe.weights(layer, linear),
            "input_activations": self._recipe.input_activations(layer, linear),
        }
        raised = {key: args.model_copy(update={"num_bits": 8}) for key, args in given.items() if args is not None}
        return Override.model_validate({"layers": [layer], "linears": [linear], **raised})

    def _attempt(self, layer: int, rung: str, overrides: list[Override], cost: float) -> bool:
        """Calibrate once more, if the budget has it; keep what is better. Returns whether it is."""
        if cost > self._left.calibrations + 1e-9:
            return False
        self._left.calibrations -= cost
        before, score = self.best[layer], self._score(layer)
        after = replace(self._calibrate(layer, overrides), overrides=tuple(overrides))
        kept = (after.fallback is not None, after.error) < (before.fallback is not None, before.error)
        if kept:
            self.best[layer] = after
        at_8 = [name for o in overrides if o.weights is not None and o.linears != "all" for name in o.linears]
        self.rows.append(
            {
                "attempt": len(self.rows),
                "layer": layer,
                "rung": rung,
                "score_before": score,
                "score_after": self._score(layer) if kept else score,
                "error_before": before.error,
                "error_after": after.error,
                "kept": kept,
                "fallback": after.fallback,
                "seconds": after.seconds,
                "calibrations": cost,
                "at_8_bits": ", ".join(at_8),
                "linears_at_8_bits": len(at_8),
            }
        )
        return kept
