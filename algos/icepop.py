"""IcePop: a token whose probability differs too much, to either side, from what it was sampled with is left out."""

import jax.numpy as jnp

from rlbench.learning.objectives import Clip, LossAggregation
from rlbench.types import Algorithm, Count, Model, NonNegative, Positive

from .async_grpo_masked import async_grpo_masked


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
    """IcePop (Ring-1T, arXiv:2510.18855, section 2.3.2): async_grpo_masked with a lower bound, too.

    Within the band, the ratio of the proximal to the sampling policy weighs a token; outside, the token weighs
    nothing. The mean still counts such tokens, and their KL stays. The paper's two policies are the same weights in
    two engines; here, the ratio is of weights of different ages.

    Args:
      is_low: the least ratio of the proximal to the sampling policy at which a token counts.
      is_high: the largest.
    """
    base = async_grpo_masked(
        model,
        group_size=group_size,
        clip=clip,
        kl_coef=kl_coef,
        advantage_eps=advantage_eps,
        loss_aggregation=loss_aggregation,
        is_mask_threshold=is_high,
    )

    def score(trainable, frozen, rollouts, version):
        scores = base.score(trainable, frozen, rollouts, version)
        kept = scores["weight"] >= is_low
        return scores | {name: jnp.where(kept, scores[name], 0.0) for name in ("advantage", "weight")}

    return base._replace(score=score)
