"""IcePop: a token whose probability differs too much, to either side, from what it was sampled with is left out."""

import math

import jax.numpy as jnp

from rlbench.learning.objectives import Clip, LossAggregation
from rlbench.types import Algorithm, Count, Model, NonNegative, Positive

from .async_grpo import async_grpo


def icepop(
    model: Model,
    *,
    group_size: Count,
    clip: Clip,
    kl_coef: NonNegative,
    advantage_eps: NonNegative,
    loss_aggregation: LossAggregation,
    is_low: Positive,
    is_high: Positive,
) -> Algorithm:
    """IcePop (Ring-1T, arXiv:2510.18855): async-GRPO that masks the behaviour ratio to both sides.

    Within the band, the ratio of the proximal to the sampling policy weighs a token; outside, the token weighs
    nothing. async_grpo_masked has no lower bound. The mean still counts such tokens, and their KL stays.

    Args:
      is_low: the least ratio of the proximal to the sampling policy at which a token counts.
      is_high: the largest.
    """
    base = async_grpo(
        model,
        group_size=group_size,
        clip=clip,
        kl_coef=kl_coef,
        advantage_eps=advantage_eps,
        loss_aggregation=loss_aggregation,
        is_cap=math.inf,
    )

    def score(trainable, frozen, rollouts, version):
        scores = base.score(trainable, frozen, rollouts, version)
        kept = (is_low <= scores["weight"]) & (scores["weight"] <= is_high)
        return scores | {name: jnp.where(kept, scores[name], 0.0) for name in ("advantage", "weight")}

    return base._replace(score=score)
