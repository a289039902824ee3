"""How sure are we? Intervals and class probabilities for scores, paired drops and perplexity ratios.

The unit of resampling is the *item* (a problem; for perplexity, a window of text): seeds and completions of one item are averaged
first, because they are not independent of each other. All intervals are at level 0.95 unless said otherwise.

Accuracy. A plain bootstrap knows nothing of what it has not seen: if baseline and variant agree on all of 20 items, every
resample agrees too and the interval has width zero. So one pseudo-item of each extreme joins the sample before it is resampled: a
right and a wrong one for a score (shrinking like Wilson), a drop of +1 and one of -1 for a paired difference (the resampling form
of Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data", J. Educ.
Behav. Stat. 37, 2012). With no observed disagreement the interval is then about +-2.8/n, the rule of three; with many items the
two pseudo-items weigh nothing and the interval is the closed form mean +- 1.96 s/sqrt(n). The estimate stays the plain mean.
A single score whose items are all plainly right or wrong has Wilson's closed interval instead.

The average over T tasks has one such pair in all: each task's pseudo-items weigh 1/T of an item (Price and Bonett, "An improved
confidence interval for a linear function of binomial proportions", Comput. Stat. Data Anal. 45, 2004). A whole pair in every
task would pull all of them to the middle at once, while their noise averages out: six tasks at 97 % had intervals that held the
truth half the time, or not even the estimate.

Perplexity has no extremes to add. Its interval is that of resampled windows, its distances from the point estimate stretched by
sqrt(n / (n - 1)) t / z: what a bootstrap of n windows lacks (Hesterberg, "What teachers should know about the bootstrap", Am.
Stat. 69, 2015; here applied to the ends instead of the level, so that it holds from two windows on). Of one window there
is no interval (None): it says nothing of the next.
"""

import zlib
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95
LOSSLESS, RISKY = 1.0, 3.0  # points of drop: at most, at least (source paper's classes; fair lies between)
_CHUNK = 1 << 22  # counts held in memory at once


