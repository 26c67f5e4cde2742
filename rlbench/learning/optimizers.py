"""Optimizers."""

from typing import Annotated, Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as optax_muon
from pydantic import Field

from ..types import Fraction, Natural, NonNegative, Params, Positive

Decay = Annotated[float, Field(ge=0, le=0.999999)]  # in float32, 1 - decay**updates is not 0


def adamw(
    updates: int,
    *,
    learning_rate: Positive,
    warmup: Natural,
    final_lr_fraction: Fraction,
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
      final_lr_fraction: the part of the learning rate that is left at the last update, after a linear descent.
    """
    rate = descent(updates, learning_rate, warmup, final_lr_fraction)
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm), optax.adamw(rate, b1, b2, epsilon, weight_decay=weight_decay)
    )


def muon(
    updates: int,
    *,
    learning_rate: Positive,
    warmup: Natural,
    final_lr_fraction: Fraction,
    momentum: Decay,
    b1: Decay,
    b2: Decay,
    weight_decay: NonNegative,
    max_grad_norm: Positive,
) -> optax.GradientTransformation:
    """Muon for the matrices within a network, AdamW for the rest, behind a clip of the gradient's global norm.

    An update of a matrix is its momentum with all singular values made about 1 (Jordan, 2024,
    https://kellerjordan.github.io/posts/muon), scaled to the root mean square of AdamW's updates, so that one
    learning rate serves both (arXiv:2502.16982, section 2.2). Embeddings, heads and vectors are AdamW's, as there.
    Both look ahead as Nesterov's momentum does.

    Args:
      momentum: decay of the mean of gradients.
      b1: of AdamW, as is b2.
      weight_decay: decoupled; of both.
    """
    rate = descent(updates, learning_rate, warmup, final_lr_fraction)
    matrices = optax_muon(
        rate,
        beta=momentum,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        adam_weight_decay=weight_decay,
        muon_weight_dimension_numbers=matrices_within,
        consistent_rms=0.2,
    )
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), matrices)


def matrices_within(params: Params) -> Any:
    """Marks the matrices that map a network's features to features: all but those of its embeddings and heads."""

    def mark(path: Any, leaf: Any) -> MuonDimensionNumbers | None:
        names = {getattr(entry, "key", None) for entry in path}
        return MuonDimensionNumbers() if leaf.ndim == 2 and not names & {"embed", "head"} else None

    return jax.tree_util.tree_map_with_path(mark, params)


def descent(updates: int, learning_rate: float, warmup: int, final_lr_fraction: float) -> optax.Schedule:
    """A linear rise over `warmup` updates, then a linear descent to the part `final_lr_fraction` at the last update."""
    rate = optax.linear_schedule(learning_rate, final_lr_fraction * learning_rate, max(1, updates - warmup))
    if not warmup:
        return rate
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup), rate], [warmup])


def sgd(updates: int, *, learning_rate: Positive) -> optax.GradientTransformation:
    """Plain gradient descent: an update says what the gradient was."""
    return optax.sgd(learning_rate)
