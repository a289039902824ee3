"""Is a difference more than noise? p of paired drops, and of several recipes at once.

Under the null hypothesis baseline and variant are exchangeable, item by item, and flipping the sign of an item's
drop changes nothing: p is the share of flips that reach what was seen (for single completions, McNemar's exact test). Among
several recipes p is Holm's ("A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6, 1979): at most one
table column in twenty has any significant drop when no recipe changes anything. F flips tell no p below 1 / (F + 1), which Holm
multiplies by the size of the family: where p of RESAMPLES flips is small, it is found anew by F that grow with the family. (p is
at most `a` with probability at most `a` still: for an `a` from SMALL on the first p must be, for one below it the second.)
"""

from collections.abc import Sequence

import numpy as np

from ptqflow.evaluation.statistics import RESAMPLES, Floats

SMALL = 0.01  # p of so many resamples from which on it is known to a tenth of itself


def flips_of(family: int) -> int:
    """How many flips each of a family of p needs, so that Holm's correction leaves the least of them below 0.025."""
    return max(RESAMPLES, 40 * family)


def flipped_p(drops: list[Floats], rng: np.random.Generator, flips: int = RESAMPLES, noise: Floats | float = 0.0) -> float:
    """Two-sided p of the mean over tasks of mean item drops, each [items], by random changes of their signs.

    `noise` [flips]: what else moves that mean where nothing is lost (`random_effects`).
    """
    seen, flipped = 0.0, np.zeros(flips) + noise
    for drop in drops:
        seen += float(drop.mean())
        sizes, count = np.unique(np.abs(drop[drop != 0]), return_counts=True)
        for size, times in zip(sizes, count, strict=True):
            flipped += size * _signs(int(times), rng, flips) / len(drop)
    return float((1 + np.count_nonzero(np.abs(flipped) >= abs(seen) - 1e-9)) / (1 + flips))


def _signs(number: int, rng: np.random.Generator, draws: int) -> Floats:
    """Sums of so many random signs, [draws]: ones among random bits, a word at once, in a tenth of the time of binomials."""
    ones = np.zeros(draws)
    for start in range(0, number, 64):
        words = rng.integers(0, 2**64, size=draws, dtype=np.uint64) >> np.uint64(64 - min(64, number - start))
        ones += np.bitwise_count(words)
    return 2 * ones - number


def holm(p: Sequence[float]) -> list[float]:
    """p of each of several hypotheses, adjusted so that any is at most `a` with probability at most `a` when all are null."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(value) for value in adjusted]
