"""Our statistics against those of scipy and statsmodels, where both have them."""

import numpy as np
import pandas as pd
import pytest
from ptqflow.evaluation import random_effects, significance, statistics
from scipy import stats

pytest.importorskip("statsmodels", reason="statsmodels is not installed: make test adds envs/dev.txt")
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("right", "items"), [(0, 12), (3, 12), (86, 100), (1290, 1319), (1319, 1319)])
def test_single_scores_have_statsmodels_wilson_interval(right, items):
    score = np.repeat([1.0, 0.0], [right, items - right])
    assert statistics.accuracy_interval([score], [1]) == pytest.approx(proportion_confint(right, items, 0.05, method="wilson"))


def test_intervals_of_many_items_are_those_of_students_t():
    drop = rng().choice([-1.0, -0.5, 0.0, 0.5, 1.0], p=[0.03, 0.05, 0.7, 0.12, 0.1], size=3000)
    paired = statistics.Paired(np.maximum(drop, 0), np.maximum(-drop, 0), samples=2)
    low, high = statistics.interval(statistics.drop_distribution(paired, rng(1), 40_000))
    expected = DescrStatsW(drop).tconfint_mean()
    assert (low, high) == pytest.approx(expected, abs=0.04 * (expected[1] - expected[0]))
    percentile = stats.bootstrap([drop], np.mean, n_resamples=4000, method="percentile", rng=rng(2)).confidence_interval
    assert (low, high) == pytest.approx((percentile.low, percentile.high), abs=0.06 * (high - low))


@pytest.mark.parametrize(("lost", "gained"), [(3, 3), (9, 2), (14, 4), (20, 0)])
def test_sign_flips_are_mcnemars_exact_test(lost, gained):
    drop = np.repeat([1.0, -1.0, 0.0], [lost, gained, 100])
    expected = mcnemar([[50, lost], [gained, 50]], exact=True).pvalue
    assert significance.flipped_p([drop], rng(), 100_000) == pytest.approx(expected, abs=0.005)


def test_flips_of_means_over_seeds_are_scipys_permutation_test():
    before, after = (rng(seed).binomial(4, 0.6 - 0.1 * seed, 12) / 4 for seed in (0, 1))
    found = stats.permutation_test(
        (before, after), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert significance.flipped_p([before - after], rng(2), 100_000) == pytest.approx(found.pvalue, abs=0.006)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_statsmodels(seed):
    p = rng(seed).random(7) ** 3
    assert significance.holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])


def test_variance_of_replicates_by_items_is_that_of_an_analysis_of_variance():
    """Mean squares of the two-way layout replicate + item, from the regression of statsmodels."""
    each = rng(3).random((4, 9)) + 0.1 * np.arange(4)[:, None]
    frame = pd.DataFrame([(r, i, each[r, i]) for r in range(4) for i in range(9)], columns=["replicate", "item", "score"])
    squares = anova_lm(ols("score ~ C(replicate) + C(item)", frame).fit())["mean_sq"]
    found = random_effects.of(each)
    assert found.residual == pytest.approx(squares["Residual"] / 9)
    assert found.means.var(ddof=1) == pytest.approx(squares["C(replicate)"] / 9)


def test_scores_of_many_items_have_errorbars_clustered_standard_error():
    """n / w completions give the width of the cluster-robust sandwich; of single completions, its Wilson interval."""
    errorbars = pytest.importorskip("errorbars", reason="errorbars is not installed: pip install -r envs/dev.txt")
    chance = rng(4).beta(1.2, 0.8, 4000)
    answers = rng(5).random((4000, 4)) < chance[:, None]
    error = errorbars.cluster_robust_se(answers.ravel().astype(float), np.repeat(np.arange(4000), 4))
    mean = float(answers.mean())
    worth = statistics.effective_completions(answers.mean(1), 4)
    assert (mean * (1 - mean) / worth) ** 0.5 == pytest.approx(error, rel=2e-3)
    assert 4000 < worth < 16000
    low, high = statistics.accuracy_interval([answers.mean(1)], [4])
    assert high - low == pytest.approx(2 * 1.959964 * error, rel=5e-3)
    single = answers[:150, 0].astype(float)
    found = errorbars.wilson_ci(int(single.sum()), len(single))
    assert statistics.accuracy_interval([single], [1]) == pytest.approx((found.ci_low, found.ci_high), rel=1e-6)


def test_paired_drops_of_many_items_are_those_of_errorbars():
    compare = pytest.importorskip("errorbars.compare", reason="errorbars is not installed: pip install -r envs/dev.txt")
    before = (rng(6).random(3000) < 0.7).astype(float)
    after = np.where(rng(7).random(3000) < 0.1, 1 - before, before)
    found = compare.paired_compare(before, after)
    paired = statistics.Paired(before, after)
    low, high = statistics.interval(statistics.drop_distribution(paired, rng(8), 40_000))
    assert abs(found.mean_diff) == pytest.approx(paired.drop.mean())
    assert (high - low) / 2 == pytest.approx(1.959964 * found.se_paired, rel=0.03)
    expected = compare.mcnemar_exact(before, after).p_value
    assert significance.flipped_p([paired.drop], rng(9), 100_000) == pytest.approx(expected, abs=0.005)
