"""Optimizers."""

from typing import Annotated

import optax
from pydantic import Field

from ..types import Fraction, Natural, NonNegative, Positive

Decay = Annotated[float, Field(ge=0, le=0.999999)]  # in float32, 1 - decay**updates is not 0


def adamw(
    updates: int,
    *,
    learning_rate: Positive,
    warmup: Natural,
    final: Fraction,
    b1: Decay,
    b2: Decay,
    epsilon: Positive,
    weight_decay: NonNegative,
    max_grad_norm: Positive,
) -> optax.GradientTransformation:
    """AdamW (arXiv:1711.05101) behind a clip of the gradient's global norm.

    Args:
      updates: optimizer updates of the whole run.
      warmup: updates over which the learning rate rises linearly from zero.
      final: the part of the learning rate that is left at the last update, after a linear descent.
    """
    rate = optax.linear_schedule(learning_rate, final * learning_rate, max(1, updates - warmup))
    if warmup:
        rate = optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), rate], [warmup])
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm), optax.adamw(rate, b1, b2, epsilon, weight_decay=weight_decay)
    )


def sgd(updates: int, *, learning_rate: Positive) -> optax.GradientTransformation:
    """Plain gradient descent: an update says what the gradient was."""
    return optax.sgd(learning_rate)
