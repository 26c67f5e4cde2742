"""Async-GRPO: sampling and learning overlap. Importance weights correct for stale data, and the clip moves with it."""

import jax.numpy as jnp

from rlbench.learning.objectives import Clip, LossAggregation, masked_sum
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative, Positive

from .grpo import grpo


def async_grpo(
    model: Model,
    *,
    group_size: Count,
    clip: Clip,
    kl_coef: NonNegative,
    advantage_eps: NonNegative,
    loss_aggregation: LossAggregation,
    is_cap: Positive,
) -> Algorithm:
    """GRPO with the decoupled objective (arXiv:2110.00641; AReaL, arXiv:2505.24298, section 5.2).

    Three policies: the one that sampled (behaviour), the one at the start of the learner step
    (proximal), and the one being trained. The clip is around the proximal policy, whose
    log-probabilities are computed when the batch is scored; the behaviour ratio proximal / behaviour
    weighs every token and is truncated from above, not masked. Being positive, it may as well weigh
    the advantage. On fresh data it is 1, and what is left is GRPO. async_grpo_masked leaves such tokens out.

    Args:
      is_cap: the most that a token may weigh.
    """
    base = grpo(
        model,
        group_size=group_size,
        clip=clip,
        kl_coef=kl_coef,
        advantage_eps=advantage_eps,
        loss_aggregation=loss_aggregation,
    )

    def score(trainable, frozen, rollouts, version):
        scores = base.score(trainable, frozen, rollouts, version)
        proximal = token_logp(model, trainable["policy"], rollouts)
        ratio = jnp.exp(jnp.where(rollouts.mask, proximal - rollouts.logp, 0.0))
        weight = jnp.minimum(ratio, is_cap)
        return scores | {"advantage": weight * scores["advantage"], "proximal_logp": proximal, "weight": weight}

    def loss(trainable, frozen, rollouts, scores):
        total = base.loss(trainable, frozen, rollouts._replace(logp=scores["proximal_logp"]), scores)
        return total._replace(metrics=total.metrics | {"behaviour_weight": masked_sum(scores["weight"], rollouts)})

    return base._replace(score=score, loss=loss)
