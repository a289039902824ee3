"""Which blocks came out badly, and the ladder by which each is calibrated again: the paper's tuning of single layers, as a rule.

A block stands out where its held-out error, relative to what the float block adds, is far above that of its neighbours and above
the trend of the model's blocks, both in robust standard deviations of log errors; or where its calibration fell back to plain
rounding. Such blocks are calibrated again, worst first, one rung at a time, until they stand out no more or the budget is spent;
the budget is first for the last rung, at 8 bits, of every such block, and then for the rungs before it.

What harms all blocks alike lets none stand out, so before that each is held against itself untrained, which no fault of learning
touches: of those that gained nothing one tries every rung, and the others the one that helped it most. What a rung finds is a
list of overrides, so that a rescued recipe is a recipe like any other.
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
    `untrained`: the same error before learning; `linear_errors`: by linear, relative; `fallback`: what was done instead of the
    recipe; `overrides`: of the recipe.
    """

    error: float
    linear_errors: Mapping[str, float]
    fallback: str | None = None
    seconds: float = 0.0
    untrained: float | None = None
    overrides: tuple[Override, ...] = ()

    @property
    def rank(self) -> tuple[bool, float]:
        """Of two outcomes the better has the smaller. An error that is no number is the largest."""
        return self.fallback is not None, self.error if math.isfinite(self.error) else math.inf


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
        learned = [getattr(recipe.transform_of(layer), "epochs", 0) > 0 for layer in range(len(blocks))]
        self._untrained = [block.untrained if learns else None for block, learns in zip(blocks, learned, strict=True)]
        self._rungs = self._settings.rungs or [*recipe.transform.rungs(), EIGHT_BITS]
        self._climbed = set[int]()
        linears = sum(map(len, sites)) * len(blocks)
        self._calibrations_left: float = self._settings.budget * len(blocks)
        self._linears_left = math.floor(self._settings.at_8_bits * linears)  # that may go to 8 bits

    def overrides(self) -> list[Override]:
        """What the blocks ended with, in order of layers."""
        return [override for outcome in self.best for override in outcome.overrides]

    def climb(self) -> None:
        """Try rungs for all blocks that learned nothing; then for those that stand out, worst first."""
        together = self._climb_together()
        while standing := self._to_climb():
            worst = max(standing, key=lambda layer: (self.best[layer].fallback is not None, self._score(layer)))
            self._climbed.add(worst)
            for rung in self._rungs:
                if rung == EIGHT_BITS:
                    self._raise(worst)
                elif worst not in together and worst in self._standing_out():
                    self._learn(worst, rung, keep=self._last_rung(worst, rung))

    def _climb_together(self) -> set[int]:
        """The block that learned least tries all that learns, cheapest first; if it then learns, the others try its best rung.

        Returns the blocks that tried anything. Once a rung helped, what the others need for it is kept for them.
        """
        idle = sorted((layer for layer in range(len(self.best)) if self._idle(layer)), key=self._kept_share, reverse=True)
        learning = [rung for rung in self._rungs if rung != EIGHT_BITS]
        for rung in sorted(learning, key=lambda rung: self._recipe.transform.rungs()[rung].get("epochs", 0)):
            if idle:
                others = 0.0 if self._idle(idle[0]) else self._cost(self.best[idle[0]].overrides, idle[0]) * (len(idle) - 1)
                self._learn(idle[0], rung, keep=others)
        if not idle or self._idle(idle[0]):
            return set(idle[:1])
        helped = [row["rung"] for row in self.rows if row["kept"]][-1]
        for layer in idle[1:]:
            self._learn(layer, helped)
        return set(idle)

    def _standing_out(self) -> list[int]:
        scored = enumerate(zip(self.best, scores([outcome.error for outcome in self.best]), strict=True))
        return [layer for layer, (best, score) in scored if best.fallback is not None or score > self._settings.score]

    def _to_climb(self) -> list[int]:
        return [layer for layer in self._standing_out() if layer not in self._climbed]

    def _kept_share(self, layer: int) -> float:
        """Error / that before learning; 0 where nothing was to be learned, infinite where the block fell back."""
        untrained = self._untrained[layer]
        if not untrained:
            return 0.0
        share = self.best[layer].error / untrained
        return share if math.isfinite(share) and self.best[layer].fallback is None else math.inf

    def _idle(self, layer: int) -> bool:
        return self._kept_share(layer) > 1 - self._settings.least_gain

    def _score(self, layer: int) -> float:
        return scores([outcome.error for outcome in self.best])[layer]

    def _learn(self, layer: int, rung: str, keep: float = 0.0) -> None:
        overrides = self._changes(layer, rung)
        self._attempt(layer, rung, overrides, self._cost(overrides, layer), keep)

    def _changes(self, layer: int, rung: str) -> list[Override]:
        return [Override(layers=[layer], transform=self._recipe.transform_of(layer).rungs()[rung])]

    def _last_rung(self, layer: int, rung: str) -> float:
        """What a site of the block at 8 bits may cost after this rung; 0 where none may go there."""
        costs = (self._cost(overrides, layer) for overrides in (self._changes(layer, rung), self.best[layer].overrides))
        return max(costs) if self._raisable(layer) else 0.0

    def _raise(self, layer: int) -> None:
        """Sites to 8 bits, on top of the best that was learned: the one whose linears lost most first, until it is enough."""
        lost = self.best[layer].linear_errors
        for site in sorted(self._sites, key=lambda site: max((lost.get(name, 0.0) for name in site), default=0.0), reverse=True):
            if layer not in self._standing_out():
                return
            raised = [name for name in site if self._below_8(layer, name)]
            if raised and len(raised) <= self._linears_left:
                own = [*self.best[layer].overrides, *(self._at_8(layer, name) for name in raised)]
                if self._attempt(layer, EIGHT_BITS, own, self._cost(own, layer)):
                    self._linears_left -= len(raised)

    def _raisable(self, layer: int) -> bool:
        """Whether a site of the block may go to 8 bits."""
        sizes = [sum(self._below_8(layer, name) for name in site) for site in self._sites]
        return EIGHT_BITS in self._rungs and any(0 < size <= self._linears_left for size in sizes)

    def _cost(self, overrides: Sequence[Override], layer: int) -> float:
        """Calibrations of the block that one with these overrides costs."""
        recipes = (self._recipe.changed([*overrides]), self._recipe)
        epochs = [max(getattr(recipe.transform_of(layer), "epochs", 1), 1) for recipe in recipes]
        return float(epochs[0] / epochs[1])

    def _below_8(self, layer: int, linear: str) -> bool:
        read = (self._recipe.weights(layer, linear), self._recipe.input_activations(layer, linear))
        return any(args is not None and args.num_bits < 8 for args in read)

    def _at_8(self, layer: int, linear: str) -> Override:
        given = {
            "weights": self._recipe.weights(layer, linear),
            "input_activations": self._recipe.input_activations(layer, linear),
        }
        raised = {key: args.model_copy(update={"num_bits": 8}) for key, args in given.items() if args is not None}
        return Override.model_validate({"layers": [layer], "linears": [linear], **raised})

    def _attempt(self, layer: int, rung: str, overrides: list[Override], cost: float, keep: float = 0.0) -> bool:
        """Calibrate once more, if the budget has it; keep what is better. Returns whether it is.

        `keep`: calibrations that must be left after it, beside one at 8 bits for each other block that still stands out.
        """
        keep += sum(self._raisable(other) for other in self._to_climb() if other != layer)
        if cost + keep > self._calibrations_left + 1e-9:
            return False
        self._calibrations_left -= cost
        before, score = self.best[layer], self._score(layer)
        after = replace(self._calibrate(layer, overrides), overrides=tuple(overrides))
        kept = after.rank < before.rank
        if kept:
            self.best[layer] = after
        at_8 = [name for o in overrides if o.linears != "all" for name in o.linears]
        self.rows.append(
            {
                "attempt": len(self.rows),
                "layer": layer,
                "rung": rung,
                "score_before": score,
                "score_after": self._score(layer) if kept else score,
                "error_untrained": self._untrained[layer],
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
