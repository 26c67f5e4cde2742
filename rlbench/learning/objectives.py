"""Objectives: what is maximised at a token, and how tokens add up to a Loss."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from pydantic import BeforeValidator

from ..types import Array, Loss, Rollouts
from .estimators import happened


def clipped_surrogate(log_ratio: Array, advantage: Array, low: float, high: float) -> tuple[Array, Array]:
    """PPO's objective (arXiv:1707.06347, equation 7) and where its clip binds, both [B, T].

    min(ratio A, clip(ratio, 1 - low, 1 + high) A).
    """
    ratio = jnp.exp(log_ratio)
    free, bound = ratio * advantage, jnp.clip(ratio, 1.0 - low, 1.0 + high) * advantage
    return jnp.minimum(free, bound), bound < free


def clipped_weight(log_ratio: Array, low: float, high: float) -> tuple[Array, Array]:
    """CISPO's weight of a token (arXiv:2506.13585, equation 5), a constant to gradients, and where its clip binds.

    clip(ratio, 1 - low, 1 + high). Both [B, T].
    """
    ratio = jax.lax.stop_gradient(jnp.exp(log_ratio))
    weight = jnp.clip(ratio, 1.0 - low, 1.0 + high)
    return weight, weight != ratio


def sequence_log_ratio(logp: Array, rollouts: Rollouts) -> Array:
    """GSPO's log-ratio of a whole reply, the mean over its tokens, at every token (arXiv:2507.18071, section 4.3).

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
    weight = happened(rollouts).sum().astype(jnp.float32)
    return Loss(rows.sum(), weight, {name: masked_sum(x, rollouts) for name, x in metrics.items()})


def sequence_sum(per_token: Array, rollouts: Rollouts, metrics: dict[str, Array], length: float = 1.0) -> Loss:
    """The mean over rollouts of each one's sum over its tokens / a constant length; metrics [B, T] by token."""
    total, _ = masked_sum(per_token / length, rollouts)
    weight = happened(rollouts).sum().astype(jnp.float32)
    return Loss(total, weight, {name: masked_sum(x, rollouts) for name, x in metrics.items()})


def masked_sum(x: Array, rollouts: Rollouts) -> tuple[Array, Array]:
    """Sum and count over the tokens that the policy chose."""
    return jnp.where(rollouts.mask, x, 0.0).sum(), rollouts.mask.sum().astype(jnp.float32)


MEANS: dict[str, Callable[..., Loss]] = {"tokens": token_mean, "sequences": sequence_mean}


def mean_named(name: Any) -> Any:
    """The mean of a name; anything else is left to whoever checks it."""
    if isinstance(name, str) and name not in MEANS:
        raise ValueError(f"known: {', '.join(MEANS)}")
    return MEANS.get(name, name) if isinstance(name, str) else name


MeanOver = Annotated[Callable[..., Loss], BeforeValidator(mean_named)]  # in a config, a name of MEANS
