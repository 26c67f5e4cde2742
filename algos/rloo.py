"""RLOO: a completion is one action, and its baseline is the mean reward of the others in its group."""

from rlbench.learning.estimators import leave_one_out, penalised
from rlbench.learning.objectives import Clip, sequence_sum
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative

from .grpo import grpo


def rloo(model: Model, *, group_size: Count, clip: Clip, kl_coef: NonNegative) -> Algorithm:
    """REINFORCE Leave-One-Out (arXiv:2402.14740).

    A completion is one action: its tokens' gradients are added, not averaged, and its KL to the
    starting policy, log pi - log reference, comes off its reward. Departure: PPO's clipped ratio, where
    the paper has one update a batch and needs none (TRL clips one ratio of the whole completion); on fresh
    data the gradient is REINFORCE's.
    """
    base = grpo(model, group_size=group_size, clip=clip, kl_coef=0.0, advantage_eps=0.0, loss_aggregation=sequence_sum)

    def init(key, policy, rollouts):
        return {"policy": policy}, {"reference": policy}

    def score(trainable, frozen, rollouts, version):
        ref_logp = token_logp(model, frozen["reference"], rollouts)
        return {"advantage": leave_one_out(penalised(rollouts, ref_logp, kl_coef))}

    return base._replace(init=init, score=score)
