"""GSPO: GRPO whose ratio, and so whose clip, is a whole completion's."""

from rlbench.learning.objectives import Clip, clipped_surrogate, sequence_log_ratio, sequence_mean
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Model, NonNegative

from .grpo import grpo


def gspo(model: Model, *, group_size: Count, clip: Clip, advantage_eps: NonNegative) -> Algorithm:
    """Group Sequence Policy Optimization (arXiv:2507.18071, sections 4.1 and 4.3).

    The ratio is the geometric mean of the tokens' ratios, so the clip is far narrower than PPO's. In its
    GSPO-token form, whose gradient is also right where tokens of a completion have different advantages.
    No KL to a reference, as in the paper's formulas.
    """
    base = grpo(
        model,
        group_size=group_size,
        clip=clip,
        kl_coef=0.0,
        advantage_eps=advantage_eps,
        loss_aggregation=sequence_mean,
    )

    def loss(trainable, frozen, rollouts, scores):
        log_ratio = sequence_log_ratio(token_logp(model, trainable["policy"], rollouts), rollouts)
        gain, clipped = clipped_surrogate(log_ratio, scores["advantage"], clip)
        return sequence_mean(-gain, rollouts, {"clip_fraction": clipped})

    return base._replace(loss=loss)
