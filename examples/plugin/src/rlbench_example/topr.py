"""TOPR: successes are repeated, failures avoided, but the less the rarer they have become. Stale data does no harm."""

from typing import Annotated

import jax
import jax.numpy as jnp
from pydantic import Field

from rlbench.learning.estimators import episode_reward, over_tokens, valid
from rlbench.learning.objectives import masked_sum
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Count, Loss, Model

Baseline = Annotated[float, Field(gt=-1, lt=1)]  # a value of the config that is not in there is refused


def topr(model: Model, *, group_size: Count, baseline: Baseline) -> Algorithm:
    """Tapered Off-Policy REINFORCE (arXiv:2503.14286, section 3, equation 8).

    REINFORCE on whole completions, of which a success counts 1 and a failure -1, less a baseline c. With data of an
    older policy mu, what falls below 0 would be pushed away without end: its gradient does not vanish with its
    probability. It is therefore weighed by pi / mu of the whole completion, at most 1. What is above 0 weighs 1,
    however old it is.
    No clip, no reference. The loss is the mean over completions of sums over their tokens, not divided by length.

    Departures: rewards r are from 0 to 1 here, so that 2 r - 1 is the paper's; an episode of several turns counts
    as one completion.

    Args:
      group_size: attempts at each problem; nothing is compared within a group.
      baseline: c. Of a share p of successes, it makes p (1 - c) / (1 + (1 - 2 p) c) of what is learned from.
    """

    def init(key, policy, rollouts):
        return {"policy": policy}, {}

    def score(trainable, frozen, rollouts, version):
        return {"advantage": over_tokens(2.0 * episode_reward(rollouts) - 1.0 - baseline, rollouts)}

    def loss(trainable, frozen, rollouts, scores):
        logp = token_logp(model, trainable["policy"], rollouts)
        log_ratio = jnp.where(rollouts.mask, logp - rollouts.logp, 0.0).sum(axis=-1, keepdims=True)  # f32[B, 1]
        taper = jnp.exp(jnp.minimum(jax.lax.stop_gradient(log_ratio), 0.0))
        weight = jnp.where(scores["advantage"] < 0.0, taper, 1.0)  # f32[B, T]
        total, _ = masked_sum(-weight * scores["advantage"] * logp, rollouts)
        completions = valid(rollouts).sum().astype(jnp.float32)
        return Loss(total, completions, {"weight": masked_sum(weight, rollouts)})

    return Algorithm(init, score, loss, group_size=group_size)
