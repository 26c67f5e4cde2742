"""Tests of pairs that a few seeds can carry: who is better at a matched budget, or how many seeds would tell."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from .curves import Axis, accuracy
from .groups import Comparison, Group
from .statistics import (
    FEWEST,
    MOST,
    bootstrap_interval,
    effect_size,
    fewest_seeds,
    holm,
    improvement,
    interquartile_mean,
    permutation_test,
    seeds_that_would_do,
)


class Standing(NamedTuple):
    """A group at the budget."""

    group: Group
    scores: np.ndarray  # f64[n], percent of held-out problems, a seed
    iqm: float  # NaN without seeds
    low: float  # NaN with fewer than two, which spread nowhere
    high: float
    left_out: int  # seeds that were not measured on both sides of the budget
    diverged: int  # seeds that diverged before it, which count as 0


class PairwiseTest(NamedTuple):
    """Test of two groups: how far they differ, and whether the seeds carry it."""

    ours: str
    theirs: str
    seeds: tuple[int, int]
    difference: float  # of means, percentage points
    improvement: float  # probability that a seed of ours is better than one of theirs
    low: float
    high: float
    p: float | None  # None where there were too few seeds to test
    corrected: float | None  # by Holm, over the pairs that were tested
    winner: str | None
    enough: int | None  # seeds a side that would do; None where no number can be named, or no more are needed
    asked: int | None  # seeds a side that the words ask for: those, or the fewest of a test
    words: str


class Judgement(NamedTuple):
    """All tests of a comparison."""

    axis: Axis
    budget: float
    level: float
    standings: list[Standing]
    tests: list[PairwiseTest]


def judge(
    comparison: Comparison, axis: Axis, *, budget: float | None = None, level: float = 0.05, power: float = 0.8
) -> Judgement:
    """Compares every pair of groups.

    Args:
      budget: where accuracies are compared; by default the least that any run spent, so that all were there.
      level: the chance of naming any winner among algorithms that are the same.
      power: the chance of seeing what was observed, if it is real, that "how many seeds would do" stands for.
    """
    if budget is None:
        budget = common_budget(comparison, axis)
    standings = [standing(group, axis, budget, level) for group in comparison.groups]
    seen = [one for one in standings if len(one.scores)]
    pairs = list(combinations(seen, 2))
    tested = [pair for pair in pairs if min(len(one.scores) for one in pair) >= FEWEST]  # a matter of size alone
    raw = [permutation_test(ours.scores, theirs.scores) for ours, theirs in tested]
    values = {id(pair): both for pair, both in zip(tested, zip(raw, holm(raw)))}
    tests = [test_of(*pair, values.get(id(pair)), len(pairs), level, power) for pair in pairs]
    return Judgement(axis, budget, level, standings, tests)


def common_budget(comparison: Comparison, axis: Axis) -> float:
    """The least that a run spent which did not diverge; where all did, the most."""
    points = [accuracy(run, axis) for group in comparison.groups for run in group.runs]
    least = min(one.end for one in points)
    return max(float(one.x[-1]) for one in points) if np.isinf(least) else least


def standing(group: Group, axis: Axis, budget: float, level: float) -> Standing:
    scores = np.array([float(accuracy(run, axis).at(np.array(budget))) for run in group.runs])
    known = scores[~np.isnan(scores)]
    diverged = sum(run.diverged and accuracy(run, axis).x[-1] < budget for run in group.runs)
    iqm = low = high = float("nan")
    if len(known):
        iqm = float(interquartile_mean(known))
    if len(known) > 1:
        low, high = map(float, bootstrap_interval(interquartile_mean, [known], level=level))
    return Standing(group, known, iqm, low, high, len(scores) - len(known), diverged)


def test_of(
    ours: Standing, theirs: Standing, values: tuple[float, float] | None, pairs: int, level: float, power: float
) -> PairwiseTest:
    """The test of a pair.

    Args:
      values: p-value and corrected p-value; None where it was not tested.
      pairs: how many there are, tested or not.
    """
    samples = [ours.scores, theirs.scores]
    difference = float(samples[0].mean() - samples[1].mean())
    low = high = float("nan")
    if min(map(len, samples)) > 1:
        low, high = map(float, bootstrap_interval(improvement, samples, level=level))
    p, corrected = values or (None, None)
    names = ours.group.label, theirs.group.label
    winner = names[difference < 0] if corrected is not None and corrected <= level else None
    enough = asked = None
    if winner:
        better, worse = (ours, theirs) if winner == names[0] else (theirs, ours)
        loser = worse.group.label
        words = f"{winner} is better than {loser}, by {abs(difference):.1f} points (p = {corrected:.2g})"
        if better.group.trials > worse.group.trials:
            words += f"; but {winner} is the {better.group.tuning}, {loser} {tuned(worse.group)}"
    else:
        effect = effect_size(*samples)
        fewest = fewest_seeds(level, pairs)
        if effect is not None and (enough := seeds_that_would_do(effect, level=level, pairs=pairs, wanted=power)):
            enough = max(enough, min(map(len, samples)) + (corrected is not None))  # those that were run did not do
        asked = fewest if effect is None else enough
        words = f"no winner, since {reason(samples, corrected, fewest)}; {advice(effect, enough, fewest, power)}"
    seeds = len(ours.scores), len(theirs.scores)
    chance = float(improvement(*samples))
    return PairwiseTest(*names, seeds, difference, chance, low, high, p, corrected, winner, enough, asked, words)


def tuned(group: Group) -> str:
    return f"only that of {group.trials:,}" if group.trials else group.tuning


def reason(samples: Sequence[np.ndarray], corrected: float | None, fewest: int) -> str:
    """The reason why no winner is named."""
    seeds = min(map(len, samples))
    if corrected is None:
        return f"{FEWEST} seeds a side are the least and one has {seeds}"
    if seeds < fewest:
        return f"with {seeds} seeds a side and so many pairs nothing can be significant (p = {corrected:.2g})"
    return f"the difference is not significant (p = {corrected:.2g})"


def advice(effect: float | None, enough: int | None, fewest: int, power: float) -> str:
    """The number of seeds that would do."""
    if effect is None:
        return f"one seed shows no spread, so run at least {fewest} seeds a side"
    if effect == 0:
        return "no difference was seen, so no number of seeds is known to show one"
    if enough is None:
        return f"if it is as small as it looks, more than {MOST:,} seeds a side would be needed to show it"
    return f"if it is as large as it looks, {enough:,} seeds a side would show it with a chance of {power:.0%}"
