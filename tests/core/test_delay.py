"""Delays of an environment that is slower than ours: drawn at random, and the same for the same rollout."""

import numpy as np
import pytest

from rlbench.verifying.delay import AT_ONCE, Delay


def test_there_is_none_by_default():
    assert AT_ONCE.of(3) == 0 == Delay(0.0, 1.0).of(3)


def test_without_a_spread_all_are_alike():
    assert {Delay(0.5).of(ticket) for ticket in range(9)} == {0.5}


def test_a_rollouts_delay_is_its_own():
    delay = Delay(0.5, 1.0)
    drawn = [delay.of(ticket) for ticket in range(9)]
    assert drawn == [delay.of(ticket) for ticket in range(9)] and len(set(drawn)) == 9


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_they_are_log_normal_around_their_mean(sigma):
    drawn = np.log([Delay(2.0, sigma).of(ticket) for ticket in range(20_000)])
    assert drawn.std() == pytest.approx(sigma, rel=0.03)
    assert drawn.mean() == pytest.approx(np.log(2.0) - sigma**2 / 2, abs=0.03)
