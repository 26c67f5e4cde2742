"""Checks of what an algorithm makes of rows and their groups: order, numbers, groups that teach nothing, stale data."""

from typing import Any

import jax
import numpy as np

from ..contract.sources import expect
from ..types import Rollouts, keep_all
from .case import GROUPS, ROWS, Case, last_chosen
from .outcome import NotApplicable, Rule, expect_close, expect_finite

EXACT = {"rtol": 1e-5, "atol": 1e-5}
ORDER = np.array([7, 2, 10, 0, 5, 11, 3, 8, 1, 6, 9, 4])  # of rows; groups are torn apart
NUMBERS = (5 * np.arange(ROWS, dtype=np.int32) + 7) % ROWS  # other names for groups, which need not be the first ones
FAR = 20.0  # of log-probability: a ratio of half a thousand million
EQUAL = (0.0, 0.1, 1.0, 1e4, 1e4 / 3)  # rewards; in float32 a mean of eleven of the last is none of them


def paid(rollouts: Rollouts, reward: np.ndarray) -> Rollouts:
    """The rollouts with these rewards f32[B] at their last tokens, and no others."""
    end = np.arange(rollouts.mask.shape[1]) == last_chosen(rollouts)
    return rollouts._replace(reward=np.where(end, reward[:, None], 0.0).astype(np.float32))


def check_permutation(case: Case) -> None:
    """Rows in another order, groups of other numbers: scores follow, loss and gradient stay, to 1e-5."""
    scores = case.score()
    moved, wanted = reordered(case.rollouts), reordered(scores)
    expect_close("score", "scores that follow their rows", case.score(moved), wanted, **EXACT)
    loss, gradient = case.learn(case.rollouts, scores)
    again = case.learn(moved, wanted)
    expect_close("loss", "loss, the same in any order of rows", again[0], loss, **EXACT)
    expect_close("loss", "gradient, the same in any order of rows", again[1], gradient, **EXACT)


def check_group_of_one(case: Case) -> None:
    """Groups of one row, and a group of which one row happened, leave scores, loss and gradient finite."""
    alone = np.arange(ROWS, dtype=np.int32)
    bereft = case.rollouts.mask & ((case.rollouts.group != 0) | (alone == 0))[:, None]
    for when, rollouts in (
        ("where every row is a group", case.rollouts._replace(group=alone)),
        ("where one row of a group happened", case.rollouts._replace(mask=bereft)),
    ):
        finite(case, rollouts, when)


def check_equal_rewards(case: Case) -> None:
    """Equal rewards in a group: all is finite; where the advantage is relative to the group it is exactly 0."""
    groups = {"": case.rollouts.group, " of the whole batch": np.zeros(ROWS, np.int32)}
    for reward in EQUAL:
        finite(case, paid(case.rollouts, np.full(ROWS, reward)), f"where every reward is {reward:g}")
    if reason := not_relative(case):
        raise NotApplicable(reason)
    uneven = np.sum(case.rollouts.reward, axis=1)
    for where, group in groups.items():
        for reward in EQUAL:
            rows = paid(case.rollouts._replace(group=group), np.where(group == 0, reward, uneven))
            advantage = np.where(rows.mask & (group == 0)[:, None], case.score(rows)["advantage"], 0.0)
            most = np.abs(advantage).max()
            expect(most == 0, "score", f"advantage 0 in a group{where} whose rewards are all {reward:g}", f"{most:g}")


def not_relative(case: Case) -> str:
    """Reason that equal rewards of a group may have an advantage; empty where the advantage is relative to its group.

    It is where it changes when rows change groups, but not when another group's rewards do, nor, with no reward paid,
    when log-probabilities do.
    """
    scores = case.score()
    if "advantage" not in scores:
        return 'finite; score returns no "advantage"'
    if not depends_on_groups(case):
        return "finite; the advantage does not depend on groups"
    own = np.asarray(case.rollouts.group) != GROUPS - 1
    reward = np.sum(case.rollouts.reward, axis=1) + np.where(own, 0.0, 3.0 + np.arange(ROWS))
    others = case.score(paid(case.rollouts, reward))["advantage"]
    if not np.array_equal(np.asarray(others)[own], np.asarray(scores["advantage"])[own]):
        return "finite; the advantage depends on other groups' rewards, too"
    unpaid = paid(case.rollouts, np.zeros(ROWS))
    drift = np.where(unpaid.mask, 0.1 * np.arange(ROWS)[:, None], 0.0).astype(np.float32)
    advantage = case.score(unpaid)["advantage"]
    for other in (case.score(unpaid._replace(logp=unpaid.logp + drift)), case.started().score(unpaid)):
        if not np.array_equal(other["advantage"], advantage):
            return "finite; the advantage depends on more than rewards, as where a KL term is taken off them"
    return ""


