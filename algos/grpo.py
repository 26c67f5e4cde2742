"""GRPO: no critic. The baseline of a completion is the mean reward of its group, attempts at the same problem."""

from rlbench.learning.estimators import group_zscore, k3
from rlbench.learning.objectives import Clip, LossAggregation, clipped_surrogate
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative


def grpo(
    model: Model,
    *,
    group_size: Count,
    clip: Clip,
    kl_coef: NonNegative,
    advantage_eps: NonNegative,
    loss_aggregation: LossAggregation,
) -> Algorithm:
    """Group Relative Policy Optimization (arXiv:2402.03300, section 4.1), outcome supervision.

    Advantages are z-scores within a group, by the unbiased deviation + advantage_eps; a group of one, or of
    equal rewards, teaches nothing. The KL to the frozen starting policy is estimated by k3
    and added to the loss; with kl_coef 0 no reference is held. What libraries do differently, and which
    preset does as they do: docs/conventions.md.

    Args:
      loss_aggregation: "sequences", the mean over completions of each one's mean over its tokens, as in the paper;
        "tokens" of the batch; or "sums", the mean over completions of their sums.
    """

    def init(key, policy, rollouts):
        return {"policy": policy}, {"reference": policy} if kl_coef else {}

    def score(trainable, frozen, rollouts, version):
        scores = {"advantage": group_zscore(rollouts, advantage_eps)}
        if kl_coef:
            scores["ref_logp"] = token_logp(model, frozen["reference"], rollouts)
        return scores

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(model, trainable["policy"], rollouts)
        gain, clipped = clipped_surrogate(logp - rollouts.logp, scores["advantage"], clip)
        if not kl_coef:
            return loss_aggregation(-gain, rollouts, {"clip_fraction": clipped})
        kl = k3(logp, scores["ref_logp"])
        return loss_aggregation(kl_coef * kl - gain, rollouts, {"kl": kl, "clip_fraction": clipped})

    return Algorithm(init, score, loss, group_size=group_size, idle_without_advantage=not kl_coef)
