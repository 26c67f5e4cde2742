"""Lock-step sampling, as a reference: all rows of a batch sample side by side; nothing is judged until all are done.

It shares the network, its cache and what keeps episodes with continuous batching, and nothing of how they are sampled.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlbench.acting.collector import Batch, batch_of
from rlbench.acting.episode import Episodes, ragged
from rlbench.acting.player import Player
from rlbench.models.cache import Cache
from rlbench.models.likelihood import log_policy
from rlbench.models.tokenizers import END, PAD
from rlbench.randomness import fold_in, words
from rlbench.types import Array, Model, Params, Problem


class LockStep:
    """Plays a task as a `Player` does, given one."""

    def __init__(self, player: Player):
        self.player = player
        self.read = jax.jit(player.model.extend, donate_argnums=1)
        self.begin = jax.jit(partial(begin, player.model), static_argnums=(3, 4))
        self.sample = jax.jit(partial(sample, player.model), static_argnums=6, donate_argnums=1)

    def play(
        self,
        params: Params,
        problems: list[tuple[int, Problem]],
        group_size: int,
        *,
        first_id: int,
        version: int,
        limit: np.ndarray | None = None,
    ) -> Batch:
        """Arguments and result as of `Player.play`."""
        task, tokenizer, limits = self.player.task, self.player.tokenizer, self.player.limits
        prompts = ragged([tokenizer.encode(problem.prompt) for _, problem in problems], limits.prompt)
        episodes = Episodes(len(problems), group_size, limits)
        going = everyone = episodes.open(np.arange(len(problems)), problems, prompts, first_id)
        episodes.begin(everyone, version)
        rows, ids = len(everyone), words(episodes.ids)
        limit = np.full(rows, limits.completion, np.int32) if limit is None else limit
        outputs, cache = self.begin(params, *prompts, group_size, limits.slots)
        while len(going):
            room = np.zeros(rows, np.int32)
            room[going] = np.minimum(limit[going], episodes.room(going))
            cache, *said = self.sample(params, cache, outputs, self.player.key, ids, room, limits.completion)
            tokens, logp, count = map(np.asarray, said)
            there = np.arange(tokens.shape[1]) < count[:, None]
            episodes.sampled(going, tokens[going], logp[going], there[going], version)
            texts = episodes.complete(going, tokenizer)
            states = [episodes.states[row] for row in going]
            steps, _ = self.player.verifier.judge(task, list(zip(states, texts, strict=True)))
            reads: list[list[int]] = [[] for _ in range(rows)]
            for row, text in episodes.observe(going, steps, tokenizer):
                reads[row] = text
            going = np.flatnonzero([bool(text) for text in reads])
            if len(going):
                outputs, cache = self.read(params, cache, *ragged(reads, 1 + limits.observation))
        return batch_of(episodes, everyone)


def begin(model: Model, params: Params, prompts: Array, length: Array, copies: int, slots: int) -> Any:
    """Reads every prompt once, and copies it into all rows that start with it."""
    outputs, cache = model.extend(params, model.cache(*prompts.shape), prompts, length)

    def copied(x: Array) -> Array:
        room = jnp.pad(x, [(0, 0)] * 2 + [(0, slots - x.shape[2]), (0, 0)]) if x.ndim == 4 else x
        return jnp.repeat(room, copies, axis=0)

    return jnp.repeat(outputs, copies, axis=0), jax.tree.map(copied, cache)


def sample(
    model: Model,
    params: Params,
    cache: Cache,
    outputs: Array,
    key: Array,
    ids: Array,
    limit: Array,
    space: int,
) -> Any:
    """Samples a completion in every row of limit[b] > 0: the cache, tokens and logp [B, space], and their number."""

    def pick(outputs: Array, position: Array) -> tuple[Array, Array]:
        logp = log_policy(model, outputs)
        keys = jax.vmap(lambda one, at: jax.random.fold_in(fold_in(key, one), at))(ids, position)
        below = jnp.cumsum(jnp.exp(logp), axis=-1)  # the inverse of the cumulative distribution
        number = jax.vmap(jax.random.uniform)(keys) * below[:, -1]
        token = (below <= number[:, None]).sum(axis=-1).astype(jnp.int32)
        return token, jnp.take_along_axis(logp, token[:, None], axis=-1)[:, 0]

    def going(carry: Any) -> Array:
        return carry[-1].any()

    def advance(carry: Any) -> Any:
        cache, token, tokens, logp, count, passes, speaking = carry
        outputs, cache = model.extend(params, cache, token[:, None], speaking.astype(jnp.int32))
        return noted(cache, *pick(outputs, cache.length), tokens, logp, count, passes + 1, speaking)

    def noted(
        cache: Cache, token: Array, own: Array, tokens: Array, logp: Array, count: Array, passes: Any, speaking: Array
    ) -> Any:
        tokens = tokens.at[:, passes].set(jnp.where(speaking, token, PAD))
        logp, count = logp.at[:, passes].set(jnp.where(speaking, own, 0.0)), count + speaking
        return cache, token, tokens, logp, count, passes, speaking & (token != END) & (count < limit)

    rows = len(ids)
    blank = jnp.full((rows, space), PAD, jnp.int32), jnp.zeros((rows, space)), jnp.zeros(rows, jnp.int32)
    carry = noted(cache, *pick(outputs, cache.length), *blank, jnp.int32(0), limit > 0)
    cache, _, tokens, logp, count, _, _ = jax.lax.while_loop(going, advance, carry)
    return cache, tokens, logp, count
