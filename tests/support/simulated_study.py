"""Studies whose truth is known, and how often intervals hold it. Run as a program it prints the grid of docs/statistics.md.

Usage: python tests/support/simulated_study.py [STUDIES [score or drop]]
"""

import sys
from itertools import product

import numpy as np
from ptqflow.evaluation import statistics
from scipy.stats import binom

ITEMS, SEEDS, ACCURACIES = (30, 89, 198, 1319), (1, 4, 16), (0.02, 0.5, 0.98)
TASKS = (30, 198, 1319)  # of an average over unequal tasks
LOST = 0.1  # share of its right answers that the variant loses
CORRELATION = {"none": 0.0, "heavy": 0.8}  # of two answers to one item
RESAMPLES = 1000
LEAST, MOST = 0.93, 0.97  # where no interval has to be wider (docs/statistics.md)


def answered(random: np.random.Generator, items: int, seeds: int, accuracy: float, correlation: float) -> statistics.Paired:
    """Item means of a baseline and of a variant that loses LOST of what the baseline gets right, on items of a population."""
    if correlation:
        spread = 1 / correlation - 1
        chance = random.beta(accuracy * spread, (1 - accuracy) * spread, items)
    else:
        chance = np.full(items, accuracy)
    before, after = (random.binomial(seeds, p) / seeds for p in (chance, chance * (1 - LOST)))
    return statistics.Paired(before, after, seeds)


def holds(of: str, items: int | tuple[int, ...], seeds: int, accuracy: float, correlation: float, study: int) -> bool:
    """Whether the interval of a simulated study's `score` or `drop`, or of their mean over tasks, holds the truth."""
    random = np.random.default_rng(study)
    sizes = (items,) if isinstance(items, int) else items
    tasks = [answered(random, size, seeds, accuracy, correlation) for size in sizes]
    if of == "drop":
        draws = [statistics.drop_distribution(task, random, RESAMPLES, len(sizes)) for task in tasks]
        estimate = float(np.mean([task.drop.mean() for task in tasks]))
        low, high = statistics.drop_interval(statistics.average_drop(draws, estimate, [task.freedom for task in tasks]), estimate)
        return bool(low <= LOST * accuracy <= high)
    low, high = statistics.accuracy_interval([task.before for task in tasks], [seeds] * len(tasks))
    return bool(low <= accuracy <= high)


def coverage(of: str, items: int | tuple[int, ...], seeds: int, accuracy: float, correlation: float, studies: int) -> float:
    """Share of simulated studies whose interval holds the truth; of single completions' scores, which are binomial, exactly."""
    if of == "score" and seeds == 1 and isinstance(items, int):
        found = [statistics.accuracy_interval([np.arange(items) < right], [1]) for right in range(items + 1)]
        held = [low <= accuracy <= high for low, high in found]
        return float(binom.pmf(np.arange(items + 1), items, accuracy)[held].sum())
    return float(np.mean([holds(of, items, seeds, accuracy, correlation, study) for study in range(studies)]))


def grid(studies: int, kinds: tuple[str, ...]) -> None:
    """Print coverage of every cell, in percent."""
    columns = list(product(CORRELATION, ACCURACIES))
    print("| of | items | seeds |", *(f"{p:.0%}, {name} |" for name, p in columns))
    print("|---|---:|---:|", *("---:|" for _ in columns), sep="")
    for of, items, seeds in product(kinds, (*ITEMS, TASKS), SEEDS):
        cells = [100 * coverage(of, items, seeds, p, CORRELATION[name], studies) for name, p in columns]
        shown = items if isinstance(items, int) else "average of " + ", ".join(map(str, items))
        print(f"| {of} | {shown} | {seeds} |", *(f"{cell:.1f} |" for cell in cells), flush=True)


if __name__ == "__main__":
    grid(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, tuple(sys.argv[2:]) or ("score", "drop"))
