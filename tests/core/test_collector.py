"""Batches form of whole groups that are kept, in the order of ids, and of nothing that is too old."""

from collections import Counter

import numpy as np
import pytest

from rlbench.acting.collector import Collector
from rlbench.acting.episode import Episodes, SequenceLimits
from rlbench.types import Fate, Problem, Status, Step
from tests.fakes import LETTERS

LIMITS = SequenceLimits(prompt=2, completion=4, observation=0, turns=1, buckets=(4, 6))


class Entries:
    """In place of a ledger: fates by id, and which rollouts were over."""

    def __init__(self):
        self.fates, self.over, self.cut_off = {}, [], []

    def judged(self, ids, tally, problems, whole=True):
        assert len(ids) == len(tally.tokens) == 2 * problems
        (self.over if whole else self.cut_off).extend(ids.tolist())

    def settled(self, ids, fate):
        self.fates |= dict.fromkeys(ids.tolist(), fate)


class Pool:
    """Groups of two, in batches of four; the reward of a rollout is its id."""

    def __init__(self, keep=None, max_staleness=0, waits=True, rounds=9, groups=6):
        self.episodes = Episodes(groups, 2, LIMITS)
        self.ledger, self.given_up = Entries(), []
        about = self.episodes, 4, rounds, keep, max_staleness, waits, self.ledger
        self.collector = Collector(*about, lambda rows: self.given_up.extend(self.episodes.ids[rows].tolist()))
        self.asked = 0

    def ask(self, count: int, version: int = 0) -> None:
        groups = self.collector.free[:count]
        problems = [(7 + self.asked + i, Problem("a=", None)) for i in range(count)]
        prompts = np.tile([2, 5], (count, 1)), np.full(count, 2)
        rows = self.episodes.open(groups, problems, prompts, 2 * self.asked)
        self.collector.opened(groups)
        self.episodes.begin(rows, version)
        self.asked += count

    def end(self, *ids: int, tokens: int = 2, status: Status = Status.WRONG) -> None:
        """These rollouts are over, with as many tokens."""
        for one in ids:
            (row,) = np.flatnonzero(self.episodes.ids == one)
            said = np.full((1, tokens), 3), np.zeros((1, tokens)), np.ones((1, tokens), bool)
            self.episodes.sampled(np.array([row]), *said, version=int(self.episodes.oldest[row]))
            self.episodes.observe(np.array([row]), [Step(None, None, float(one), status)], LETTERS)
        self.collector.collect()

    def batch(self, **how):
        batch = self.collector.form(**how)
        return batch and batch.ids.tolist()


def test_a_batch_has_its_rollouts_in_the_order_of_their_ids_whoever_was_first():
    pool = Pool()
    pool.ask(2)
    pool.end(3, 2, 1)
    assert pool.batch() is None
    pool.end(0)
    batch = pool.collector.form()
    assert batch.ids.tolist() == batch.rows.tolist() == [0, 1, 2, 3]
    assert batch.rollouts.reward.sum(axis=1).tolist() == [0, 1, 2, 3]
    assert batch.rollouts.group.tolist() == [0, 0, 1, 1]
    assert [t.problem for t in batch.trajectories] == [7, 7, 8, 8]
    assert sorted(pool.ledger.over) == [0, 1, 2, 3] and not pool.ledger.fates, "the learner says what becomes of them"
    assert len(pool.collector.free) == 6


def test_what_is_not_kept_is_set_aside_and_others_are_sampled_for_it():
    pool = Pool(keep=lambda rollouts: rollouts.reward.sum(axis=1) >= 2)
    pool.ask(2)
    pool.end(0, 1, 2, 3)
    assert pool.batch() is None and pool.collector.replaced == 2
    pool.ask(1)
    pool.end(4, 5)
    batch = pool.collector.form()
    assert batch.ids.tolist() == [2, 3, 4, 5] and batch.rows.tolist() == [2, 3, 4, 5]
    assert [t.reward for t in batch.trajectories] == [0, 1, 2, 3, 4, 5], "of all that were sampled"
    assert pool.ledger.fates == {0: Fate.FILTERED, 1: Fate.FILTERED}


def test_a_group_of_which_some_is_kept_is_cut_where_the_batch_is_full():
    pool = Pool(keep=lambda rollouts: rollouts.reward.sum(axis=1) > 0)
    pool.ask(2)
    pool.end(0, 1, 2, 3)
    pool.ask(1)
    pool.end(4, 5)
    assert pool.batch() == [1, 2, 3, 4]
    assert pool.ledger.fates == {0: Fate.FILTERED, 5: Fate.FILTERED}
    assert len(pool.collector.free) == 6


@pytest.mark.parametrize("kept", [[], [2, 3]])
def test_what_is_missing_in_the_end_is_masked(kept):
    pool = Pool(keep=lambda rollouts: np.isin(rollouts.reward.sum(axis=1), kept), rounds=2)
    pool.ask(2)
    pool.end(0, 1, 2, 3)
    assert pool.collector.replaced == 4 - len(kept), "a second round"
    pool.ask(2)
    pool.end(4, 5, 6, 7)
    assert pool.collector.replaced == 4, "no third"
    batch = pool.collector.form(padded=True)
    missing = 4 - len(kept)
    assert batch.ids.tolist() == kept + [-1] * missing == np.where(batch.rows < 0, -1, batch.rows).tolist()
    assert not batch.rollouts.mask[len(kept) :].any() and not batch.rollouts.reward[len(kept) :].any()
    groups = batch.rollouts.group.tolist()
    assert len(set(groups)) == 4 - len(kept) // 2 and max(groups) < 4
    assert len(batch.trajectories) == 8


