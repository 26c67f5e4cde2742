"""DPPO: a token is left out by how far its probability moved, not by the ratio of its probabilities."""

import jax.numpy as jnp

from rlbench.learning.objectives import ClipRange, LossAggregation
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative, Positive

from .grpo import grpo


def dppo(
    model: Model,
    *,
    group_size: Count,
    tv_threshold: Positive,
    advantage_eps: NonNegative,
    loss_aggregation: LossAggregation,
) -> Algorithm:
    """Divergence Proximal Policy Optimization (arXiv:2602.04879, section 4), by the binary total variation.

    The ratio to the sampling policy weighs every token, without a clip. A token that moves further away, up with
    a positive advantage or down with a negative one, has no gradient once its probability differs by more than
    tv_threshold from what it was sampled with: a rare token may double, a sure one may not lose a fifth. The mean
    still counts it. No KL to a reference. Departure: the advantage is GRPO's, divided by the group's deviation; the
    paper takes the mean off alone, and sums over a completion's tokens (loss_aggregation "sums").

    Args:
      tv_threshold: the most that the probability of a token may have changed; 1 is no limit.
    """
    base = grpo(
        model,
        group_size=group_size,
        clip=ClipRange(1.0, 1.0),
        kl_coef=0.0,
        advantage_eps=advantage_eps,
        loss_aggregation=loss_aggregation,
    )

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(model, trainable["policy"], rollouts)
        moved = jnp.abs(jnp.exp(logp) - jnp.exp(rollouts.logp))
        away = scores["advantage"] * (logp - rollouts.logp) > 0.0
        masked = away & (moved > tv_threshold)
        gain = jnp.where(masked, 0.0, jnp.exp(logp - rollouts.logp) * scores["advantage"])
        return loss_aggregation(-gain, rollouts, {"masked_fraction": masked, "total_variation": moved})

    return base._replace(loss=loss)
