"""REINFORCE++ with a baseline: the mean of the group; what is left is scaled by the deviation of the whole batch."""

from rlbench.learning.estimators import above_group, whiten
from rlbench.learning.objectives import Clip, token_mean
from rlbench.types import Algorithm, Count, Model, NonNegative

from .grpo import grpo


def reinforce_plus_plus_baseline(model: Model, *, group_size: Count, clip: Clip, kl_coef: NonNegative) -> Algorithm:
    """REINFORCE++ for groups (arXiv:2501.03262).

    Rewards less their group's mean, whitened over the tokens of the batch (unbiased variance, as in
    verl), so that no group is blown up by a small deviation of its own. A group of equal rewards still
    has an advantage where longer completions earned more than shorter ones: the mean over tokens is not 0.
    The KL, if there is one, is GRPO's: k3, in the loss.
    """
    base = grpo(
        model, group_size=group_size, clip=clip, kl_coef=kl_coef, advantage_eps=0.0, loss_aggregation=token_mean
    )

    def score(trainable, frozen, rollouts, version):
        advantage = whiten(above_group(rollouts), rollouts)
        return base.score(trainable, frozen, rollouts, version) | {"advantage": advantage}

    return base._replace(score=score)
