"""Tests of pairs: who is named, who is not, and what is said instead."""

import math

import pytest

from rlbench.comparing.curves import AXES
from rlbench.comparing.groups import Comparison, Group
from rlbench.comparing.pairwise import judge

from . import made

HIGH, LOW = [90.0, 91, 92, 93], [50.0, 51, 52, 53]


def only(comparison, **how):
    (test,) = judge(comparison, AXES["rollouts"], **how).tests
    return test


def test_four_clear_seeds_a_side_name_the_winner_whichever_comes_first():
    for comparison in (made.comparison(good=HIGH, bad=LOW), made.comparison(bad=LOW, good=HIGH)):
        test = only(comparison)
        assert test.winner == "good" and test.p == test.corrected == pytest.approx(2 / 70)
        assert test.words == "good is better than bad, by 40.0 points (p = 0.029)"
        assert abs(test.difference) == 40 and test.improvement == (test.ours == "good")


def test_three_seeds_a_side_name_nobody_however_clear_and_say_how_many_would():
    test = only(made.comparison(good=HIGH[:3], bad=LOW))
    assert test.winner is None and test.p is None and test.enough == 4
    assert "4 seeds a side are the least and one has 3" in test.words and "4 seeds a side would show it" in test.words


def test_one_seed_a_side_is_told_how_many_to_run_for_all_pairs():
    judged = judge(made.comparison(a=[1.0], b=[2.0], c=[3.0]), AXES["rollouts"])
    assert [one.winner for one in judged.tests] == [None] * 3
    assert all(math.isnan(one.low) for one in [*judged.standings, *judged.tests]), "nor has it an interval"
    assert all("one seed shows no spread, so run at least 5 seeds a side" in one.words for one in judged.tests)


def test_four_seeds_cannot_carry_three_pairs():
    judged = judge(made.comparison(a=HIGH, b=LOW, c=[10.0, 11, 12, 13]), AXES["rollouts"])
    assert [one.corrected for one in judged.tests] == pytest.approx([6 / 70] * 3)
    for one in judged.tests:
        assert one.winner is None and one.enough == 5
        assert "with 4 seeds a side and so many pairs nothing can be significant" in one.words


def test_what_is_not_significant_says_how_many_seeds_would_do():
    test = only(made.comparison(a=[50.0, 52, 54, 56], b=[51.0, 53, 55, 57]))
    assert test.winner is None and test.enough > 50
    assert f"the difference is not significant (p = 0.6{test.words.split('0.6')[1][:1]})" in test.words
    assert f"{test.enough:,} seeds a side would show it with a chance of 80%" in test.words


def test_no_difference_at_all_names_no_number():
    test = only(made.comparison(a=LOW, b=LOW))
    assert test.enough is None and "no number of seeds is known" in test.words


def test_the_budget_is_what_every_run_reached():
    short = Group("short", [made.run(seed, {0: 0.0, 5: 0.5}) for seed in range(4)])
    long = Group("long", [made.run(seed, {0: 0.0, 10: 1.0}) for seed in range(4)])
    judged = judge(Comparison("", [short, long]), AXES["rollouts"])
    assert judged.budget == 500 and judged.tests[0].difference == 0, "both were at 50 % after 500 rollouts"
    beyond = judge(Comparison("", [short, long]), AXES["rollouts"], budget=800)
    assert [(len(one.scores), one.left_out) for one in beyond.standings] == [(0, 4), (4, 0)] and not beyond.tests


@pytest.mark.parametrize(("axis", "budget"), [("flops", 5e6), ("seconds", 6.0), ("cpu_seconds", 0.5)])
def test_any_cost_may_be_matched(axis, budget):
    groups = [Group(name, [made.run(0, {0: 0.0, last: last / 10})]) for name, last in (("a", 5), ("b", 10))]
    judged = judge(Comparison("", groups), AXES[axis])
    assert judged.budget == pytest.approx(budget)
    assert [one.iqm for one in judged.standings] == pytest.approx([50, 50])


def test_a_run_that_diverged_counts_as_nothing_and_does_not_shorten_the_budget():
    good = Group("good", [made.run(seed, {0: 0.2, 10: 0.9}) for seed in range(4)])
    bad = Group("bad", [made.run(seed, {0: 0.2, 5: 0.95}, status="diverged") for seed in range(4)])
    judged = judge(Comparison("", [good, bad]), AXES["rollouts"])
    assert judged.budget == 1000 and judged.standings[1].scores.tolist() == [0] * 4
    assert judged.standings[1].diverged == 4 and judged.tests[0].winner == "good"


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [(20, 0, "but good is the best of 20 trials, bad untuned"), (0, 20, None), (5, 5, None)],
)
def test_a_winner_that_was_tuned_more_is_named_with_it(better, worse, said):
    groups = [
        Group(name, [made.run(seed, {0: 0, 10: score / 100}, trials=trials) for seed, score in enumerate(scores)])
        for name, scores, trials in (("good", HIGH, better), ("bad", LOW, worse))
    ]
    words = only(Comparison("", groups)).words
    assert said in words if said else "but" not in words
