"""The key-value cache: every row has its own, filled from the left.

A row is written where its text ends, whatever the others do. So a row that waits is not moved on by its neighbours,
and what it sees does not depend on them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..types import Array


class Cache(NamedTuple):
    """Keys and values of the tokens so far. A head's tokens are neighbours in memory, as attention reads them."""

    keys: tuple[Array, ...]  # per layer: [B, kv_heads, slots, head]
    values: tuple[Array, ...]
    length: Array  # i32[B]  tokens so far: the position of the next one, and the slot that it is written to


def positions_of(cache: Cache, width: int) -> Array:
    """Positions i32[B, width] of the next tokens, which are their slots, too."""
    return cache.length[:, None] + jnp.arange(width)


def visible(cache: Cache, positions: Array) -> Array:
    """Slots that tokens at some positions attend to, their own included: bool[B, S, slots].

    What stands beyond is never seen: leftovers of the row's last text, or padding, which the next token overwrites.
    """
    return jnp.arange(cache.keys[0].shape[2]) <= positions[:, :, None]


def write(buffer: Array, new: Array, start: Array) -> Array:
    """Puts new[B, S, kv_heads, head] into buffer[B, kv_heads, slots, head], row b from slot start[b] on.

    Wants start + S <= slots: a write beyond the end would be moved to the left.
    """

    def one(row: Array, piece: Array, slot: Array) -> Array:
        return lax.dynamic_update_slice(row, piece, (0, slot, 0))

    return jax.vmap(one)(buffer, new.swapaxes(1, 2).astype(buffer.dtype), start)


def taken(cache: Cache, rows: Array) -> Cache:
    """These rows, in this order."""
    return jax.tree.map(lambda x: x[rows], cache)


def put(cache: Cache, rows: Array, part: Cache) -> Cache:
    """The cache with some rows replaced; rows i32[n] that do not exist are left out."""
    return jax.tree.map(lambda x, new: x.at[rows].set(new, mode="drop"), cache, part)


def begun(cache: Cache, source: Array, begin: Cache) -> Cache:
    """Starts rows anew with the text of others: row b with row source[b] of `begin`; where that is < 0, it stays."""
    fresh = source >= 0

    def start(own: Array, other: Array) -> Array:
        head = own[:, :, : other.shape[2]]
        return lax.dynamic_update_slice(own, jnp.where(fresh[:, None, None, None], other[source], head), (0, 0, 0, 0))

    def both(own: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(map(start, own, other))

    length = jnp.where(fresh, begin.length[source], cache.length)
    return Cache(both(cache.keys, begin.keys), both(cache.values, begin.values), length)


def either(which: Array, one: Cache, other: Cache) -> Cache:
    """Row b of one cache where which[b], of the other where not."""

    def chosen(a: Array, b: Array) -> Array:
        return jnp.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(chosen, one, other)
