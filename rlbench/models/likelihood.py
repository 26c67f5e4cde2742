"""Likelihood of tokens under a network. The convention that token t is judged by outputs at t - 1 lives here."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..devices import in_chunks
from ..types import Array, Model, Params, Rollouts
from .prefix import prefixes_of, read_after
from .tokenizers import END


def log_policy(model: Model, outputs: Array) -> Array:
    """Log-probabilities f32[..., V] of the one distribution that is sampled and trained.

    Softmax of outputs / temperature over the tokens that the model emits; -inf for the others.
    """
    return jax.nn.log_softmax(jnp.where(model.emits, outputs / model.temperature, -jnp.inf), axis=-1)


def token_logp(model: Model, params: Params, rollouts: Rollouts) -> Array:
    """log pi(tokens[t] | tokens[<t]) as f32[B, T]; 0 where the mask is False."""

    def read(outputs: Array, tokens: Array, mask: Array) -> Array:
        chosen = jnp.where(mask, tokens, END)[..., None]
        return jnp.take_along_axis(log_policy(model, outputs), chosen, axis=-1)[..., 0]

    return per_token(model, params, rollouts, read)


def token_log_policy(model: Model, params: Params, rollouts: Rollouts) -> Array:
    """log pi(v | tokens[<t]) of every token v, as f32[B, T, V]; -inf of those that the model does not emit.

    Rows are read in full, all at once: for a loss, which sees a microbatch.
    """
    outputs = model.apply(params, rollouts.tokens[:, :-1])
    return jnp.pad(log_policy(model, outputs), ((0, 0), (1, 0), (0, 0)))


def token_value(critic: Model, params: Params, rollouts: Rollouts) -> Array:
    """The critic's value V_t f32[B, T] before token t is chosen; 0 where the mask is False."""
    return per_token(critic, params, rollouts, lambda outputs, tokens, mask: outputs[..., 0])


def per_token(model: Model, params: Params, rollouts: Rollouts, read: Callable[[Array, Array, Array], Array]) -> Array:
    """f32[B, T]: at t, what `read` makes of the outputs at t - 1; 0 where the mask is False.

    Goes through the batch in chunks of at most model.chunk_tokens a device, or of one row of each.
    """

    if (prefixes := prefixes_of(rollouts)) and model.branch:
        values = read_after(model, params, prefixes, read)
        return jnp.where(rollouts.mask, prefixes.rows(values, rollouts.mask.shape[1]), 0.0)

    def forward(batch: tuple[Array, Array]) -> Array:
        tokens, mask = batch
        # Tokens after the last chosen one are padding, whatever they hold; nothing earlier sees them.
        values = read(model.apply(params, tokens[:, :-1]), tokens[:, 1:], mask[:, 1:])
        return jnp.where(mask, jnp.pad(values, ((0, 0), (1, 0))), 0.0)

    batch = rollouts.tokens, rollouts.mask
    rows, length = rollouts.tokens.shape
    parts = in_chunks(batch, rows, length, model.chunk_tokens)
    if len(parts[0]) == 1:
        return forward(batch)
    return jax.lax.map(forward, parts).swapaxes(0, 1).reshape(rows, length)
