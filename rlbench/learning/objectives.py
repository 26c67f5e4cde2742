"""Objectives: what is maximised at a token, and how tokens add up to a Loss."""

import jax.numpy as jnp

from ..types import Array, Loss, Rollouts
from .estimators import happened


def clipped_surrogate(log_ratio: Array, advantage: Array, clip: float) -> tuple[Array, Array]:
    """PPO's objective (arXiv:1707.06347, equation 7) and where its clip binds, both [B, T].

    min(ratio A, clip(ratio, 1 - clip, 1 + clip) A).
    """
    ratio = jnp.exp(log_ratio)
    free, bound = ratio * advantage, jnp.clip(ratio, 1.0 - clip, 1.0 + clip) * advantage
    return jnp.minimum(free, bound), bound < free


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


def masked_sum(x: Array, rollouts: Rollouts) -> tuple[Array, Array]:
    """Sum and count over the tokens that the policy chose."""
    return jnp.where(rollouts.mask, x, 0.0).sum(), rollouts.mask.sum().astype(jnp.float32)
