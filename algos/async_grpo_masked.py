"""Async-GRPO, masked: a token that has drifted too far is left out, not weighed less."""

import math

import jax.numpy as jnp

from rlbench.learning.objectives import Clip, LossAggregation
from rlbench.types import Algorithm, Count, Model, NonNegative, Positive

from .async_grpo import async_grpo


def async_grpo_masked(
    model: Model,
    *,
    group_size: Count,
    clip: Clip,
    kl_coef: NonNegative,
    advantage_eps: NonNegative,
    loss_aggregation: LossAggregation,
    is_mask_threshold: Positive,
) -> Algorithm:
    """Async-GRPO (AReaL, arXiv:2505.24298, section 5.2) that masks the behaviour ratio.

    Where async_grpo truncates a large ratio, this takes the token out, as AReaL's rejection sampling does.
    The mean still counts it. Its KL to a reference, if there is one, stays in the loss.

    Args:
      is_mask_threshold: the ratio of the proximal to the sampling policy beyond which a token weighs nothing.
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
        kept = scores["weight"] <= is_mask_threshold
        return scores | {name: jnp.where(kept, scores[name], 0.0) for name in ("advantage", "weight")}

    return base._replace(score=score)
