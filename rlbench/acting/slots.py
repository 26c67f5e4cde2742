"""Rows on the device that sample completions, each on its own: started, continued and read in pieces of a few tokens.

Nothing here knows of text or tasks. A row samples one completion at a time; when that is over, it is idle until it
either reads what the environment answers or is given to another rollout. An idle row takes its place in every pass
and changes nothing.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..devices import chunks_of, devices_of, in_rows
from ..models.cache import Cache, begun, either, put, taken
from ..models.likelihood import log_policy
from ..models.tokenizers import END, PAD
from ..randomness import fold_in
from ..types import AnyArray, Array, Fraction, Model, Natural, Params, Phase


class Sampling(NamedTuple):
    """Truncation of the distribution that is sampled; what is recorded as logp is never truncated."""

    top_k: Natural = 0  # keep only the k most probable tokens; 0 keeps all
    top_p: Fraction = 1.0  # keep the most probable tokens that together hold this probability


class Slots(NamedTuple):
    """State of B rows."""

    cache: Cache
    ids: Array  # u32[B, 2]  rollout ids, in words: with the run's key and a position, all that randomness depends on
    greedy: Array  # bool[B]
    token: Array  # i32[B]  sampled last, and not in the cache yet
    logp: Array  # f32[B]
    first: Array  # bool[B]  the token is the first of its completion and was not read yet
    left: Array  # i32[B]  tokens that the completion may still have; 0: the row is idle


class Prompts(NamedTuple):
    """P prompts that were read, once each, for all the rows that start with one."""

    cache: Cache
    outputs: Array  # f32[P, V]  at each prompt's last token


class Admission(NamedTuple):
    """Rows that are given to other rollouts."""

    source: AnyArray  # i32[B]  the prompt that a row starts with; < 0: it stays as it is, whatever the others say
    ids: AnyArray  # u32[B, 2]
    greedy: AnyArray  # bool[B]
    limit: AnyArray  # i32[B]  the most tokens of a completion


class Observation(NamedTuple):
    """Answers of the environment to n rows."""

    rows: AnyArray  # i32[n], all different; one that does not exist pads
    tokens: AnyArray  # i32[n, S]  the last token of the completion, which the cache has not, and the answer
    length: AnyArray  # i32[n]  of these tokens; 0 where it pads
    limit: AnyArray  # i32[n]  the most tokens of the next completion


class Chunk(NamedTuple):
    """Tokens that B rows sampled in at most k steps. Column 0 has first tokens of completions alone."""

    tokens: Array  # i32[B, k + 1]
    logp: Array  # f32[B, k + 1]
    sampled: Array  # bool[B, k + 1]  where there is a token; a row's are neighbours
    open: Array  # bool[B]  the completion goes on
    steps: Array  # i32[]  passes through the network, of at most k


def idle(model: Model, rows: int, slots: int) -> Slots:
    """Rows without any text, with room for `slots` tokens each."""
    numbers, floats, flags = jnp.zeros(rows, jnp.int32), jnp.zeros(rows), jnp.zeros(rows, bool)
    ids = jnp.zeros((rows, 2), jnp.uint32)
    return Slots(model.cache(rows, slots), ids, flags, numbers, floats, flags, numbers)


def read_prompts(model: Model, params: Params, tokens: Array, length: Array) -> Prompts:
    """Reads prompts i32[P, S] of length[p] tokens, at least 1."""
    with jax.named_scope(Phase.PREFILL):
        outputs, cache = prefill(model, params, model.cache(*tokens.shape), tokens, length)
    return in_rows(Prompts(cache, outputs))


def admit(model: Model, slots: Slots, prompts: Prompts, key: Array, admission: Admission, sampling: Sampling) -> Slots:
    """Gives rows to other rollouts, and samples their first tokens."""
    source, ids, greedy, limit = admission
    fresh = source >= 0
    cache = begun(slots.cache, source, prompts.cache)
    ids = jnp.where(fresh[:, None], ids, slots.ids)
    greedy = jnp.where(fresh, greedy, slots.greedy)
    token, logp = pick(model, prompts.outputs[source], key, ids, cache.length, greedy, sampling)
    return began(slots._replace(cache=cache, ids=ids, greedy=greedy), fresh, token, logp, limit)


def answer(
    model: Model, params: Params, slots: Slots, key: Array, observation: Observation, sampling: Sampling
) -> Slots:
    """Has some rows read the environment's answers, and samples the first tokens of their next completions."""
    rows, tokens, length, limit = observation
    with jax.named_scope(Phase.PREFILL):
        outputs, part = prefill(model, params, taken(slots.cache, rows), tokens, length)
    token, logp = pick(model, outputs, key, slots.ids[rows], part.length, slots.greedy[rows], sampling)

    def spread(values: Array) -> Array:
        return jnp.zeros(len(slots.left), values.dtype).at[rows].set(values, mode="drop")

    fresh = spread(length > 0)
    slots = slots._replace(cache=put(slots.cache, rows, part))
    return began(slots, fresh, *map(spread, (token, logp, limit)))


