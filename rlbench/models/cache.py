"""The key-value cache: a chain of segments, each shared by a whole number of rows.

A prompt is prefilled once a problem into a segment with one row a problem; the completions of a group
then read it together and write a segment of their own. Rows advance through slots in step, so that
a write is one slice for all rows; a row that has nothing to say leaves an invalid slot behind.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from ..types import Array, Model


class Segment(NamedTuple):
    keys: tuple[Array, ...]  # per layer: [rows, slots, kv_heads, head]
    values: tuple[Array, ...]
    valid: Array  # bool[rows, slots]


class Cache(NamedTuple):
    segments: tuple[Segment, ...]  # the last one is written; each has rows that divide the batch's
    cursor: Array  # i32[]   slots in use of the last segment
    length: Array  # i32[B]  tokens so far, which is the position of the next one


def empty(model: Model, rows: int, slots: int) -> Cache:
    """A cache with nothing in it, for `rows` sequences of at most `slots` tokens."""
    return Cache((model.segment(rows, slots),), jnp.zeros((), jnp.int32), jnp.zeros(rows, jnp.int32))


def branch(model: Model, cache: Cache, copies: int, slots: int) -> Cache:
    """Every row becomes `copies` neighbouring rows, which share what was cached so far."""
    length = jnp.repeat(cache.length, copies)
    return Cache((*cache.segments, model.segment(len(length), slots)), jnp.zeros((), jnp.int32), length)


def reserve(cache: Cache, width: int, length: Array) -> tuple[Cache, Array]:
    """Takes `width` slots of the last segment for tokens of which row b has length[b].

    Returns the cache after the tokens are in it (keys and values are written by the layers), and
    positions i32[B, width] of the new tokens.
    """
    offsets = jnp.arange(width)
    *shared, last = cache.segments
    valid = lax.dynamic_update_slice(last.valid, offsets < length[:, None], (0, cache.cursor))
    segments = (*shared, last._replace(valid=valid))
    return Cache(segments, cache.cursor + width, cache.length + length), cache.length[:, None] + offsets


def visible(segment: Segment, newest: Array | None) -> Array:
    """Slots of a segment that queries may attend to: bool[rows, 1 or S, slots].

    Args:
      newest: i32[S], for the segment being written: the slot of each new token, which sees no later
        one. None for a shared segment, all of which came before.
    """
    seen = segment.valid[:, None, :]
    return seen if newest is None else seen & (jnp.arange(seen.shape[-1]) <= newest[:, None])


def write(buffer: Array, new: Any, slot: Array) -> Array:
    """Puts new[B, S, kv_heads, head] into buffer[B, slots, kv_heads, head] from `slot` on."""
    return lax.dynamic_update_slice(buffer, new.astype(buffer.dtype), (0, slot, 0, 0))
