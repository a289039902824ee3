"""How much a score moves when a recipe is quantized again: the random effect of its replicates.

The mean drop of replicate r is  D_r = D + u_r + e_r,  u_r ~ N(0, s^2) what the draw of calibration data and seeds does to all
items alike, e_r what it does to each item by itself. The bootstrap over items (`statistics`) knows e_r and the items; this adds
u_r.

With R replicates, sum (D_r - mean)^2 / (s^2 + v) is chi-squared of R - 1 degrees, v the variance of e_r, which is told from the
residuals of replicate x item. The prior of s is half-t (Gelman, "Prior distributions for variance parameters in hierarchical
models", Bayesian Anal. 1, 2006) of 3 degrees, its scale a fourteenth of the share of answers that differ, half a point at most:
what a draw moves in one direction is a small part of what quantization moves. On the demo at 4 bits, where 5 % of answers
differ, draws move GPTQ by 0.15 and AWQ by 0.37 points (`benchmarks/verdicts.py`); the scale is about that of the more uneven of
the two. Of a recipe quantized once the prior is all that is known, so an interval never says that a single draw was all draws;
from a few replicates on, the data say s. What is drawn is s from its posterior, then the mean of R effects, N(0, s^2 / R).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ptqflow.evaluation.statistics import RESAMPLES, Floats

FREEDOM = 3
PART, LEAST, MOST = (
    1 / 14,
    0.0005,
    0.005,
)  # scale of s: part of the answers that differ; at least, at most (a fraction of answers)
_GRID = np.geomspace(1e-3, 1e3, 400)  # of s over its scale, in even steps of the logarithm


@dataclass(frozen=True)
class Replicates:
    """The mean score of each replicate on the same items, [replicates], the variance of each that items explain (v), and the
    scale of s before anything is seen.
    """

    means: Floats
    residual: float = 0.0
    scale: float = MOST

    @property
    def weights(self) -> Floats:
        """Posterior of s on the grid, summing to 1."""
        log = np.log(_GRID) + stats.t.logpdf(_GRID, FREEDOM)
        if len(self.means) > 1:
            variance = (self.scale * _GRID) ** 2 + self.residual
            squares = float(((self.means - self.means.mean()) ** 2).sum())
            log = log - (len(self.means) - 1) / 2 * np.log(variance) - squares / (2 * variance)
        weights = np.exp(log - log.max())
        return np.asarray(weights / weights.sum())

    @property
    def variance(self) -> float:
        """Of one replicate's effect: the median of s, squared."""
        return float((self.scale * _GRID[np.searchsorted(np.cumsum(self.weights), 0.5)]) ** 2)

    def noise(self, rng: np.random.Generator, draws: int = RESAMPLES) -> Floats:
        """Draws of the mean effect, [draws]."""
        sizes = self.scale * rng.choice(_GRID, size=draws, p=self.weights)
        return np.asarray(sizes * rng.standard_normal(draws) / np.sqrt(len(self.means)))


def of(each: Floats, changed: float = 1.0) -> Replicates:
    """From item means of each replicate, [replicates, items]; `changed`: the share of answers that differ from the other's."""
    replicates, items = each.shape
    means, scale = each.mean(1), float(np.clip(PART * changed, LEAST, MOST))
    if replicates == 1 or items == 1:
        return Replicates(means, scale=scale)
    residual = each - each.mean(0) - means[:, None] + each.mean()
    return Replicates(means, float((residual**2).sum()) / ((replicates - 1) * (items - 1)) / items, scale)


def average(tasks: list[Replicates]) -> Replicates:
    """Of the mean over tasks: a draw that harms one may harm all, while items of different tasks know nothing of each other."""
    least = min(len(task.means) for task in tasks)
    means = np.mean([task.means[:least] for task in tasks], axis=0)
    residual = sum(task.residual for task in tasks) / len(tasks) ** 2
    return Replicates(means, residual, float(np.mean([task.scale for task in tasks])))