def reread(model: Model, params: Params, slots: Slots, tokens: Array, length: Array) -> Slots:
    """Has rows read their text i32[B, S] again, with other weights than before; those of length[b] 0 stay."""
    with jax.named_scope(Phase.PREFILL):
        empty = model.cache(len(tokens), slots.cache.keys[0].shape[2])
        _, cache = prefill(model, params, empty, tokens, length)
    return in_rows(slots._replace(cache=either(length > 0, cache, slots.cache)))


def began(slots: Slots, fresh: Array, token: Array, logp: Array, limit: Array) -> Slots:
    """Notes the first token of the completions that begin."""
    left = jnp.where(token == END, 0, limit - 1)
    slots = slots._replace(
        token=jnp.where(fresh, token, slots.token),
        logp=jnp.where(fresh, logp, slots.logp),
        first=slots.first | fresh,
        left=jnp.where(fresh, left, slots.left),
    )
    return in_rows(slots)


def decode(
    model: Model, params: Params, slots: Slots, key: Array, sampling: Sampling, steps: int
) -> tuple[Slots, Chunk]:
    """Samples at most `steps` tokens in every row that is not idle, first tokens that were not read aside.

    A completion ends with END, or without it where it has no tokens left. Its last token stays out of the cache.
    """
    rows = len(slots.left)

    def going(carry: tuple[Slots, Chunk]) -> Array:
        slots, chunk = carry
        return (chunk.steps < steps) & (slots.left > 0).any()

    def advance(carry: tuple[Slots, Chunk]) -> tuple[Slots, Chunk]:
        slots, chunk = carry
        samples = slots.left > 0
        outputs, cache = model.extend(params, slots.cache, slots.token[:, None], samples.astype(jnp.int32))
        token, logp = pick(model, outputs, key, slots.ids, cache.length, slots.greedy, sampling)
        left = jnp.where(samples & (token != END), slots.left - 1, 0)
        slots = slots._replace(cache=cache, token=jnp.where(samples, token, slots.token), left=left)
        return slots, noted(chunk, chunk.steps + 1, token, logp, samples)

    nothing = jnp.zeros((rows, steps + 1))
    blank = Chunk(nothing.astype(jnp.int32), nothing, nothing.astype(bool), slots.left > 0, jnp.int32(0))
    begin = noted(blank, jnp.int32(0), slots.token, slots.logp, slots.first)
    slots = slots._replace(first=jnp.zeros(rows, bool))
    slots, chunk = jax.lax.while_loop(going, advance, (slots, begin))
    return in_rows(slots), chunk._replace(open=slots.left > 0)


def noted(chunk: Chunk, column: Array, token: Array, logp: Array, samples: Array) -> Chunk:
    """The chunk with a column more."""
    return chunk._replace(
        tokens=chunk.tokens.at[:, column].set(jnp.where(samples, token, PAD)),
        logp=chunk.logp.at[:, column].set(jnp.where(samples, logp, 0.0)),
        sampled=chunk.sampled.at[:, column].set(samples),
        steps=column,
    )


def pick(
    model: Model, outputs: Array, key: Array, ids: Array, position: Array, greedy: Array, sampling: Sampling
) -> tuple[Array, Array]:
    """Samples a token for every row, and its log-probability, from outputs f32[B, V] at the token before."""
    logp = log_policy(model, outputs)
    keys = jax.vmap(lambda one, at: jax.random.fold_in(fold_in(key, one), at))(ids, position)
    sampled = drawn(truncate(logp, sampling), jax.vmap(jax.random.uniform)(keys))
    most_probable = jax.lax.cond(greedy.any(), lambda: logp.argmax(axis=-1), lambda: sampled)
    token = jnp.where(greedy, most_probable, sampled).astype(jnp.int32)
    return token, jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]


