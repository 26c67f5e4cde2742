"""Objectives: what is maximised at a token, and how tokens add up to a Loss."""

import math
from typing import Annotated, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticKnownError

from ..types import Array, Loss, Positive, Rollouts
from .estimators import valid


class AggregationFn(Protocol):
    """Function that makes one loss of the losses of tokens."""

    def __call__(self, per_token: Array, rollouts: Rollouts, metrics: dict[str, Array], /) -> Loss:
        """A mean, as a sum and a weight.

        Args:
          per_token: f32[B, T], the loss at each token. Only those that the policy chose count.
          rollouts: B rows of T tokens.
          metrics: f32[B, T] by name.

        Returns:
          The sum and the weight of the loss, and those of each metric by token.
        """


class ClipRange(NamedTuple):
    """Bounds of a ratio of two policies, as distances from 1."""

    low: Positive  # below 1
    high: Positive  # above 1
    dual: Annotated[float, Field(gt=1)] = math.inf  # what a ratio counts at most; over 1 + high


def clipped_surrogate(log_ratio: Array, advantage: Array, clip: ClipRange) -> tuple[Array, Array]:
    """PPO's objective (arXiv:1707.06347, equation 7) and where its clip binds, both [B, T].

    min(ratio A, clip(ratio, 1 - low, 1 + high) A). A ratio over `dual` counts as `dual`. As that is over
    1 + high, it tells where A < 0 alone: the dual clip (arXiv:1912.09729), max(..., dual A).
    """
    ratio = jnp.exp(jnp.minimum(log_ratio, math.log(clip.dual)))
    free, bound = ratio * advantage, jnp.clip(ratio, 1.0 - clip.low, 1.0 + clip.high) * advantage
    beyond = (advantage < 0.0) & (log_ratio > math.log(clip.dual))
    return jnp.minimum(free, bound), (bound < free) | beyond


def clipped_weight(log_ratio: Array, clip: ClipRange) -> tuple[Array, Array]:
    """CISPO's weight of a token (arXiv:2506.13585, section 3.1), a constant to gradients, and where its clip binds.

    clip(ratio, 1 - low, 1 + high). Both [B, T].
    """
    ratio = jax.lax.stop_gradient(jnp.exp(log_ratio))
    weight = jnp.clip(ratio, 1.0 - clip.low, 1.0 + clip.high)
    return weight, weight != ratio


def sequence_log_ratio(logp: Array, rollouts: Rollouts) -> Array:
    """GSPO's log-ratio of a whole completion, the mean over its tokens, at every token (arXiv:2507.18071, section 4.3).

    The value is the sequence's, the gradient the token's own (GSPO-token): where the advantage is the
    same at every token, that adds up to the sequence's gradient. f32[B, T].
    """
    length = jnp.maximum(rollouts.mask.sum(axis=-1, keepdims=True), 1)
    log_ratio = jnp.where(rollouts.mask, logp - rollouts.logp, 0.0)
    mean = log_ratio.sum(axis=-1, keepdims=True) / length
    return jax.lax.stop_gradient(mean - log_ratio) + log_ratio


def clipped_value_error(value: Array, old_value: Array, returns: Array, clip: float) -> Array:
    """PPO's value loss [B, T]: the worse of the error and that of a value held near the old one, halved."""
    near = old_value + jnp.clip(value - old_value, -clip, clip)
    return 0.5 * jnp.maximum((value - returns) ** 2, (near - returns) ** 2)


def token_mean(per_token: Array, rollouts: Rollouts, metrics: dict[str, Array]) -> Loss:
    """The mean over all tokens that the policy chose; metrics [B, T] likewise."""
    return Loss(*masked_sum(per_token, rollouts), {name: masked_sum(x, rollouts) for name, x in metrics.items()})


def sequence_mean(per_token: Array, rollouts: Rollouts, metrics: dict[str, Array]) -> Loss:
    """The mean over rollouts of each one's mean over its tokens; metrics [B, T] by token."""
    length = jnp.maximum(rollouts.mask.sum(axis=-1), 1)
    rows = jnp.where(rollouts.mask, per_token, 0.0).sum(axis=-1) / length
    weight = valid(rollouts).sum().astype(jnp.float32)
    return Loss(rows.sum(), weight, {name: masked_sum(x, rollouts) for name, x in metrics.items()})


def sequence_sum(per_token: Array, rollouts: Rollouts, metrics: dict[str, Array], length: float = 1.0) -> Loss:
    """The mean over rollouts of each one's sum over its tokens / a constant length; metrics [B, T] by token."""
    total, _ = masked_sum(per_token / length, rollouts)
    weight = valid(rollouts).sum().astype(jnp.float32)
    return Loss(total, weight, {name: masked_sum(x, rollouts) for name, x in metrics.items()})


def masked_sum(x: Array, rollouts: Rollouts) -> tuple[Array, Array]:
    """Sum and count over the tokens that the policy chose."""
    return jnp.where(rollouts.mask, x, 0.0).sum(), rollouts.mask.sum().astype(jnp.float32)


MEANS: dict[str, AggregationFn] = {"tokens": token_mean, "sequences": sequence_mean, "sums": sequence_sum}


def aggregation_named(name: Any) -> Any:
    """The mean of a name; a function is taken as it is."""
    if isinstance(name, str):
        if name not in MEANS:
            raise ValueError(f"known: {', '.join(MEANS)}")
        return MEANS[name]
    if not callable(name):
        raise PydanticKnownError("callable_type")
    return name


def same_both_ways(clip: Any) -> Any:
    """A number as a range that is as wide below 1 as above; the keys of a range are left to whoever checks them."""
    if isinstance(clip, int | float) and not isinstance(clip, bool):
        if not clip > 0:
            raise PydanticKnownError("greater_than", {"gt": 0})
        return ClipRange(clip, clip)
    if not isinstance(clip, dict | ClipRange):
        raise ValueError("a number, or low and high, and dual if there is one")
    return clip


def dual_beyond_high(clip: ClipRange) -> ClipRange:
    """The range, if it is one."""
    if clip.dual <= 1.0 + clip.high:
        raise ValueError(f"dual has to be over 1 + high = {1.0 + clip.high}")
    return clip


LossAggregation = Annotated[AggregationFn, PlainValidator(aggregation_named)]  # in a config, a name of MEANS
Clip = Annotated[ClipRange, BeforeValidator(same_both_ways), AfterValidator(dual_beyond_high)]  # a number, or its keys
