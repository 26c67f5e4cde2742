"""OPSM: a bad completion that the policy has moved away from is left out; it would only be pushed further."""

import jax
import jax.numpy as jnp

from rlbench.learning.objectives import Clip, LossAggregation, clipped_surrogate, sequence_log_ratio
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative, Positive

from .grpo import grpo


def opsm(
    model: Model,
    *,
    group_size: Count,
    clip: Clip,
    advantage_eps: NonNegative,
    loss_aggregation: LossAggregation,
    max_drift: Positive,
) -> Algorithm:
    """GRPO with off-policy sequence masking (DeepSeek-V3.2, arXiv:2512.02556, section 3.1).

    A completion of negative advantage has no gradient once the mean over its tokens of log(sampling policy / policy)
    is over max_drift. Good completions are kept, however old. The mean still counts what is left out. Departures:
    no KL to a reference; the advantage is divided by the group's deviation.

    Args:
      max_drift: nats a token.
    """
    base = grpo(
        model,
        group_size=group_size,
        clip=clip,
        kl_coef=0.0,
        advantage_eps=advantage_eps,
        loss_aggregation=loss_aggregation,
    )

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(model, trainable["policy"], rollouts)
        drift = -jax.lax.stop_gradient(sequence_log_ratio(logp, rollouts))
        masked = (scores["advantage"] < 0.0) & (drift > max_drift)
        advantage = jnp.where(masked, 0.0, scores["advantage"])
        gain, clipped = clipped_surrogate(logp - rollouts.logp, advantage, clip)
        return loss_aggregation(-gain, rollouts, {"masked_fraction": masked, "clip_fraction": clipped})

    return base._replace(loss=loss)
