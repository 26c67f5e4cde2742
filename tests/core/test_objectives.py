"""Objectives by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.learning.objectives import clipped_surrogate, clipped_value_error, sequence_mean, token_mean
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
    value, clipped = clipped_surrogate(jnp.log(ratio), jnp.float32(advantage), 0.2, 0.2)
    np.testing.assert_allclose(value, objective, rtol=1e-6)
    assert bool(clipped) == binds


def test_no_gradient_where_the_clip_binds():
    gradient = jax.grad(lambda log_ratio: clipped_surrogate(log_ratio, 1.0, 0.2, 0.2)[0])
    assert gradient(jnp.log(1.5)) == 0
    np.testing.assert_allclose(gradient(jnp.log(0.9)), 0.9, rtol=1e-6)


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
