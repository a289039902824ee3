"""Verdicts: named only where they hold, and what would decide the others."""

import numpy as np
import pytest
from ptqflow.evaluation import decision, difference, random_effects, statistics
from ptqflow.evaluation.decision import Evidence, Needed, Spread
from scipy import stats

GOOD = {"task": Evidence(200, 60.0, 0.0)}
HALF = decision.sd_for_sign(0.5)  # what decides half a point from a limit


def test_a_class_is_named_from_nine_in_ten_on():
    assert decision.verdict((0.91, 0.09, 0.0), GOOD) == ("lossless", None)
    assert decision.verdict((0.0, 0.05, 0.95), GOOD) == ("risky", None)
    assert decision.verdict((0.89, 0.11, 0.0), GOOD) == ("undecided", None)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (Evidence(5, 60.0), "5 items, fewer than 30"),
        (Evidence(1, 60.0), "1 item, fewer than 30"),
        (Evidence(200, 0.0), "baseline at the floor"),
        (Evidence(200, 100.0), "baseline at the ceiling"),
        (Evidence(200, 60.0, 0.4), "40 % of the baseline's completions cut"),
    ],
)
def test_thin_evidence_carries_no_verdict_however_probable(evidence, reason):
    assert decision.verdict((1.0, 0.0, 0.0), {"task": evidence}) == ("undecided", reason)


def test_a_loss_from_the_ceiling_is_a_loss():
    assert decision.verdict((0.0, 0.0, 1.0), {"task": Evidence(200, 100.0)}) == ("risky", None)


def test_half_of_the_tasks_without_evidence_leave_an_average_undecided():
    dead = Evidence(200, 0.0)
    assert decision.verdict((1.0, 0.0, 0.0), GOOD | {"a": dead}) == ("undecided", "a: baseline at the floor")
    assert decision.verdict((1.0, 0.0, 0.0), GOOD | {"a": dead, "b": Evidence(90, 50.0)}) == ("lossless", None)


def test_five_items_and_a_baseline_of_zero_print_no_class():
    """A study of 5 items that nobody solves was once called lossless."""
    pair = statistics.Paired(np.zeros(5), np.zeros(5))
    found = decision.class_probabilities(100 * statistics.drop_posterior(pair, np.random.default_rng(0)))
    assert decision.verdict(found, {"task": Evidence(5, 0.0)})[0] == "undecided"


def test_needed_items_make_the_interval_that_decides():
    """Of a drop 0.5 points under a limit, as many items as needed leave it below with probability 0.9, and half do not."""
    spread = Spread(by_items=1.0, items=200)
    items = decision.needed(HALF, spread).items
    assert items == 1314
    below = [stats.norm.cdf(0.5 / (200 / n) ** 0.5) for n in (items, items // 2)]
    assert below[0] >= 0.9 > below[1]


@pytest.mark.parametrize("drop", [-1.0, 0.5, 1.001, 1.5, 2.0, 2.2, 2.9, 3.5])
def test_needed_items_decide_the_class_of_a_drop_wherever_it_lies(drop):
    """Fair has two limits to clear: at 2 points that takes 1.65 times the items that one limit takes."""
    sd = decision.sd_for_class(drop)
    below, between, above = (float(p) for p in np.diff(stats.norm.cdf([-np.inf, 1, 3, np.inf], drop, sd)))
    assert max(below, between, above) == pytest.approx(0.9)
    if drop == 2.0:
        assert (decision.sd_for_sign(1.0) / sd) ** 2 == pytest.approx(1.647, abs=0.001)


def test_needed_replicates_and_seeds_lower_their_own_part_of_the_noise():
    spread = Spread(by_items=0.1, items=500, by_replicates=0.5, replicates=1, seeds=2, shared=0.5)
    found = decision.needed(HALF, spread)
    allowed = (0.5 / stats.norm.ppf(0.9)) ** 2
    assert found.items is found.seeds is None  # no number of them makes up for one replicate
    assert found.replicates == 10
    assert 0.5 / 10 + 0.1 <= allowed < 0.5 / 9 + 0.1
    seeded = decision.needed(HALF, Spread(by_items=0.2, items=500, seeds=2, shared=0.5))
    assert 0.1 + 0.1 * 2 / seeded.seeds <= allowed < 0.1 + 0.1 * 2 / (seeded.seeds - 1)


def test_where_neither_alone_would_do_both_are_asked_and_at_a_limit_nothing():
    found = decision.needed(HALF, Spread(by_items=0.4, items=200, by_replicates=0.4, replicates=2))
    assert (found.items, found.replicates) == (None, None)
    assert found.both == (1052, 11)
    assert decision.needed(decision.sd_for_sign(0.001), Spread(by_items=0.4, items=200, by_replicates=0.4)) == Needed()


@pytest.mark.parametrize("shift", [0.0, 0.01])
def test_verdicts_of_two_draws_rarely_contradict_each_other(shift):
    """Of the law's kind, on its numbers: two tasks of 200 items, a recipe between classes whose draws differ by half a point."""
    random = np.random.default_rng(0)
    chance = {"a": np.full(200, 0.97), "b": np.clip(0.6 + 0.3 * random.standard_normal(200), 0.02, 0.98)}
    before = {task: (random.random(200) < p) * 1.0 for task, p in chance.items()}
    verdicts = []
    for i in range(20):
        random = np.random.default_rng(i + 1)
        worse = 0.01 + shift + 0.005 * random.standard_normal()
        pairs = {}
        for task, p in chance.items():
            keeps = random.random(200) < 0.9  # most answers are the baseline's own
            other = (random.random(200) < p) * 1.0
            lost = random.random(200) < worse
            after = np.where(keeps, before[task], other) * ~lost
            pairs[task] = statistics.Paired(before[task], after, 1, after[None])
        effects = [random_effects.average([random_effects.of(pair.each) for pair in pairs.values()])]
        found = difference.of(pairs, effects, 1, 0, "average")
        evidence = {task: Evidence(200, 100 * float(pair.before.mean())) for task, pair in pairs.items()}
        verdicts.append(decision.verdict(decision.class_probabilities(found.posterior), evidence)[0])
    named = [v for v in verdicts if v != "undecided"]
    pairs_of = [(a, b) for i, a in enumerate(named) for b in named[i + 1 :]]
    assert sum(a != b for a, b in pairs_of) <= 0.05 * 190
