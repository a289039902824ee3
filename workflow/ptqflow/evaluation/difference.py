"""The difference of two variants over the tasks that both were asked: estimate, interval, probabilities, parts of its noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ptqflow.evaluation import significance, statistics
from ptqflow.evaluation.decision import Spread
from ptqflow.evaluation.random_effects import Replicates
from ptqflow.evaluation.statistics import Floats, Paired


@dataclass(frozen=True)
class Difference:
    """In points, the mean over tasks: `mean`, its 95 % interval, draws of its `posterior`, two-sided `p` of none, its noise."""

    mean: float
    low: float
    high: float
    posterior: Floats
    p: float
    spread: Spread


def of(
    pairs: Mapping[str, Paired], effects: Sequence[Replicates], seeds: int, seed: int, name: str, family: int = 1
) -> Difference:
    """`pairs` by task: what is lost from `before` to `after`. `effects`: of each variant that was drawn, on the mean over tasks.

    `seeds`: how often each item was asked; `seed` and `name` choose the random streams; `family`: how many p-values its own is
    adjusted among.
    """

    def draws(draw: Callable[..., Floats], purpose: str) -> list[Floats]:
        return [draw(pair, statistics.stream(seed, task, purpose), tasks=len(pairs)) for task, pair in pairs.items()]

    def null(flips: int) -> tuple[Floats, float]:
        """Draws of what replicates move, and p by as many flips."""
        noise = np.zeros(flips)
        for i, effect in enumerate(effects):
            noise += effect.noise(statistics.stream(seed, name, "replicates", *([str(i)] if i else [])), flips)
        signs = statistics.stream(seed, name, "flips")
        return noise, significance.flipped_p([pair.drop for pair in pairs.values()], signs, flips, noise)

    noise, p = null(statistics.RESAMPLES)
    if p < significance.SMALL and (flips := significance.flips_of(family)) > statistics.RESAMPLES:
        _, p = null(flips)
    drawn = draws(statistics.drop_distribution, "drop")
    mean = float(np.mean([pair.drop.mean() for pair in pairs.values()]))
    spread = statistics.average_drop(drawn, mean, [pair.freedom for pair in pairs.values()])
    low, high = statistics.drop_interval(np.clip(spread + noise, -1, 1), mean)
    return Difference(
        100 * mean,
        100 * low,
        100 * high,
        100 * (statistics.average(draws(statistics.drop_posterior, "class")) + noise),
        p,
        Spread(
            1e4 * float(statistics.average(drawn).var()),
            sum(len(pair.before) for pair in pairs.values()),
            1e4 * sum(effect.variance / len(effect.means) for effect in effects),
            min((len(effect.means) for effect in effects), default=1),
            seeds,
            _shared(list(pairs.values()), [float(draw.var()) for draw in drawn]) if seeds > 1 else None,
        ),
    )


def _shared(pairs: Sequence[Paired], variances: Sequence[float]) -> float:
    """Share of the variance over items that no number of completions per item lowers: their correlation, over `Paired.weight`."""
    shares = []
    for pair in pairs:
        correlation = (pair.weight * pair.samples - 1) / (pair.samples - 1) if pair.samples > 1 else pair.weight
        shares.append(float(np.clip(correlation / pair.weight, 0, 1)))
    return float(np.average(shares, weights=variances)) if sum(variances) > 0 else 1.0
