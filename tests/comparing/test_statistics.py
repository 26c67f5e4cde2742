"""Statistics against values computed by hand, against scipy, and against what they promise over many repetitions."""

import math

import numpy as np
import pytest
import scipy

from rlbench.comparing.curves import AXES
from rlbench.comparing.pairwise import judge
from rlbench.comparing.statistics import (
    bootstrap_interval,
    effect_size,
    fewest_seeds,
    holm,
    improvement,
    interquartile_mean,
    permutation_test,
    power,
    seeds_that_would_do,
)

from .made import comparison


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean(np.array([1.0, 2, 3, 4, 5, 6, 7, 800])) == (3 + 4 + 5 + 6) / 4
    assert interquartile_mean(np.array([1.0, 2, 9])) == 4, "a quarter of three, rounded down, is none"


def test_the_probability_of_improvement_counts_pairs_and_halves_ties():
    assert improvement(np.array([3.0, 1.0]), np.array([2.0])) == 0.5
    assert improvement(np.array([3.0, 2.0]), np.array([2.0, 1.0])) == (1 + 1 + 0.5 + 1) / 4


def test_a_bootstrap_resamples_every_stratum_within_itself():
    ours, theirs = np.array([1.0, 1, 1]), np.array([5.0, 5])
    low, high = bootstrap_interval(lambda a, b: a.mean(-1) - b.mean(-1), [ours, theirs], level=0.05)
    assert (low, high) == (-4, -4), "strata without spread leave none, were they mixed they would"


def test_a_bootstrap_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for sample in random.normal(size=(400, 40)):
        low, high = bootstrap_interval(lambda drawn: drawn.mean(-1), [sample], level=0.1)
        inside += bool(low <= 0 <= high)
    assert scipy.stats.binomtest(inside, 400, 0.9).pvalue > 1e-3


def test_the_clearest_result_of_four_seeds_a_side_is_two_in_seventy():
    assert permutation_test(np.array([5.0, 6, 7, 8]), np.array([1.0, 2, 3, 4])) == 2 / math.comb(8, 4)


@pytest.mark.parametrize(("ours", "theirs"), [(4, 4), (3, 6), (7, 5)])
def test_the_exact_test_is_scipys(ours, theirs):
    random = np.random.default_rng(ours)
    for _ in range(5):
        a, b = random.integers(20, size=ours).astype(float), random.integers(20, size=theirs).astype(float)
        expected = scipy.stats.permutation_test(
            (a, b), lambda x, y, axis: abs(x.mean(axis) - y.mean(axis)), n_resamples=np.inf, alternative="greater"
        )
        assert permutation_test(a, b) == pytest.approx(expected.pvalue)


def test_relabellings_that_are_drawn_come_close_to_all():
    random = np.random.default_rng(0)
    a, b = random.normal(0.6, 1, 30), random.normal(0, 1, 30)
    assert permutation_test(a, b) == pytest.approx(scipy.stats.ttest_ind(a, b).pvalue, abs=0.01)
    assert permutation_test(a + 100, b) == 1e-4, "never 0: what was observed is one of them"


def test_seeds_that_are_all_alike_differ_in_nothing():
    assert permutation_test(np.full(5, 0.1), np.full(5, 0.1)) == 1


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]


def test_the_fewest_seeds_are_four_and_more_for_more_pairs():
    assert fewest_seeds(0.05, 1) == 4  # 2 / 70 < 0.05
    assert fewest_seeds(0.05, 3) == 5  # 2 / 70 > 0.05 / 3 > 2 / 252


def test_power_is_what_the_tables_say():
    """Cohen, Statistical Power Analysis for the Behavioral Sciences, table 2.4.1: 80 % at a level of 5 %."""
    wanted = {"level": 0.05, "pairs": 1, "wanted": 0.8}
    assert {effect: seeds_that_would_do(effect, **wanted) for effect in (0.5, 0.8, 1.0)} == {0.5: 64, 0.8: 26, 1.0: 17}
    assert seeds_that_would_do(math.inf, **wanted) == 4
    assert seeds_that_would_do(0.0, **wanted) is None and seeds_that_would_do(1e-3, **wanted) is None


def test_an_effect_is_in_pooled_standard_deviations():
    assert effect_size(np.array([1.0, 3]), np.array([5.0, 7])) == pytest.approx(-4 / math.sqrt(2))
    assert effect_size(np.array([1.0]), np.array([2.0])) is None
    assert effect_size(np.array([2.0, 2]), np.array([1.0, 1])) == math.inf


def judged_over(repetitions: int, means: tuple[float, ...], seeds: int) -> tuple[int, int]:
    """The rate at which any winner was named, and the first, among algorithms of these mean accuracies."""
    random = np.random.default_rng(1)
    any_, first = 0, 0
    for _ in range(repetitions):
        scores = {f"algorithm {i}": random.normal(mean, 1, seeds) for i, mean in enumerate(means)}
        winners = {one.winner for one in judge(comparison(**scores), AXES["rollouts"]).tests}
        any_ += winners != {None}
        first += "algorithm 0" in winners
    return any_, first


@pytest.mark.parametrize("seeds", [4, 6])
def test_identical_algorithms_are_told_apart_no_more_often_than_stated(seeds):
    named, _ = judged_over(1000, (50, 50), seeds)
    assert scipy.stats.binomtest(named, 1000, 0.05, "greater").pvalue > 1e-3
    assert named > 0, "a test that never says anything would pass too"


def test_among_four_identical_algorithms_any_winner_is_as_rare():
    named, _ = judged_over(300, (50, 50, 50, 50), 6)
    assert scipy.stats.binomtest(named, 300, 0.05, "greater").pvalue > 1e-3


def test_a_planted_difference_is_found_with_the_power_that_its_seeds_give():
    named, right = judged_over(1000, (51.5, 50), 8)
    assert named == right, "and always the right way round"
    assert abs(right / 1000 - power(1.5, 8, 0.05)) < 0.05