def drawn(logp: Array, number: Array) -> Array:
    """Tokens i32[B] of distributions logp f32[B, V], which need not add up to 1, by uniform numbers f32[B] in [0, 1).

    By the inverse of the cumulative distribution: one random number a token. The Gumbel-max trick takes V of them,
    and their logarithms, which costs more than a small network does. First a block of about sqrt(V) tokens is found,
    then the token in it.
    """
    rows, size = logp.shape
    width = math.isqrt(size - 1) + 1
    blocks = -(-size // width)
    weights = jnp.pad(jnp.exp(logp), ((0, 0), (0, blocks * width - size))).reshape(rows, blocks, width)
    below = jnp.cumsum(weights.sum(axis=-1), axis=-1)
    # Numbers have 23 bits, so that they stay below the last sum, and so does what is rounded down to that many: what
    # has probability 0 is never drawn.
    number *= below[:, -1]
    block = (below <= number[:, None]).sum(axis=-1)
    before = jnp.where(block > 0, below[jnp.arange(rows), jnp.maximum(block - 1, 0)], 0.0)
    within = jnp.cumsum(weights[jnp.arange(rows), block], axis=-1)
    number = jnp.minimum(number - before, within[:, -1] * (1 - 2**-23))
    return block * width + (within <= number[:, None]).sum(axis=-1)


def truncate(logp: Array, sampling: Sampling) -> Array:
    """Sets to -inf what top-k and then top-p (arXiv:1904.09751) leave out; the most probable token always stays."""
    top_k, top_p = sampling
    if top_k:
        smallest = jax.lax.top_k(logp, min(top_k, logp.shape[-1]))[0][..., -1:]
        logp = jnp.where(logp >= smallest, logp, -jnp.inf)
    if top_p < 1:
        order = jnp.sort(jax.nn.softmax(logp), axis=-1, descending=True)
        before = jnp.cumsum(order, axis=-1) - order
        kept = jnp.where(before < top_p, order, jnp.inf).min(axis=-1, keepdims=True)
        logp = jnp.where(jax.nn.softmax(logp) >= jnp.minimum(kept, order[..., :1]), logp, -jnp.inf)
    return logp


def prefill(model: Model, params: Params, cache: Cache, tokens: Array, length: Array) -> tuple[Array, Cache]:
    """Reads length[b] of tokens[b, S] into row b, in chunks of at most model.chunk_tokens a device.

    A chunk has some of the rows. Where one row a device is too many tokens, it has some of their tokens: what
    attention holds at once then grows with S, not with its square.

    Returns outputs f32[B, outputs] at each row's last token, and the longer cache.
    """
    rows = len(tokens)
    shards, count = chunks_of(rows, tokens.size, model.chunk_tokens)
    if count == 1:
        return extend_in_chunks(model, params, cache, tokens, length)

    def cut(x: Array) -> Array:
        """[B, ...] as [count, B / count, ...]: rows stay on the device they are on."""
        return x.reshape(shards, count, -1, *x.shape[1:]).swapaxes(0, 1).reshape(count, -1, *x.shape[1:])

    def joined(x: Array) -> Array:
        return x.reshape(count, shards, -1, *x.shape[2:]).swapaxes(0, 1).reshape(rows, *x.shape[2:])

    def forward(chunk: tuple[Cache, Array, Array]) -> tuple[Array, Cache]:
        return extend_in_chunks(model, params, *chunk)

    return jax.tree.map(joined, jax.lax.map(forward, jax.tree.map(cut, (cache, tokens, length))))


def extend_in_chunks(model: Model, params: Params, cache: Cache, tokens: Array, length: Array) -> tuple[Array, Cache]:
    """Reads tokens[B, S] from left to right, so many columns at once that model.chunk_tokens a device holds them."""
    rows, width = tokens.shape
    columns = max(model.chunk_tokens // (rows // devices_of(rows)), 1)
    if columns >= width:
        return model.extend(params, cache, tokens, length)

    def extend(carry: tuple[Array, Cache], piece: Array, start: Array | int) -> tuple[Array, Cache]:
        outputs, cache = carry
        had = jnp.clip(length - start, 0, piece.shape[1])
        new, cache = model.extend(params, cache, piece, had)
        return jnp.where(had[:, None] > 0, new, outputs), cache

    def step(carry: tuple[Array, Cache], start: Array) -> tuple[tuple[Array, Cache], None]:
        return extend(carry, jax.lax.dynamic_slice_in_dim(tokens, start, columns, axis=1), start), None

    whole = width - width % columns
    carry = jnp.zeros((rows, len(model.emits))), cache
    carry, _ = jax.lax.scan(step, carry, jnp.arange(0, whole, columns))
    return extend(carry, tokens[:, whole:], whole) if whole < width else carry
