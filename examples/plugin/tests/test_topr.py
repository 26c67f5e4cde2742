"""TOPR's own: a failure weighs less, the rarer it has become; nothing else changes with age."""

import jax.numpy as jnp
import pytest

from rlbench.models.likelihood import token_logp


@pytest.mark.parametrize("rarer", [0.0, 0.1, -0.1])
def test_a_failure_weighs_as_its_completion_has_become_rarer(case, rarer):
    """By `rarer`, in the logarithm, at each of its tokens; a completion that became likelier weighs 1."""
    logp = token_logp(case.model, case.trainable["policy"], case.rollouts)
    rollouts = case.rollouts._replace(logp=logp + rarer)
    loss, _ = case.learn(rollouts, case.score(rollouts))
    length, won = rollouts.mask.sum(axis=1), rollouts.reward.sum(axis=1) > 0
    weight = jnp.where(won, 1.0, jnp.minimum(jnp.exp(-rarer * length), 1.0))
    total = -(weight * jnp.where(won, 1.0, -1.0) * jnp.where(rollouts.mask, logp, 0.0).sum(axis=1)).sum()
    assert loss.total == pytest.approx(float(total), rel=1e-5)
    assert loss.weight == (length > 0).sum()