def stream(seed: int, *names: str) -> np.random.Generator:
    """A random generator of its own for each tuple of names: tasks are resampled independently, in any order of calls."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def item_means(item: NDArray, run: NDArray, value: Floats) -> Floats:
    """Mean of each item over its runs, each run being the mean of its completions: [samples] -> [distinct items].

    `item` and `run` (the seed) are labels of any sortable kind; items come back in sorted order. An item's runs weigh equally
    however many completions each has.
    """
    _, item_code = np.unique(item, return_inverse=True)
    _, run_code = np.unique(run, return_inverse=True)
    cell, cell_code = np.unique(item_code * (run_code.max(initial=0) + 1) + run_code, return_inverse=True)
    cell_mean = np.bincount(cell_code, weights=value) / np.bincount(cell_code)
    item_of_cell = cell // (run_code.max(initial=0) + 1)
    return np.asarray(np.bincount(item_of_cell, weights=cell_mean) / np.bincount(item_of_cell))


def resampled_counts(weight: Floats, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Bootstrap of items, `weight[u]` of which are alike: how often each kind is drawn, in blocks of [resamples', kinds].

    The counts of n draws with replacement are multinomial, so only distinct values cost time: 0/1 scores have two. n is the
    sum of the weights, rounded.
    """
    n = round(weight.sum())
    step = max(1, _CHUNK // len(weight))
    for start in range(0, resamples, step):
        yield rng.multinomial(n, weight / weight.sum(), size=min(step, resamples - start))


def resampled_means(
    value: Floats, extremes: tuple[float, float], tasks: int, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Floats:
    """Bootstrap distribution of the mean, [items] -> [resamples], two pseudo-items of 1/`tasks` each among the items."""
    weights = np.append(np.ones(len(value)), [1 / tasks, 1 / tasks])
    kinds, kind = np.unique(np.append(value, extremes), return_inverse=True)
    weight = np.bincount(kind, weights=weights).astype(np.float64)
    return np.concatenate([counts @ kinds / counts.sum(-1) for counts in resampled_counts(weight, resamples, rng)])


def accuracy_distribution(score: Floats, rng: np.random.Generator, resamples: int = RESAMPLES, tasks: int = 1) -> Floats:
    """Distribution of a mean score: item means in [0, 1], [items] -> [resamples], with a right and a wrong pseudo-item.

    `tasks`: how many are averaged, where it is for `average`.
    """
    return resampled_means(score, (0.0, 1.0), tasks, rng, resamples)


def drop_distribution(drop: Floats, rng: np.random.Generator, resamples: int = RESAMPLES, tasks: int = 1) -> Floats:
    """Distribution of a mean paired drop: item drops in [-1, 1], [items] -> [resamples], with pseudo-items -1 and +1.

    `tasks` as in `accuracy_distribution`.
    """
    return resampled_means(drop, (-1.0, 1.0), tasks, rng, resamples)


def interval(distribution: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of a bootstrap distribution."""
    low, high = np.quantile(distribution, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def accuracy_interval(score: Floats, rng: np.random.Generator, level: float = LEVEL) -> tuple[float, float]:
    """Interval of one mean score, item means in [0, 1]: Wilson's when every item is 0 or 1, the bootstrap's otherwise."""
    if np.isin(score, [0.0, 1.0]).all():
        found = stats.binomtest(int(score.sum()), len(score)).proportion_ci(level, method="wilson")
        return float(found.low), float(found.high)
    return interval(accuracy_distribution(score, rng), level)


def average(distributions: list[Floats]) -> Floats:
    """Distribution of the unweighted mean over tasks, each resampled from a stream of its own and told their number."""
    return np.asarray(np.mean(distributions, axis=0))


def class_probabilities(drop_points: Floats) -> tuple[float, float, float]:
    """Probabilities of lossless (drop <= 1 point), fair (between) and risky (>= 3), from a distribution of drops in points."""
    lossless, risky = float(np.mean(drop_points <= LOSSLESS)), float(np.mean(drop_points >= RISKY))
    return lossless, float(np.mean((drop_points > LOSSLESS) & (drop_points < RISKY))), risky


DropClass = Literal["lossless", "fair", "risky"]


def drop_class(lossless: float, fair: float, risky: float) -> tuple[DropClass, float]:
    """The most probable class and its probability; the worse class on a tie."""
    ranked: list[tuple[DropClass, float]] = [("risky", risky), ("fair", fair), ("lossless", lossless)]
    return max(ranked, key=lambda entry: entry[1])


def few_items_factor(items: int, level: float = LEVEL) -> float:
    """How much a bootstrap interval of a mean is too narrow with few items: the 1/n variance, and normal for Student's t."""
    tail = (1 + level) / 2
    return float(np.sqrt(items / (items - 1)) * stats.t.ppf(tail, items - 1) / stats.norm.ppf(tail))


def perplexity(nll: Floats, tokens: Floats) -> float:
    """exp(mean negative log-likelihood per token) of windows with summed `nll` and `tokens`, both [windows]."""
    return float(np.exp(nll.sum() / tokens.sum()))


def perplexity_interval(
    nll: Floats, tokens: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval of a perplexity over windows; None of one window, which says nothing of the next."""
    if len(nll) < 2:
        return None
    blocks = [(counts @ nll) / (counts @ tokens) for counts in resampled_counts(np.ones(len(nll)), resamples, rng)]
    estimate, factor = nll.sum() / tokens.sum(), few_items_factor(len(nll))
    low, high = interval(np.concatenate(blocks))
    return float(np.exp(estimate + factor * (low - estimate))), float(np.exp(estimate + factor * (high - estimate)))


def perplexity_ratio_interval(
    variant: Floats, baseline: Floats, tokens: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval of perplexity(variant) / perplexity(baseline), windows paired; summed nll and tokens, [windows]. None of one.

    The ratio is the perplexity of the differences: exp(sum(nll - nll') / sum(tokens)).
    """
    return perplexity_interval(variant - baseline, tokens, rng, resamples)
