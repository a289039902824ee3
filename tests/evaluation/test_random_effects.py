"""Replicates of a recipe: coverage of a drop's interval by simulation, and what is claimed of one that was quantized once."""

import importlib

import numpy as np
import pytest
from ptqflow.environments import ROOT
from ptqflow.evaluation import difference, random_effects, significance, statistics

DROP = 0.03


def study(random, items, replicates, effect, seeds=1):
    """A paired study whose replicates are better or worse than the recipe by `effect` (standard deviation), and the true drop."""
    chance = np.clip(0.75 + 0.15 * random.standard_normal(items), 0.05, 0.95)
    before = (random.random((seeds, items)) < chance).mean(0)
    shift = DROP + effect * random.standard_normal(replicates)
    after = np.array([(random.random((seeds, items)) < np.clip(chance - s, 0, 1)).mean(0) for s in shift])
    return statistics.Paired(before, after.mean(0), seeds, after)


def held(items, replicates, effect, studies, seeds=1):
    """Share of studies whose interval holds the true drop, and its mean width in points."""
    ends = []
    for i in range(studies):
        random = np.random.default_rng(i)
        pair = study(random, items, replicates, effect, seeds)
        spread = statistics.drop_distribution(pair, random, 2000) + random_effects.of(pair.each).noise(random, 2000)
        ends.append(statistics.interval(spread))
    low, high = np.transpose(ends)
    return float(np.mean((low <= DROP) & (high >= DROP))), 100 * float(np.mean(high - low))


@pytest.mark.parametrize(("replicates", "effect"), [(1, 0.005), (4, 0.01)])
def test_interval_holds_the_drop_of_the_recipe_and_not_of_one_draw(replicates, effect):
    assert 0.91 <= held(400, replicates, effect, 200)[0] <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("items", [200, 1319])
@pytest.mark.parametrize("replicates", [2, 4, 8])
@pytest.mark.parametrize("effect", [0.0, 0.005, 0.01])
def test_intervals_of_replicates_hold_the_truth_nineteen_times_of_twenty(items, replicates, effect):
    assert 0.925 <= held(items, replicates, effect, 400)[0] <= 0.99


def test_items_alone_would_miss_the_drop_of_a_recipe_whose_draws_differ():
    hits = 0
    for i in range(200):
        random = np.random.default_rng(i)
        pair = study(random, 1319, 1, 0.015)
        low, high = statistics.interval(statistics.drop_distribution(pair, random, 1000))
        hits += low <= DROP <= high
    assert hits / 200 < 0.9
    assert held(1319, 4, 0.015, 200)[0] > hits / 200


def test_more_replicates_narrow_the_interval():
    widths = [held(400, replicates, 0.01, 60)[1] for replicates in (1, 2, 8)]
    assert widths == sorted(widths, reverse=True)


def test_one_quantization_knows_its_prior_alone():
    """A scale of half a point: the 95 % range of a single draw is between one and two points either way."""
    once = random_effects.of(np.zeros((1, 50)))
    low, high = statistics.interval(once.noise(np.random.default_rng(0)))
    assert 0.01 < high < 0.02
    assert low == pytest.approx(-high, abs=0.002)


def test_a_recipe_that_changes_few_answers_is_expected_to_be_moved_little_by_its_draws():
    few, many = (random_effects.of(np.zeros((1, 50)), changed).variance ** 0.5 for changed in (0.01, 0.5))
    assert few < many / 5
    assert random_effects.of(np.zeros((1, 50)), 0.0).variance > 0


def test_replicates_that_differ_by_their_items_noise_alone_have_a_small_effect_and_others_theirs():
    random = np.random.default_rng(0)
    same = random_effects.of((random.random((8, 2000)) < 0.7) * 1.0)
    other = random_effects.of((random.random((8, 2000)) < (0.7 + 0.05 * random.standard_normal((8, 1)))) * 1.0)
    assert same.variance**0.5 < 0.007
    assert other.variance**0.5 == pytest.approx(0.05, rel=0.6)


def test_residual_is_the_mean_square_of_a_two_way_layout():
    """Against an analysis of variance by hand, in plain loops."""
    each = np.random.default_rng(1).random((3, 7))
    row, column, mean = each.mean(1), each.mean(0), each.mean()
    squares = sum((each[r, i] - row[r] - column[i] + mean) ** 2 for r in range(3) for i in range(7))
    assert random_effects.of(each).residual == pytest.approx(squares / (2 * 6) / 7)


def test_tasks_with_other_numbers_of_replicates_are_averaged_over_those_that_all_have():
    found = random_effects.average([random_effects.of(np.ones((3, 5))), random_effects.of(np.zeros((2, 9)))])
    assert found.means == pytest.approx([0.5, 0.5])


def test_difference_of_two_recipes_has_the_noise_of_both():
    random = np.random.default_rng(2)
    pair = study(random, 300, 4, 0.02)
    effects = [random_effects.of(pair.each), random_effects.of(study(random, 300, 4, 0.02).each)]
    widths = []
    for some in ([], effects[:1], effects):
        found = difference.of({"task": pair}, some, 1, 0, "task")
        widths.append(found.high - found.low)
        assert found.mean == pytest.approx(100 * pair.drop.mean())
        assert found.low < found.mean < found.high
    assert widths == sorted(widths)
    assert found.spread.replicates == 4


def test_a_clear_difference_stays_significant_among_the_pairs_of_forty_recipes():
    right = np.ones(400)
    pair = statistics.Paired(right, np.where(np.arange(400) < 200, 0, right))
    family = 40 * 39 // 2
    assert difference.of({"task": pair}, [random_effects.of(right[None])], 1, 0, "task").p * family > 0.05
    assert difference.of({"task": pair}, [random_effects.of(right[None])], 1, 0, "task", family).p * family < 0.03


def test_flips_grow_with_the_family_only_where_p_is_small(monkeypatch):
    """Else the pairs of a hundred recipes, each with flips for all of them, take hours."""
    asked, flipped_p = [], significance.flipped_p

    def counted(drops, rng, flips, noise):
        asked.append(flips)
        return flipped_p(drops, rng, flips, noise)

    monkeypatch.setattr(significance, "flipped_p", counted)
    right = np.ones(400)
    for lost in (3, 200):
        difference.of({"task": statistics.Paired(right, np.where(np.arange(400) < lost, 0, right))}, [], 1, 0, "task", 4950)
    assert asked == [10_000, 10_000, 198_000]


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_verdicts_of_two_draws_seldom_contradict_where_they_differ_by_a_point(drop, monkeypatch):
    """Law: of two draws' verdicts at most 5 % contradict each other; these are the worst lines of the benchmark."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    simulated = importlib.import_module("simulated_verdicts")
    shares = []
    for population in range(simulated.POPULATIONS):
        random = np.random.default_rng([population, 5000, 100, round(100 * drop)])
        found = [simulated.verdicts(pair, random)["now"] for pair in simulated.study(random, 5000, drop, 1.0)]
        shares.append(simulated.contradictions(found))
    assert np.mean(shares) <= 0.05
