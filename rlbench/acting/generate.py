"""Sampling with a key-value cache: the next reply of every conversation of a batch, as one jitted loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..models.cache import Cache, branch, empty
from ..models.likelihood import log_policy
from ..models.tokenizers import END, PAD
from ..randomness import fold_in
from ..types import Array, Fraction, Model, Natural, Params, Phase


class Sampling(NamedTuple):
    """Truncation of the distribution that is sampled; what is recorded as logp is never truncated."""

    top_k: Natural = 0  # keep only the k likeliest tokens; 0 keeps all
    top_p: Fraction = 1.0  # keep the likeliest tokens that together hold this probability


class Chooser(NamedTuple):
    """How each row of a batch picks its tokens: a function of its key and the token's position alone."""

    key: Array  # key[B]
    greedy: Array  # bool[B]


class Reply(NamedTuple):
    """What a batch of rows said: row b chose length[b] tokens, the last of which ends it or fills the space."""

    tokens: Array  # i32[B, R]
    logp: Array  # f32[B, R]
    length: Array  # i32[B]
    steps: Array  # i32[]  passes of the decoding loop, of at most R - 1


def chooser(key: Array, ids: Array, greedy: Array) -> Chooser:
    """Randomness is a function of the run's key, the rollout's id (in words, u32[B, 2]) and the token's position."""
    return Chooser(jax.vmap(fold_in, (None, 0))(key, ids), greedy)


def first_reply(
    model: Model,
    params: Params,
    prompt: Array,
    length: Array,
    choose: Chooser,
    sampling: Sampling,
    space: int,
    slots: int,
) -> tuple[Reply, Cache]:
    """Prefills prompts i32[P, S], once a problem, and samples the first reply of every row.

    Args:
      length: i32[P] tokens of each prompt, at least 1.
      choose: for B rows; rows p * B / P and following are attempts at prompt p.
      space: the most tokens of a reply.
      slots: what each row's own segment of the cache has to hold, over all turns.
    """
    problems, width = prompt.shape
    copies = len(choose.greedy) // problems
    with jax.named_scope(Phase.PREFILL):
        outputs, cache = model.extend(params, empty(model, problems, width), prompt, length)
    cache = branch(model, cache, copies, slots)
    return decode(model, params, cache, jnp.repeat(outputs, copies, axis=0), choose, jnp.bool_(True), sampling, space)


def next_reply(
    model: Model,
    params: Params,
    cache: Cache,
    said: Array,
    length: Array,
    choose: Chooser,
    sampling: Sampling,
    space: int,
) -> tuple[Reply, Cache]:
    """Continues conversations: reads said i32[B, S], then samples the next reply of rows with length[b] > 0.

    Args:
      said: the last token of the reply before, which is not in the cache yet, and the environment's answer.
    """
    with jax.named_scope(Phase.PREFILL):
        outputs, cache = model.extend(params, cache, said, length)
    return decode(model, params, cache, outputs, choose, length > 0, sampling, space)


def decode(
    model: Model,
    params: Params,
    cache: Cache,
    outputs: Array,
    choose: Chooser,
    speaks: Array,
    sampling: Sampling,
    space: int,
) -> tuple[Reply, Cache]:
    """Samples until every row has ended its reply or filled `space`. A reply's last token stays out of the cache."""

    def pick(outputs: Array, position: Array) -> tuple[Array, Array]:
        logp = log_policy(model, outputs)
        keys = jax.vmap(jax.random.fold_in)(choose.key, position)
        sampled = jax.vmap(jax.random.categorical)(keys, truncate(logp, sampling))
        token = jnp.where(choose.greedy, logp.argmax(axis=-1), sampled).astype(jnp.int32)
        return token, jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]

    def note(reply: Reply, column: Array, token: Array, logp: Array, speaking: Array) -> Reply:
        return Reply(
            reply.tokens.at[:, column].set(jnp.where(speaking, token, PAD)),
            reply.logp.at[:, column].set(jnp.where(speaking, logp, 0.0)),
            reply.length + speaking,
            column,
        )

    def going(carry: tuple[Reply, Cache, Array, Array]) -> Array:
        reply, _, _, speaking = carry
        return (reply.steps < space - 1) & speaking.any()

    def advance(carry: tuple[Reply, Cache, Array, Array]) -> tuple[Reply, Cache, Array, Array]:
        reply, cache, token, speaking = carry
        outputs, cache = model.extend(params, cache, token[:, None], speaking.astype(jnp.int32))
        token, logp = pick(outputs, cache.length)
        reply = note(reply, reply.steps + 1, token, logp, speaking)
        return reply, cache, token, speaking & (token != END)

    rows = len(choose.greedy)
    speaking = jnp.broadcast_to(speaks, rows)
    blank = Reply(
        jnp.full((rows, space), PAD, jnp.int32),
        jnp.zeros((rows, space)),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros((), jnp.int32),
    )
    token, logp = pick(outputs, cache.length)
    reply = note(blank, blank.steps, token, logp, speaking)
    reply, cache, _, _ = jax.lax.while_loop(going, advance, (reply, cache, token, speaking & (token != END)))
    return reply, cache


def truncate(logp: Array, sampling: Sampling) -> Array:
    """Sets to -inf what top-k and then top-p (arXiv:1904.09751) leave out; the likeliest token always stays."""
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
