"""CISPO: the clip bounds a token's weight and never silences its gradient."""

from rlbench.learning.objectives import Clip, LossAggregation, clipped_weight
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative

from .grpo import grpo


def cispo(
    model: Model, *, group_size: Count, clip: Clip, advantage_eps: NonNegative, loss_aggregation: LossAggregation
) -> Algorithm:
    """Clipped IS-weight Policy Optimization (MiniMax-M1, arXiv:2506.13585, section 3.1).

    REINFORCE, each token weighed by its clipped ratio to the sampling policy, which no gradient goes
    through. As in the paper, no KL to a reference. A low clip of 1 is no lower bound; libraries
    count the high one differently (docs/conventions.md).
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
        weight, clipped = clipped_weight(logp - rollouts.logp, clip)
        return loss_aggregation(-weight * scores["advantage"] * logp, rollouts, {"clip_fraction": clipped})

    return base._replace(loss=loss)
