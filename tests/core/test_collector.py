"""A batch is sampled until it is full of what the algorithm keeps."""

import numpy as np
import pytest

from rlbench.acting.collector import Batch, fill
from tests.fakes import as_numpy, rollouts_of


def round_of(number: int, length: int = 3) -> Batch:
    """Two groups of two; the reward of row r of round n is 10 n + r, and so is its trajectory."""
    reward = np.zeros((4, length), np.float32)
    reward[:, -1] = 10 * number + np.arange(4)
    rollouts = as_numpy(rollouts_of(reward, group=[0, 0, 1, 1]))
    return Batch(rollouts, [int(r) for r in reward[:, -1]], np.arange(4))


def filled(*kept: list[int], rounds: int = 9, lengths=(3, 3, 3)) -> tuple[Batch, int]:
    """A batch of whose rounds these rows are kept, and how many rounds were played."""
    played = []

    def play():
        number = len(played)
        played.append(number)
        return round_of(number, lengths[number]), np.isin(np.arange(4), kept[number])

    return fill(play, rounds), len(played)


def test_one_round_is_enough_where_all_is_kept():
    batch, played = filled([0, 1, 2, 3])
    assert played == 1
    for got, expected in zip(batch.rollouts, round_of(0).rollouts, strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype
    assert batch.rows.tolist() == [0, 1, 2, 3] and batch.trajectories == [0, 1, 2, 3]


def test_groups_of_several_rounds_stay_apart_and_whole():
    batch, played = filled([2, 3], [0, 1])
    assert played == 2
    assert batch.rollouts.reward.sum(axis=1).tolist() == [2, 3, 10, 11]
    a, b, c, d = batch.rollouts.group
    assert a == b != c == d and batch.rollouts.group.max() < 4
    assert batch.rows.tolist() == [2, 3, 4, 5], "places among all trajectories"
    assert batch.trajectories == [0, 1, 2, 3, 10, 11, 12, 13]


def test_what_is_kept_too_much_is_left_out():
    batch, played = filled([0, 1, 2], [1, 2, 3])
    assert played == 2 and batch.rollouts.reward.sum(axis=1).tolist() == [0, 1, 2, 11]


@pytest.mark.parametrize("kept", [[], [1]])
def test_what_is_missing_when_the_rounds_are_over_did_not_happen(kept):
    batch, played = filled(kept, [], rounds=2)
    assert played == 2
    missing = 4 - len(kept)
    assert batch.rows.tolist() == kept + [-1] * missing
    assert not batch.rollouts.mask[len(kept) :].any() and not batch.rollouts.reward[len(kept) :].any()
    assert len(set(batch.rollouts.group.tolist())) == 4 and batch.rollouts.group.max() < 4
    assert len(batch.trajectories) == 8


def test_rows_of_several_lengths_are_padded_to_the_longest():
    batch, _ = filled([0, 1], [2, 3], lengths=(3, 5, 3))
    assert batch.rollouts.tokens.shape == (4, 5)
    assert batch.rollouts.mask.sum(axis=1).tolist() == [3, 3, 5, 5]
    assert batch.rollouts.reward.sum(axis=1).tolist() == [0, 1, 12, 13]
