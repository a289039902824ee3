"""How sure are we? Intervals and class probabilities for scores, paired drops and perplexity ratios.

The unit of resampling is the *item* (a problem; for perplexity, a window of text): seeds and completions of one item are averaged
first, because they are not independent of each other. All intervals are at level 0.95 unless said otherwise.

Several completions of an item tell more than one, and less than as many items. n items of m completions are worth n / w
independent completions, w = var(item means) / var(completions), which is (1 + (m - 1) rho) / m for m completions of correlation
rho (Kish's design effect over m): 1 where all completions of an item agree, 1/m where items do not differ.

Scores. The interval is Wilson's of n / w completions (effective sample size: Korn and Graubard, "Confidence intervals for
proportions with small expected number of positive counts estimated from survey data", Surv. Methodol. 24, 1998; Dean and Pagano,
"Evaluating confidence interval methods for binomial proportions in clustered surveys", J. Surv. Stat. Methodol. 3, 2015). The w
of few items is not known well, least of all near 0 or 100 %, where it is that of one or two items that have any right: so it is
multiplied by (t / z)^2, Student's t of Satterthwaite's degrees of freedom ("An approximate distribution of estimates of variance
components", Biometrics Bull. 2, 1946): 2n / (kurtosis - 1 + 2 / (n - 1)), what n draws of this kurtosis know of their variance,
and n - 1 at most. Of single completions w is 1, and nothing is estimated.

The average over T tasks has the stratified Wilson interval (Yan and Su, "Stratified Wilson and Newcombe confidence intervals for
multiple binomial proportions", Stat. Biopharm. Res. 2, 2010): the mean of each task's, at the z at which these together are as
wide as the root of the sum of their squares. A whole interval of every task would pull all of them to the middle at once, while
their noise averages out: six tasks at 97 % had intervals that held the truth half the time. The estimate stays the plain mean.

Drops. n items are worth n / w independent pairs of completions, each lost, gained or unchanged. The interval is that of the
posterior of these shares under Jeffreys' prior, a Dirichlet distribution of counts / w + 1/2, and it holds the estimate, as
Jeffreys' interval of one proportion does at the edge (Brown, Cai and DasGupta, "Interval estimation for a binomial proportion",
Stat. Sci. 16, 2001). It is as skewed as few discordant items are, and with none of n it is about +-2.2/n. (A bootstrap with two
pseudo-items of drops +-1 is not: they are whole items, and swamp rare changes that many completions did see.) A w that is
estimated, from several completions, is that of few items: its variance is stretched to Student's t.

Classes. Probabilities are of the same posterior under a flat prior.

Of an average over T tasks each task's prior is 1/T of Jeffreys': half a count in every task would pull all drops to the middle at
once (Price and Bonett, "An improved confidence interval for a linear function of binomial proportions", Comput. Stat. Data Anal.
45, 2004). Where one small task makes most of its variance, a third of a prior is too little of that task's, so an average drop of
single completions is stretched to Student's t of Satterthwaite's degrees of freedom.

Perplexity has no extremes to add. Neighbouring windows of a text are alike (correlation about 0.1), so what is resampled are
blocks of n^(1/3) windows in a circle (Politis and Romano 1992). The interval is that of resampled blocks, its distances from the
point estimate stretched by sqrt(n / (n - 1)) t / z: what a bootstrap of n blocks lacks (Hesterberg, "What teachers should know
about the bootstrap", Am. Stat. 69, 2015; here applied to the ends instead of the level, so that it holds from two windows on).
Of one window there is no interval (None): it says nothing of the next.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
RESAMPLES = 10_000
LEVEL = 0.95
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


def pseudo_weight(mean_variance: float, variance: float, samples: float) -> float:
    """What an item weighs against independent completions: the variance of item means over that of single completions.

    Between 1 / `samples` (completions per item) and 1; 1 where nothing varies, which tells nothing.
    """
    return float(np.clip(mean_variance / variance, 1 / samples, 1)) if variance > 0 else 1.0


def effective_completions(score: Floats, samples: float) -> float:
    """How many independent completions the mean of `score`, [items] in [0, 1], is worth; `samples`: completions per item."""
    items, variance = len(score), float(score.var())
    if samples == 1 or items == 1 or variance == 0:
        return float(items)
    kurtosis = float(((score - score.mean()) ** 4).mean()) / variance**2
    freedom = np.clip(2 * items / (kurtosis - 1 + 2 / (items - 1)), 1, items - 1)
    mean = float(score.mean())
    return items / pseudo_weight(variance * few_items_factor(items, freedom) ** 2, mean * (1 - mean), samples)


@dataclass(frozen=True)
class Paired:
    """Item means of baseline and variant on the same items and seeds, both [items] in [0, 1], and completions per item.

    Of a variant with replicates, `each` has the item means of each one, [replicates, items], and `after` is their mean; `before`
    is the mean of `replicates_before`.
    """

    before: Floats
    after: Floats
    samples: float = 1
    each: Floats | None = None
    replicates_before: int = 1

    @property
    def drop(self) -> Floats:
        """Item drops in [-1, 1]."""
        return self.before - self.after

    @property
    def lost(self) -> Floats:
        """Probability that of two completions of an item the baseline's is right and the variant's wrong."""
        return self.before * (1 - self.after)

    @property
    def gained(self) -> Floats:
        """The other way round."""
        return self.after * (1 - self.before)

    @property
    def changed(self) -> float:
        """Share of answers that are right in one of the two alone."""
        return float((self.lost + self.gained).mean())

    @property
    def completions(self) -> float:
        """Completions per item, all replicates together, of the side that has more: an item weighs at least one of so many."""
        return self.samples * max(1 if self.each is None else len(self.each), self.replicates_before)

    @property
    def weight(self) -> float:
        """`pseudo_weight` of the drop; 1 of single completions."""
        items = len(self.before)
        if self.completions == 1 or items == 1:
            return 1.0
        variance = self.changed - float(self.drop.mean() ** 2)
        return pseudo_weight(float(self.drop.var()) * few_items_factor(items) ** 2, variance, self.completions)

    @property
    def freedom(self) -> float:
        """Degrees of freedom by which the variance of its shares is known; infinite where `weight` makes up for few already."""
        return max(len(self.before) - 1, 1) if self.completions == 1 else np.inf

    def shares(self, prior: float, rng: np.random.Generator, draws: int) -> Floats:
        """Draws of the mean drop, [draws], `prior` added to each of the counts lost, gained and unchanged."""
        lost, gained = self.lost.sum(), self.gained.sum()
        counts = np.array([lost, gained, len(self.before) - lost - gained]) / self.weight
        shares = rng.dirichlet(np.maximum(counts, 0) + prior, size=draws)
        return np.asarray(shares[:, 0] - shares[:, 1])


def drop_distribution(paired: Paired, rng: np.random.Generator, draws: int = RESAMPLES, tasks: int = 1) -> Floats:
    """Distribution of a mean paired drop, [draws], under Jeffreys' prior; of an average over `tasks`, 1/`tasks` of it."""
    return paired.shares(0.5 / tasks, rng, draws)


