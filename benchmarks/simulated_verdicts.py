"""How often verdicts contradict each other on studies whose truth is known: `python benchmarks/simulated_verdicts.py`.

A study's items are fixed, as those of a benchmark are. The unquantized model gets 70 % of them right; each of 20 calibration
draws gives a recipe that loses and gains items so that its drop is the true one plus an effect of the draw, N(0, sd^2). Half of
what decides an item is the item's own, half the draw's, and 4 % of the items flip to and fro without any drop. Every draw is a
study of its own with one replicate, whose verdict is compared with those of the other 19: *before*, by the most probable class
under the noise of items alone; *by items*, the same where its probability reaches 0.9; *now*, with what one draw leaves open.
"""

import itertools
from itertools import product

import numpy as np
from ptqflow.evaluation import decision, random_effects, statistics
from scipy import stats

DRAWS, POPULATIONS, RESAMPLES = 20, 25, 2000
RIGHT, CHURN, OWN = 0.7, 0.04, 0.5
DROPS, ITEMS, SPREADS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0), (200, 1319, 5000), (0.25, 0.5, 1.0)
WAYS = ("before", "by items", "now")


def study(random: np.random.Generator, items: int, drop: float, spread: float) -> list[statistics.Paired]:
    """The items of one population under each draw; `drop` and `spread` in points."""
    before = (random.random(items) < RIGHT).astype(float)
    own, found = random.standard_normal(items), []
    for effect in random.normal(0, spread / 100, DRAWS):
        lost, gained = CHURN / 2 + max(drop / 100 + effect, 0.0), CHURN / 2 + max(-drop / 100 - effect, 0.0)
        chance = np.where(before > 0, lost / RIGHT, gained / (1 - RIGHT))
        moved = np.sqrt(OWN) * own + np.sqrt(1 - OWN) * random.standard_normal(items) < stats.norm.ppf(chance)
        found.append(statistics.Paired(before, np.where(moved, 1 - before, before), 1))
    return found


def verdicts(pair: statistics.Paired, random: np.random.Generator) -> dict[str, str]:
    """One draw's class, each way."""
    drawn = statistics.drop_posterior(pair, random, RESAMPLES)
    effect = random_effects.of(pair.after[None], float(np.mean(pair.after != pair.before)))
    alone = decision.class_probabilities(100 * drawn)
    whole = decision.class_probabilities(100 * (drawn + effect.noise(random, RESAMPLES)))
    evidence = {"task": decision.Evidence(len(pair.before), 100 * float(pair.before.mean()))}
    by_items, now = (decision.verdict(probabilities, evidence)[0] for probabilities in (alone, whole))
    return {"before": decision.drop_class(*alone)[0], "by items": by_items, "now": now}


def truth(drop: float) -> str:
    """The class of a true drop."""
    return "lossless" if drop <= decision.LOSSLESS else "risky" if drop >= decision.RISKY else "fair"


def contradictions(names: list[str]) -> float:
    """Share of pairs that name different classes; undecided contradicts nothing."""
    pairs = list(itertools.combinations(names, 2))
    return sum(a != b and "undecided" not in (a, b) for a, b in pairs) / len(pairs)


def main() -> None:
    """Print the share of pairs that contradict each other, and how often a verdict is decided, and wrong."""
    print("| items | sd of draws | true drop |", *(f"{way} |" for way in WAYS), "decided now | wrong of these |")
    print("|---:|---:|---:|", *("---:|" for _ in range(len(WAYS) + 2)), sep="")
    worst = dict.fromkeys(WAYS, 0.0)
    for items, spread, drop in product(ITEMS, SPREADS, DROPS):
        shares: dict[str, list[float]] = {way: [] for way in WAYS}
        said: list[str] = []
        for population in range(POPULATIONS):
            random = np.random.default_rng([population, items, round(100 * spread), round(100 * drop)])
            found = [verdicts(pair, random) for pair in study(random, items, drop, spread)]
            for way in WAYS:
                shares[way].append(contradictions([each[way] for each in found]))
            said += [each["now"] for each in found]
        decided = [name for name in said if name != "undecided"]
        wrong = sum(name != truth(drop) for name in decided) / max(len(decided), 1)
        means = {way: float(np.mean(values)) for way, values in shares.items()}
        worst = {way: max(worst[way], means[way]) for way in WAYS}
        cells = [f"{100 * means[way]:.1f} |" for way in WAYS] + [
            f"{100 * len(decided) / len(said):.0f} |",
            f"{100 * wrong:.1f} |",
        ]
        print(f"| {items} | {spread} | {drop} |", *cells, flush=True)
    print("| worst | | |", *(f"{100 * worst[way]:.1f} |" for way in WAYS), "| |")


if __name__ == "__main__":
    main()
