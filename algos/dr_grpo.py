"""Dr. GRPO: GRPO without its two biases, the division by a group's deviation and by a completion's own length."""

from functools import partial

from rlbench.learning.estimators import above_group
from rlbench.learning.objectives import Clip, sequence_sum
from rlbench.types import Algorithm, AtLeastOne, Count, Model, NonNegative

from .grpo import grpo


def dr_grpo(model: Model, *, group_size: Count, clip: Clip, kl_coef: NonNegative, length: AtLeastOne) -> Algorithm:
    """GRPO Done Right (arXiv:2503.20783, section 3.2).

    Args:
      length: tokens by which every completion's sum is divided, whatever its own length.
    """
    loss_aggregation = partial(sequence_sum, length=length)
    base = grpo(
        model, group_size=group_size, clip=clip, kl_coef=kl_coef, advantage_eps=0.0, loss_aggregation=loss_aggregation
    )

    def score(trainable, frozen, rollouts, version):
        return base.score(trainable, frozen, rollouts, version) | {"advantage": above_group(rollouts)}

    return base._replace(score=score)
