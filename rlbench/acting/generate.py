"""Sampling with a key-value cache: the next completion of every episode of a batch, as one jitted loop."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import chunks_of, devices_of
from ..models.cache import Cache, Segment, branch, empty
from ..models.likelihood import log_policy
from ..models.tokenizers import END, PAD
from ..randomness import fold_in
from ..types import Array, Fraction, Model, Natural, Params, Phase


class Sampling(NamedTuple):
    """Truncation of the distribution that is sampled; what is recorded as logp is never truncated."""

    top_k: Natural = 0  # keep only the k most probable tokens; 0 keeps all
    top_p: Fraction = 1.0  # keep the most probable tokens that together hold this probability


class Chooser(NamedTuple):
    """Sampling of each row of a batch: a function of its key and the token's position alone."""

    key: Array  # key[B]
    greedy: Array  # bool[B]


class Completion(NamedTuple):
    """Completions of a batch of rows: row b chose length[b] tokens, the last of which ends it or fills the space."""

    tokens: Array  # i32[B, R]
    logp: Array  # f32[B, R]
    length: Array  # i32[B]
    steps: Array  # i32[]  passes of the decoding loop, of at most R - 1


def chooser(key: Array, ids: Array, greedy: Array) -> Chooser:
    """Randomness is a function of the run's key, the rollout's id (in words, u32[B, 2]) and the token's position."""
    return Chooser(jax.vmap(fold_in, (None, 0))(key, ids), greedy)


def first_completion(
    model: Model,
    params: Params,
    prompt: Array,
    length: Array,
    choose: Chooser,
    sampling: Sampling,
    space: int,
    slots: int,
) -> tuple[Completion, Cache]:
    """Prefills prompts i32[P, S], once a problem, and samples the first completion of every row.

    Args:
      length: i32[P] tokens of each prompt, at least 1.
      choose: for B rows; rows p * B / P and following are attempts at prompt p.
      space: the most tokens of a completion.
      slots: what each row's own segment of the cache has to hold, over all turns.
    """
    copies = len(choose.greedy) // len(prompt)
    with jax.named_scope(Phase.PREFILL):
        outputs, cache = prefill(model, params, None, prompt, length)
    cache = branch(model, cache, copies, slots)
    return decode(model, params, cache, jnp.repeat(outputs, copies, axis=0), choose, jnp.bool_(True), sampling, space)


def next_completion(
    model: Model,
    params: Params,
    cache: Cache,
    said: Array,
    length: Array,
    choose: Chooser,
    sampling: Sampling,
    space: int,
) -> tuple[Completion, Cache]:
    """Continues episodes: reads said i32[B, S], then samples the next completion of rows with length[b] > 0.

    Args:
      said: the last token of the completion before, which is not in the cache yet, and the environment's answer.
    """
    with jax.named_scope(Phase.PREFILL):
        outputs, cache = prefill(model, params, cache, said, length)
    return decode(model, params, cache, outputs, choose, length > 0, sampling, space)


def prefill(model: Model, params: Params, cache: Cache | None, tokens: Array, length: Array) -> tuple[Array, Cache]:
    """Reads length[b] of tokens[b, S] into row b, in chunks of at most model.chunk_tokens a device.

    A chunk has all rows of some problems. Where those of one problem a device are too many tokens, it has some of
    their tokens: what attention holds at once then grows with S, not with its square.

    Args:
      cache: None is an empty one, with room for the tokens.

    Returns outputs f32[B, outputs] at each row's last token, and the longer cache.
    """
    rows, width = tokens.shape
    problems = len(cache.segments[0].valid) if cache else rows
    shards, count = chunks_of(problems, tokens.size, model.chunk_tokens)
    if count == 1:
        return extend_in_chunks(model, params, cache or empty(model, rows, width), tokens, length)

    def cut(x: Array) -> Array:
        """[n, ...] as [count, n / count, ...]: rows stay on the device they are on."""
        return x.reshape(shards, count, -1, *x.shape[1:]).swapaxes(0, 1).reshape(count, -1, *x.shape[1:])

    def joined(x: Array) -> Array:
        x = x.reshape(count, shards, -1, *x.shape[2:]).swapaxes(0, 1)
        return x.reshape(-1, *x.shape[3:])

    def forward(chunk: tuple[Any, Array, Array]) -> tuple[Array, Segment, Array, Array]:
        own, tokens, length = chunk
        before = Cache(own[0], cache.cursor, own[1]) if cache else empty(model, *tokens.shape)
        outputs, after = extend_in_chunks(model, params, before, tokens, length)
        return outputs, after.segments[-1], after.cursor, after.length

    own = jax.tree.map(cut, (cache.segments, cache.length)) if cache else None
    outputs, last, cursor, lengths = jax.lax.map(forward, (own, cut(tokens), cut(length)))
    outputs, last, lengths = jax.tree.map(joined, (outputs, last, lengths))
    return outputs, Cache((*cache.segments[:-1], last) if cache else (last,), cursor[0], lengths)


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


def decode(
    model: Model,
    params: Params,
    cache: Cache,
    outputs: Array,
    choose: Chooser,
    speaks: Array,
    sampling: Sampling,
    space: int,
) -> tuple[Completion, Cache]:
    """Samples until every row has ended or filled `space`. A completion's last token stays out of the cache."""

    def pick(outputs: Array, position: Array) -> tuple[Array, Array]:
        logp = log_policy(model, outputs)
        keys = jax.vmap(jax.random.fold_in)(choose.key, position)
        sampled = jax.vmap(jax.random.categorical)(keys, truncate(logp, sampling))
        token = jnp.where(choose.greedy, logp.argmax(axis=-1), sampled).astype(jnp.int32)
        return token, jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]

    def note(completion: Completion, column: Array, token: Array, logp: Array, speaking: Array) -> Completion:
        return Completion(
            completion.tokens.at[:, column].set(jnp.where(speaking, token, PAD)),
            completion.logp.at[:, column].set(jnp.where(speaking, logp, 0.0)),
            completion.length + speaking,
            column,
        )

    def going(carry: tuple[Completion, Cache, Array, Array]) -> Array:
        completion, _, _, speaking = carry
        return (completion.steps < space - 1) & speaking.any()

    def advance(carry: tuple[Completion, Cache, Array, Array]) -> tuple[Completion, Cache, Array, Array]:
        completion, cache, token, speaking = carry
        outputs, cache = model.extend(params, cache, token[:, None], speaking.astype(jnp.int32))
        token, logp = pick(outputs, cache.length)
        completion = note(completion, completion.steps + 1, token, logp, speaking)
        return completion, cache, token, speaking & (token != END)

    rows = len(choose.greedy)
    speaking = jnp.broadcast_to(speaks, rows)
    blank = Completion(
        jnp.full((rows, space), PAD, jnp.int32),
        jnp.zeros((rows, space)),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros((), jnp.int32),
    )
    token, logp = pick(outputs, cache.length)
    completion = note(blank, blank.steps, token, logp, speaking)
    completion, cache, _, _ = jax.lax.while_loop(going, advance, (completion, cache, token, speaking & (token != END)))
    return completion, cache


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
