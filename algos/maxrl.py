"""MaxRL: GRPO that divides by the group's success rate instead of its deviation, so that rare successes count more."""

from rlbench.learning.estimators import group_likelihood
from rlbench.learning.objectives import Clip, LossAggregation
from rlbench.types import Algorithm, Count, Model, NonNegative

from .grpo import grpo


def maxrl(
    model: Model, *, group_size: Count, clip: Clip, kl_coef: NonNegative, loss_aggregation: LossAggregation
) -> Algorithm:
    """Maximum Likelihood Reinforcement Learning (arXiv:2602.02710).

    Expected reward is the first term of the log-likelihood of success; dividing by the mean reward
    takes as many terms as the group has rollouts. Departures: PPO's clipped ratio, for more than one
    update a batch, and a mean over tokens or sequences as GRPO's.
    """
    base = grpo(
        model, group_size=group_size, clip=clip, kl_coef=kl_coef, advantage_eps=0.0, loss_aggregation=loss_aggregation
    )

    def score(trainable, frozen, rollouts, version):
        return base.score(trainable, frozen, rollouts, version) | {"advantage": group_likelihood(rollouts)}

    return base._replace(score=score)
