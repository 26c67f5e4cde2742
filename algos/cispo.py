"""CISPO: the clip bounds a token's weight and never silences its gradient."""

from rlbench.learning.objectives import clipped_weight, token_mean
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative, Positive

from .grpo import grpo


def cispo(
    model: Model, *, group_size: Count, clip_low: Positive, clip_high: Positive, epsilon: NonNegative
) -> Algorithm:
    """Clipped Importance Sampling Policy Optimization (arXiv:2506.13585, section 3.1).

    REINFORCE, each token weighed by its clipped ratio to the sampling policy, which no gradient goes
    through; the mean over the tokens of the batch. As in the paper, no divergence from a reference; a
    clip_low of 1 is no lower bound.
    """
    base = grpo(model, group_size=group_size, clip=clip_high, kl_coef=0.0, epsilon=epsilon, mean_over=token_mean)

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(model, trainable["policy"], rollouts)
        weight, clipped = clipped_weight(logp - rollouts.logp, clip_low, clip_high)
        return token_mean(-weight * scores["advantage"] * logp, rollouts, {"clip_fraction": clipped})

    return base._replace(loss=loss)
