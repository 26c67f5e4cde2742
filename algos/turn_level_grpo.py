"""Turn-level GRPO: a turn's advantage is its return, what it and later turns earn, relative to the group's."""

from rlbench.learning.estimators import turn_leave_one_out
from rlbench.learning.objectives import Clip, LossAggregation
from rlbench.types import Algorithm, Count, Model, NonNegative

from .grpo import grpo


def turn_level_grpo(
    model: Model, *, group_size: Count, clip: Clip, kl_coef: NonNegative, loss_aggregation: LossAggregation
) -> Algorithm:
    """Turn-level credit for GRPO, as in Multi-Turn GRPO (MT-GRPO, arXiv:2505.11821).

    Departures: the paper has two turns. The second one's advantage is the outcome's z-score in the group; the first
    one's is that and, weighed by a coefficient, the z-score of the turn's own reward. With more turns, what is
    taken off a rollout would depend on how many it took, which is biased where the policy chooses when to stop.
    Here the mean of the others' returns is taken off a turn's return, and nothing is divided by a deviation; with
    loss_aggregation "sums" the gradient on fresh data is that of the expected reward (docs/conventions.md, "Credit
    by turns").

    Args:
      loss_aggregation: as of GRPO; "tokens" and "sequences" divide by lengths that the policy chose.
    """
    base = grpo(
        model, group_size=group_size, clip=clip, kl_coef=kl_coef, advantage_eps=0.0, loss_aggregation=loss_aggregation
    )

    def score(trainable, frozen, rollouts, version):
        return base.score(trainable, frozen, rollouts, version) | {"advantage": turn_leave_one_out(rollouts)}

    return base._replace(score=score)