def depends_on_groups(case: Case) -> bool:
    """True if the advantage changes when rows change groups."""
    dealt = case.rollouts._replace(group=np.arange(ROWS, dtype=np.int32) % GROUPS)
    return not np.array_equal(case.score(dealt)["advantage"], case.score()["advantage"])


def check_keep(case: Case) -> None:
    """It keeps the same, whatever is in masked rows, in any order, group by group; whole groups where they matter."""
    if case.algorithm.keep is keep_all:
        raise NotApplicable("every rollout is kept")
    keep, rollouts = jax.jit(case.algorithm.keep), case.rollouts
    there: Any = np.asarray(rollouts.mask).any(axis=1)
    kept: np.ndarray = np.asarray(keep(rollouts))
    spoiled = rollouts._replace(reward=np.where(rollouts.mask, rollouts.reward, 9.0).astype(np.float32))
    off = (np.asarray(keep(spoiled)) != kept) & there
    expect(not off.any(), "keep", "the same rows whatever stands where the mask is False", f"{off.sum()} others")
    off = (np.asarray(keep(reordered(rollouts))) != kept[ORDER]) & there[ORDER]
    expect(not off.any(), "keep", "the same rows in another order, groups of other numbers", f"{off.sum()} others")
    alone, rich = np.zeros((2, ROWS), bool)
    for group in range(GROUPS):
        mine = (np.asarray(rollouts.group) == group)[:, None]
        own = rollouts._replace(
            mask=np.asarray(rollouts.mask) & mine, reward=np.where(mine, rollouts.reward, np.float32(0))
        )
        others = rollouts._replace(reward=np.where(mine, rollouts.reward, np.float32(9)))
        alone |= np.asarray(keep(own)) & mine[:, 0]
        rich |= np.asarray(keep(others)) & mine[:, 0]
    off = ((alone != kept) | (rich != kept)) & there
    expect(not off.any(), "keep", "the same rows when it is asked group by group", f"{off.sum()} others")
    if "advantage" in case.score() and depends_on_groups(case):
        for group in range(GROUPS):
            mates = kept[there & (np.asarray(rollouts.group) == group)]
            whole = mates.all() or not mates.any()
            expect(whole, "keep", "a whole group or none of it, as the advantage depends on groups", f"{mates}")


def reordered(tree: Any) -> Any:
    """Rows in another order, groups with other numbers."""
    moved = jax.tree.map(lambda x: np.asarray(x)[ORDER], tree)
    return moved._replace(group=NUMBERS[moved.group]) if isinstance(moved, Rollouts) else moved


def check_staleness(case: Case) -> None:
    """Data of a policy far from this one, ratios of e^20 and e^-20, leaves loss and gradient finite."""
    for sign in (1.0, -1.0, np.where(np.arange(ROWS) % 2 == 0, 1.0, -1.0)[:, None]):
        logp = np.where(case.rollouts.mask, case.rollouts.logp + sign * FAR, 0.0).astype(np.float32)
        finite(case, case.rollouts._replace(logp=logp), "where the data is stale", version=9)


def finite(case: Case, rollouts: Rollouts, when: str, version: int = 1) -> None:
    """Scores, loss, metrics and gradient are finite."""
    scores = case.score(rollouts, version)
    expect_finite("score", scores, when)
    loss, gradient = case.learn(rollouts, scores)
    expect_finite("loss", loss, when)
    expect_finite("loss", gradient, f"in the gradient {when}")


ROW_RULES: dict[str, Rule] = {
    "permutation": Rule(check_permutation, "score"),
    "group of one": Rule(check_group_of_one, "score"),
    "equal rewards": Rule(check_equal_rewards, "score"),
    "staleness": Rule(check_staleness, "loss"),
    "keep": Rule(check_keep, "keep"),
}
