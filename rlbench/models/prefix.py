"""Prompts that neighbouring rows share: the network reads them once for all of a group, in training as in sampling.

No algorithm knows of it. The learner says what it knows of the rows that it hands to an algorithm, and whoever reads
these very rows finds it here; rows that an algorithm made itself are read one by one.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..devices import in_chunks
from ..types import Array, Model, Params, Rollouts


class Widths(NamedTuple):
    """Room for the two parts of a row."""

    prompt: int  # the most tokens of a prompt
    continuation: int  # the most tokens of all that follows

    def within(self, row: int) -> "Widths":
        """In rows of so many tokens, of which one at least is the prompt's."""
        return Widths(min(self.prompt, row - 1), min(self.continuation, row - 1))

    def tokens(self, group: int) -> int:
        """Positions of a group that go through a network, padding too. The last of a row goes through none."""
        return self.prompt + group * (self.continuation - 1)


class Prefixes(NamedTuple):
    """Groups of rows, neighbours, each of which begins with the same prompt; and the two parts of the rows."""

    length: Array  # i32[N]  of the prompts
    group: int  # rows of each: B = N * group
    prompt: Array  # i32[N, P]
    continuation: Array  # i32[B, R]  all that follows it
    chosen: Array  # bool[B, R]  the mask there

    @property
    def widths(self) -> Widths:
        return Widths(self.prompt.shape[1], self.continuation.shape[1])

    def rows(self, values: Array, width: int) -> Array:
        """Values [B, R] of the continuations, where these stand in rows [B, width]; elsewhere some others."""
        place = jnp.arange(width) - jnp.repeat(self.length, self.group)[:, None]
        return jnp.take_along_axis(values, jnp.clip(place, 0, values.shape[1] - 1), axis=1)


class Known(NamedTuple):
    rollouts: Rollouts
    length: Array
    widths: Widths


_known: ContextVar[Known | None] = ContextVar("known", default=None)


@contextlib.contextmanager
def sharing(rollouts: Rollouts, length: Array | None, widths: Widths | None) -> Iterator[None]:
    """A block in which these rows, while they are traced, are known to share prompts.

    Args:
      length: i32[N], tokens of the prompt that each B / N neighbouring rows begin with; None: nothing is known.
    """
    token = _known.set(None if length is None or widths is None else Known(rollouts, length, widths))
    try:
        yield
    finally:
        _known.reset(token)


def prefixes_of(rollouts: Rollouts) -> Prefixes | None:
    """All that is known of these very rows, with this very mask."""
    known = _known.get()
    if known is None or known.rollouts.tokens is not rollouts.tokens or known.rollouts.mask is not rollouts.mask:
        return None
    tokens, mask = rollouts.tokens, rollouts.mask
    rows, width = tokens.shape
    group, widths = rows // len(known.length), known.widths.within(width)
    place = jnp.repeat(known.length, group)[:, None] + jnp.arange(widths.continuation)
    inside = jnp.minimum(place, width - 1)
    continuation = jnp.take_along_axis(tokens, inside, axis=1)
    chosen = jnp.take_along_axis(mask, inside, axis=1) & (place < width)
    return Prefixes(known.length, group, tokens[::group, : widths.prompt], continuation, chosen)


def read_after(model: Model, params: Params, prefixes: Prefixes, read: Callable[[Array, Array, Array], Array]) -> Array:
    """f32[B, R]: what `read` makes of continuations, whose prompts go through the network once a group."""
    assert model.branch
    branch, groups, length = model.branch, len(prefixes.length), prefixes.widths.continuation

    def forward(parts: tuple[Array, Array, Array, Array]) -> Array:
        prompt, end, tokens, mask = parts
        first, others = branch(params, prompt, end, tokens[..., :-1])
        first = jnp.broadcast_to(first[:, None, None], (*tokens.shape[:2], 1, first.shape[-1]))
        both = read(first, tokens[..., :1], mask[..., :1]), read(others, tokens[..., 1:], mask[..., 1:])
        return jnp.concatenate(both, axis=-1)

    by_group = (x.reshape(groups, -1, length) for x in (prefixes.continuation, prefixes.chosen))
    width = prefixes.widths.tokens(prefixes.group)
    parts = in_chunks((prefixes.prompt, prefixes.length, *by_group), groups, width, model.chunk_tokens)
    if len(parts[0]) == 1:
        return forward(jax.tree.map(lambda x: x[0], parts)).reshape(-1, length)
    return jax.lax.map(forward, parts).swapaxes(0, 1).reshape(-1, length)
