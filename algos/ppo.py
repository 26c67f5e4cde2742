"""PPO: the baseline of every token is the value that a critic predicts, a second network as large as the policy."""

from rlbench.learning.estimators import gae, whiten
from rlbench.learning.objectives import Clip, clipped_surrogate, clipped_value_error, token_mean
from rlbench.models.likelihood import token_logp, token_value
from rlbench.models.transformer import graft
from rlbench.types import Algorithm, Count, Fraction, Model, NonNegative, Positive


def ppo(
    model: Model,
    *,
    group_size: Count,
    critic: dict[str, Count],
    gamma: Fraction,
    gae_lambda: Fraction,
    clip: Clip,
    value_clip: Positive,
    value_coef: NonNegative,
) -> Algorithm:
    """Proximal Policy Optimization (arXiv:1707.06347) with GAE (arXiv:1506.02438), a token being an action.

    The critic is a network of its own. It starts as a copy of the policy, but for its head, wherever
    sizes agree. Returns are taken before advantages are whitened over the batch (unbiased variance,
    as in verl; docs/conventions.md has others). Both losses are means over the tokens of the batch.
    Departures: no entropy bonus, and no KL to a reference in the reward.

    Args:
      group_size: attempts at a problem; PPO needs no more than one.
      critic: sizes of the critic, by the names of the model's own.
      value_clip: how far from its old value the critic may move before its loss stops falling.
      value_coef: weight of the value loss; the critic's optimizer state is apart from the policy's.
    """
    critic_model = model.resized(1, **critic)

    def init(key, policy, rollouts):
        return {"policy": policy, "critic": graft(critic_model.init(key), policy)}, {}

    def score(trainable, frozen, rollouts, version):
        value = token_value(critic_model, trainable["critic"], rollouts)
        advantage = gae(rollouts, value, gamma, gae_lambda)
        return {"value": value, "return": advantage + value, "advantage": whiten(advantage, rollouts)}

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(model, trainable["policy"], rollouts)
        gain, clipped = clipped_surrogate(logp - rollouts.logp, scores["advantage"], clip)
        value = token_value(critic_model, trainable["critic"], rollouts)
        error = clipped_value_error(value, scores["value"], scores["return"], value_clip)
        return token_mean(value_coef * error - gain, rollouts, {"value_error": error, "clip_fraction": clipped})

    return Algorithm(init, score, loss, group_size=group_size)