def drop_posterior(paired: Paired, rng: np.random.Generator, draws: int = RESAMPLES, tasks: int = 1) -> Floats:
    """Draws of the mean drop under a flat prior over the shares of items lost, gained, unchanged (of an average, 1/`tasks`)."""
    return paired.shares(1 / tasks, rng, draws)


def drop_interval(distribution: Floats, estimate: float, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a drop, or of their mean over tasks: the distribution's, which holds the estimate at an edge, too."""
    low, high = interval(distribution, level)
    return min(low, estimate), max(high, estimate)


def interval(distribution: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of a bootstrap distribution."""
    low, high = np.quantile(distribution, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def accuracy_interval(scores: Sequence[Floats], samples: Sequence[float]) -> tuple[float, float]:
    """Interval of the unweighted mean over tasks of mean scores: item means in [0, 1], [items] each, and completions per item.

    Of one task it is Wilson's.
    """
    mean = np.array([score.mean() for score in scores])
    worth = np.array([effective_completions(*task) for task in zip(scores, samples, strict=True)])
    z = stats.norm.ppf((1 + LEVEL) / 2)
    _, half = _wilson(mean, worth, z / np.sqrt(len(scores)))
    middle, half = _wilson(mean, worth, z * np.sqrt((half**2).sum()) / half.sum())
    return max(0.0, float((middle - half).mean())), min(1.0, float((middle + half).mean()))  # but for rounding within 0 and 1


def _wilson(share: Floats, completions: Floats, z: float) -> tuple[Floats, Floats]:
    """Middle and half the width of the score interval of a proportion (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    more = z**2 / completions
    half = np.sqrt(share * (1 - share) * more + more**2 / 4)
    return (share + more / 2) / (1 + more), half / (1 + more)


def average(distributions: list[Floats]) -> Floats:
    """Distribution of the unweighted mean over tasks, each resampled from a stream of its own and told their number."""
    return np.asarray(np.mean(distributions, axis=0))


def average_drop(distributions: list[Floats], estimate: float, freedom: Sequence[float]) -> Floats:
    """Distribution of the mean of drops over tasks, about the estimate, stretched to Student's t; a single drop stays as it is.

    `freedom` of each task (`Paired.freedom`); of the mean it is Satterthwaite's: little where one small task makes most of the
    variance.
    """
    spread = average(distributions)
    variance = np.array([distribution.var() for distribution in distributions])
    lack = float((variance**2 / np.array(freedom)).sum())
    if len(distributions) == 1 or lack == 0:
        return spread
    return np.asarray(estimate + few_items_factor(variance.sum() ** 2 / lack + 1) * (spread - estimate))


def few_items_factor(items: float, freedom: float | None = None) -> float:
    """How much a bootstrap interval of a mean is too narrow with few items: the 1/n variance, and normal for Student's t.

    `freedom`: degrees of freedom of the variance, where they are not `items` - 1.
    """
    tail = (1 + LEVEL) / 2
    return float(np.sqrt(items / (items - 1)) * stats.t.ppf(tail, freedom or items - 1) / stats.norm.ppf(tail))


LARGEST_LOSS = float(np.log(np.finfo(np.float64).max))  # nats per token: 709.8; no number holds the perplexity of more


def perplexity(nll: Floats, tokens: Floats) -> float:
    """exp(mean negative log-likelihood per token) of windows with summed `nll` and `tokens`, both [windows]."""
    return float(np.exp(nll.sum() / tokens.sum()))


def block_length(windows: int) -> int:
    """Neighbouring windows that are resampled together."""
    return max(1, round(windows ** (1 / 3)))


def _resampled_losses(nll: Floats, tokens: Floats, rng: np.random.Generator, resamples: int) -> tuple[Floats, float]:
    """Loss per token of resampled blocks of windows, [resamples], and how far its distances from the estimate fall short."""
    windows, length = len(nll), block_length(len(nll))
    ring = np.arange(windows)[:, None] + np.arange(length)
    blocks = [values[ring % windows].sum(1) for values in (nll, tokens)]  # of each start
    drawn = round(windows / length)
    weight = np.full(windows, drawn / windows)
    losses = [(counts @ blocks[0]) / (counts @ blocks[1]) for counts in resampled_counts(weight, resamples, rng)]
    return np.concatenate(losses), few_items_factor(windows / length) * float(np.sqrt(drawn * length / windows))


def perplexity_interval(
    nll: Floats, tokens: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval of a perplexity over windows in the order of the text; None of one window, which says nothing of the next."""
    if len(nll) < 2:
        return None
    losses, factor = _resampled_losses(nll, tokens, rng, resamples)
    estimate = nll.sum() / tokens.sum()
    low, high = interval(losses)
    return float(np.exp(estimate + factor * (low - estimate))), float(np.exp(estimate + factor * (high - estimate)))


def perplexity_p(
    variant: Floats, baseline: Floats, tokens: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> float | None:
    """Two-sided p of equal perplexities (Student's t, its variance that of resampled blocks); None of one window."""
    if len(tokens) < 2:
        return None
    losses, factor = _resampled_losses(variant - baseline, tokens, rng, resamples)
    freedom = len(tokens) / block_length(len(tokens)) - 1
    scale = losses.std() * factor * stats.norm.ppf((1 + LEVEL) / 2) / stats.t.ppf((1 + LEVEL) / 2, freedom)
    estimate = float((variant - baseline).sum() / tokens.sum())
    return float(2 * stats.t.sf(abs(estimate) / scale, freedom)) if scale > 0 else float(estimate == 0)


def perplexity_ratio_interval(
    variant: Floats, baseline: Floats, tokens: Floats, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Interval of perplexity(variant) / perplexity(baseline), windows paired; summed nll and tokens, [windows]. None of one.

    The ratio is the perplexity of the differences: exp(sum(nll - nll') / sum(tokens)).
    """
    return perplexity_interval(variant - baseline, tokens, rng, resamples)
