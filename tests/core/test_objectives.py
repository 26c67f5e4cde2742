"""Objectives by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.learning.objectives import (
    Clip,
    ClipRange,
    clipped_surrogate,
    clipped_value_error,
    clipped_weight,
    sequence_log_ratio,
    sequence_mean,
    sequence_sum,
    token_mean,
)
from rlbench.plugins import valid
from rlbench.types import ConfigError
from tests.fakes import rollouts_of


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "binds"),
    [
        (1.0, 2.0, 2.0, False),
        (1.5, 1.0, 1.2, True),  # no more gain past the clip
        (0.5, 1.0, 0.5, False),
        (1.5, -1.0, -1.5, False),
        (0.5, -1.0, -0.8, True),
    ],
)
def test_clipped_surrogate(ratio, advantage, objective, binds):
    value, clipped = clipped_surrogate(jnp.log(ratio), jnp.float32(advantage), ClipRange(0.2, 0.2))
    np.testing.assert_allclose(value, objective, rtol=1e-6)
    assert bool(clipped) == binds


def test_no_gradient_where_the_clip_binds():
    gradient = jax.grad(lambda log_ratio: clipped_surrogate(log_ratio, 1.0, ClipRange(0.2, 0.2))[0])
    assert gradient(jnp.log(1.5)) == 0
    np.testing.assert_allclose(gradient(jnp.log(0.9)), 0.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "binds"),
    [
        (1.25, 1.0, 1.25, False),  # higher above 1 than below
        (1.5, 1.0, 1.28, True),
        (0.75, -1.0, -0.8, True),
        (2.9, -1.0, -2.9, False),
        (5.0, -1.0, -3.0, True),  # the dual clip: no loss grows past it
        (5.0, 1.0, 1.28, True),
        (1e30, -1.0, -3.0, True),
    ],
)
def test_clip_higher_and_dual_clip(ratio, advantage, objective, binds):
    clip = ClipRange(0.2, 0.28, dual=3.0)
    value, clipped = clipped_surrogate(jnp.log(ratio), jnp.float32(advantage), clip)
    np.testing.assert_allclose(value, objective, rtol=1e-6)
    assert bool(clipped) == binds
    gradient = jax.grad(lambda log_ratio: clipped_surrogate(log_ratio, advantage, clip)[0])(jnp.log(ratio))
    np.testing.assert_allclose(gradient, 0.0 if binds else ratio * advantage, rtol=1e-6)


class TestClip:
    @pytest.mark.parametrize(
        ("value", "clip"),
        [
            (0.2, (0.2, 0.2, np.inf)),
            (1, (1, 1, np.inf)),
            ({"low": 0.2, "high": 0.28}, (0.2, 0.28, np.inf)),
            ({"low": 0.2, "high": 0.2, "dual": 3}, (0.2, 0.2, 3)),
        ],
    )
    def test_a_number_or_its_keys(self, value, clip):
        assert valid(Clip, value, "algo.clip") == clip

    @pytest.mark.parametrize(
        ("value", "error"),
        [
            (0, "algo.clip=0: input should be greater than 0"),
            (np.nan, "algo.clip=nan: input should be greater than 0"),
            (np.inf, "algo.clip.low=inf: input should be a finite number"),
            (True, "algo.clip=True: value error, a number, or low and high, and dual if there is one"),
            ([0.2, 0.2], "algo.clip=.*: value error, a number, or low and high"),
            ({"low": 0.2, "high": -1}, "algo.clip.high=-1: input should be greater than 0"),
            ({"low": 0.2}, "algo.clip.high=.*: field required"),
            ({"low": 0.2, "high": 0.2, "duel": 3}, "algo.clip.duel=3: extra inputs are not permitted"),
            ({"low": 0.2, "high": 1, "dual": 2}, "algo.clip=.*: value error, dual has to be over 1 \\+ high = 2.0"),
        ],
    )
    def test_anything_else_is_one_line(self, value, error):
        with pytest.raises(ConfigError, match=error):
            valid(Clip, value, "algo.clip")


@pytest.mark.parametrize(
    ("ratio", "weight", "binds"), [(1.1, 1.1, False), (1.5, 1.28, True), (0.9, 0.9, False), (0.5, 0.8, True)]
)
def test_clipped_weight_is_a_constant(ratio, weight, binds):
    value, clipped = clipped_weight(jnp.log(ratio), ClipRange(0.2, 0.28))
    np.testing.assert_allclose(value, weight, rtol=1e-6)
    assert bool(clipped) == binds
    assert jax.grad(lambda log_ratio: clipped_weight(log_ratio, ClipRange(0.2, 0.28))[0])(jnp.log(ratio)) == 0


def test_sequence_log_ratio_has_the_rows_value_and_the_tokens_gradient():
    logp = jnp.array([[0.3, 9.0, 0.1], [1.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    rollouts = rollouts_of(np.zeros((3, 3)), mask=[[1, 0, 1], [1, 0, 0], [0, 0, 0]])
    value = sequence_log_ratio(logp, rollouts)
    np.testing.assert_allclose(value, [[0.2] * 3, [1.0] * 3, [0.0] * 3], rtol=1e-6)
    jacobian = jax.jacobian(lambda logp: sequence_log_ratio(logp, rollouts)[0])(logp)
    np.testing.assert_array_equal(jacobian[:, 0], np.diag([1.0, 0.0, 1.0]))
    assert (jacobian[:, 1:] == 0).all()


@pytest.mark.parametrize(
    ("value", "old", "target", "error"),
    [
        (1.0, 1.0, 0.0, 0.5),
        (0.0, 1.0, 0.0, 0.5 * 0.8**2),  # it moved too far: as if it stood at 0.8
        (2.0, 1.0, 0.0, 0.5 * 2.0**2),  # away from the target counts in full
    ],
)
def test_clipped_value_error(value, old, target, error):
    np.testing.assert_allclose(clipped_value_error(*map(jnp.float32, (value, old, target)), 0.2), error, rtol=1e-6)


x = jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
mask = [[1, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_token_mean():
    loss = token_mean(x, rollouts_of(x, mask), {"seen": x})
    np.testing.assert_allclose([loss.total, loss.weight], [1 + 2 + 6, 3])
    np.testing.assert_allclose(loss.metrics["seen"], [9, 3])


def test_sequence_mean():
    loss = sequence_mean(x, rollouts_of(x, mask), {"seen": x})
    np.testing.assert_allclose([loss.total, loss.weight], [1.5 + 6, 2])
    np.testing.assert_allclose(loss.metrics["seen"], [9, 3])


def test_sequence_sum():
    loss = sequence_sum(x, rollouts_of(x, mask), {"seen": x}, length=2.0)
    np.testing.assert_allclose([loss.total, loss.weight], [(1 + 2 + 6) / 2, 2])
    np.testing.assert_allclose(loss.metrics["seen"], [9, 3])
