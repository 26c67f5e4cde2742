"""Supervised learning of the tokens under the mask, in the form of an algorithm."""

from ..models.likelihood import token_logp
from ..types import Algorithm, Model
from .objectives import token_mean


def sft(model: Model) -> Algorithm:
    """Maximum likelihood of the masked tokens, the mean over the tokens of a batch."""

    def init(key, policy, rollouts):
        return {"policy": policy}, {}

    def score(trainable, frozen, rollouts, version):
        return {}

    def loss(trainable, frozen, rollouts, scores):
        return token_mean(-token_logp(model, trainable["policy"], rollouts), rollouts, {})

    return Algorithm(init, score, loss)
