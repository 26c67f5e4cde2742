"""On-policy distillation: no reward. The policy learns a teacher's probabilities, on its own completions."""

from rlbench.learning.estimators import reverse_kl
from rlbench.learning.objectives import LossAggregation
from rlbench.models.likelihood import token_log_policy
from rlbench.models.trained import Trained
from rlbench.types import Algorithm, Count, Model


def opd(model: Model, *, teacher: Trained | None, group_size: Count, loss_aggregation: LossAggregation) -> Algorithm:
    """On-policy Generalized Knowledge Distillation (arXiv:2306.13649, section 3.1) with the reverse KL.

    At every token that was sampled, KL(policy || teacher) over the whole vocabulary; as in the paper, no gradient goes
    through the sampling. The reward decides nothing. Departure: all data is the policy's own (lambda = 1).

    Args:
      teacher: policy of an earlier run, which may be of another size, over the same tokens; None: the policy at the
        start, from which nothing is learned.
    """
    network = teacher.model if teacher else model

    def init(key, policy, rollouts):
        return {"policy": policy}, {"teacher": teacher.params if teacher else policy}

    def score(trainable, frozen, rollouts, version):
        return {}

    def loss(trainable, frozen, rollouts, scores):
        mine = token_log_policy(model, trainable["policy"], rollouts)
        theirs = token_log_policy(network, frozen["teacher"], rollouts)
        kl = reverse_kl(mine, theirs, model.emits)
        return loss_aggregation(kl, rollouts, {"teacher_kl": kl})

    return Algorithm(init, score, loss, group_size=group_size)
