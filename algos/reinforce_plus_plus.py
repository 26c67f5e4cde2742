"""REINFORCE++: no critic and no group. The baseline is the whole batch."""

from rlbench.learning.estimators import penalised, returns, whiten
from rlbench.learning.objectives import Clip, token_mean
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Fraction, Model, NonNegative

from .grpo import grpo


def reinforce_plus_plus(
    model: Model, *, group_size: Count, clip: Clip, kl_coef: NonNegative, gamma: Fraction
) -> Algorithm:
    """REINFORCE++ (arXiv:2501.03262).

    A token's advantage is its return, from which its own and later tokens' KL to the starting
    policy is taken, whitened over the batch (unbiased variance, as in verl). Loss: PPO's clipped
    surrogate, the mean over the tokens of the batch. The paper's form for groups is a file of its own.
    """
    base = grpo(model, group_size=group_size, clip=clip, kl_coef=0.0, advantage_eps=0.0, loss_aggregation=token_mean)

    def init(key, policy, rollouts):
        return {"policy": policy}, {"reference": policy}

    def score(trainable, frozen, rollouts, version):
        ref_logp = token_logp(model, frozen["reference"], rollouts)
        return {"advantage": whiten(returns(penalised(rollouts, ref_logp, kl_coef), gamma), rollouts)}

    return base._replace(init=init, score=score)