def test_the_smallest_bucket_that_holds_a_batch_is_taken():
    pool = Pool(max_staleness=1)
    pool.ask(4)
    pool.end(0, 1, 2, 3)
    pool.end(4, 5, 6, tokens=2)
    pool.end(7, tokens=4)
    lengths = [pool.collector.form().rollouts.tokens.shape for _ in range(2)]
    assert lengths == [(4, 4), (4, 6)]


def test_a_rollout_that_nobody_could_judge_is_a_masked_row_of_its_group():
    pool = Pool()
    pool.ask(2)
    pool.end(0, 2, 3)
    pool.end(1, status=Status.INFRASTRUCTURE)
    batch = pool.collector.form()
    assert batch.rollouts.mask.any(axis=1).tolist() == [True, False, True, True]


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("lead", [1, 3])
def test_the_bound_is_reached_and_not_passed(lead, waits):
    """All that may be asked for at version 0 is trained on, the last of it as old as the bound allows."""
    pool = Pool(max_staleness=lead, waits=waits, groups=9)
    pool.ask(2 * (lead + 1), version=0)
    pool.end(*range(4 * (lead + 1)))
    ages = [number - pool.collector.form().rollouts.version.min() for number in range(lead + 1)]
    assert ages == [*range(lead + 1)] and not pool.ledger.fates
    pool.ask(2, version=0)
    pool.end(*range(4 * (lead + 1), 4 * (lead + 2)))
    assert pool.batch() is None and set(pool.ledger.fates.values()) == {Fate.STALE}, "one step older is too old"


def test_a_batch_waits_for_those_who_would_be_too_old_for_the_next():
    """Two may be under way at version 0; the third group is younger and may come earlier."""
    pool = Pool(max_staleness=1)
    pool.ask(3, version=0)
    pool.end(2, 3, 4, 5)
    assert pool.batch() == [2, 3, 4, 5], "batch 1 can still have the first group"
    pool.ask(2, version=1)
    pool.end(6, 7, 8, 9)
    assert pool.batch() is None, "batch 2 could not"
    pool.end(0, 1)
    assert pool.batch() == [0, 1, 6, 7], "the oldest first"
    assert not pool.ledger.fates and not pool.given_up


def test_those_who_would_be_too_old_are_dropped():
    pool = Pool(max_staleness=1, waits=False)
    pool.ask(3, version=0)
    pool.end(2, 3, 4, 5)
    pool.batch()
    pool.ask(2, version=1)
    pool.end(0)
    pool.end(6, 7, 8, 9)
    assert pool.batch() == [6, 7, 8, 9]
    assert sorted(pool.given_up) == pool.ledger.cut_off == [0, 1]
    assert pool.ledger.fates == {0: Fate.STALE, 1: Fate.STALE}
    assert pool.collector.dropped == pool.collector.replaced == 2
    assert len(pool.collector.free) == 6


def test_whoever_waited_too_long_for_a_batch_is_dropped():
    pool = Pool(max_staleness=0, waits=False)
    pool.ask(3, version=0)
    pool.end(*range(6))
    assert pool.batch() == [0, 1, 2, 3]
    pool.ask(2, version=1)
    pool.end(6, 7, 8, 9)
    batch = pool.collector.form()
    assert batch.ids.tolist() == [6, 7, 8, 9] and pool.ledger.fates == {4: Fate.STALE, 5: Fate.STALE}
    assert [t.reward for t in batch.trajectories] == [4, 5, 6, 7, 8, 9], "it is known what they said"


def test_at_the_end_those_who_began_are_entered():
    pool = Pool()
    pool.ask(2)
    pool.end(0)
    pool.collector.abandon()
    assert pool.ledger.cut_off == [0, 1, 2, 3]


def test_nothing_is_lost_and_nothing_is_twice():
    """A thousand random events: every rollout has one fate or is in one batch, and no batch has one that is too old."""
    for seed, waits in ((0, True), (1, False), (2, True), (3, False)):
        random = np.random.default_rng(seed)
        unit = 2 if waits else 1  # of whole groups, or of parts of them, too
        pool = Pool(lambda rollouts, unit=unit: rollouts.reward.sum(axis=1) // unit % 7 != 0, 2, waits, groups=40)
        seen: Counter[int] = Counter()
        for _ in range(1000):
            version = max(pool.collector.formed - int(random.integers(0, 2)), 0)
            room = (version + 3) * 4 + pool.collector.replaced - 2 * pool.asked
            if random.random() < 0.3 and room > 0:
                pool.ask(min(-(-room // 2), len(pool.collector.free)), version)
            under_way = pool.episodes.ids[np.repeat(pool.collector.open, 2) & ~pool.episodes.over]
            if len(under_way):
                pool.end(*random.choice(under_way, min(3, len(under_way)), replace=False).tolist())
            if batch := pool.collector.form():
                assert (batch.rollouts.version[batch.rollouts.mask] >= pool.collector.formed - 1 - 2).all()
                seen.update(batch.ids.tolist())
        assert pool.collector.formed > 50 and set(seen.values()) == {1}
        assert not seen.keys() & pool.ledger.fates.keys()
        left = set(pool.episodes.ids.tolist()) - {-1}
        assert seen.keys() | pool.ledger.fates.keys() | left >= set(range(2 * pool.asked))
        if waits:
            assert Fate.STALE not in pool.ledger.fates.values()
