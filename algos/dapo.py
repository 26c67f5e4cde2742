"""DAPO: GRPO for long completions. A higher clip, dynamic sampling, a mean over tokens, a penalty on length."""

import jax.numpy as jnp

from rlbench.learning.estimators import group_varies
from rlbench.learning.objectives import Clip, token_mean
from rlbench.types import Algorithm, ConfigError, Count, Model, NonNegative, Rollouts

from .grpo import grpo


def dapo(
    model: Model, *, group_size: Count, clip: Clip, advantage_eps: NonNegative, overlong_from: Count, overlong_to: Count
) -> Algorithm:
    """Decoupled Clip and Dynamic Sampling Policy Optimization (arXiv:2503.14476, section 3).

    Departures: a group is kept if its rewards differ, as in verl, where the paper counts solved ones:
    with rewards 0 and 1 that is the same. What is judged is the reward that the task paid, before
    length is.

    Args:
      clip: the paper's is wider above 1 than below.
      overlong_from: tokens of a rollout from which its reward falls.
      overlong_to: tokens at which it has fallen by 1.
    """
    if overlong_to <= overlong_from:
        raise ConfigError("overlong_to", overlong_to, f"over overlong_from = {overlong_from}")
    base = grpo(
        model, group_size=group_size, clip=clip, kl_coef=0.0, advantage_eps=advantage_eps, loss_aggregation=token_mean
    )

    def score(trainable, frozen, rollouts, version):
        return base.score(trainable, frozen, overlong_shaped(rollouts, overlong_from, overlong_to), version)

    return base._replace(score=score, keep=group_varies)


def overlong_shaped(rollouts: Rollouts, start: int, end: int) -> Rollouts:
    """Rollouts whose reward falls by up to 1 as their length goes from start to end (section 3.4)."""
    length = rollouts.mask.sum(axis=-1, keepdims=True)
    last = rollouts.mask & (jnp.cumsum(rollouts.mask, axis=-1) == length)
    frown = jnp.clip((length - start) / (end - start), 0.0, 1.0)
    return rollouts._replace(reward=jnp.where(last, rollouts.reward - frown, rollouts.reward))
