"""Plays a task with a model by continuous batching: a finished row is judged at once and makes room for the next.

A row that waits for its environment holds up nobody. What a rollout says depends on its id and its problem alone,
not on the row that it gets, its neighbours, or when it gets there.
"""

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ..accounting.account import Account
from ..accounting.memory import tree_bytes
from ..accounting.timeline import Activity
from ..devices import CompiledFunction, Devices
from ..interrupts import Stopped, patiently
from ..models.tokenizers import PAD
from ..randomness import words
from ..types import Array, Count, Model, Params, Phase, Problem, Step, Task, Tokenizer
from ..verifying.environment import Environment
from ..verifying.verifier import Verifier
from .collector import Batch
from .episode import Episodes, SequenceLimits, ragged
from .slots import Admission, Chunk, Observation, Prompts, Sampling, Slots, admit, answer, decode, idle, read_prompts

READERS = 4  # a quarter of the rows can read an answer at once


class Acting(NamedTuple):
    """Settings of continuous batching."""

    slots: Count | None  # rows that sample at once; None: as many as rollouts are asked for
    chunk: Count  # most tokens that each samples until the host looks
    environment_workers: Count


class Rows(NamedTuple):
    """Shapes of a play: what its programs are compiled for."""

    slots: int
    prompts: int  # that are read at once
    readers: int  # rows that read an answer at once


class Player:
    """Samples a policy's completions to a task's problems.

    Args:
      verifier: judges the completions.
      key: with a rollout's id and a token's position, all that its randomness depends on.
      account: told of what the programs and the task cost.
      delay: seconds that the task takes longer for every completion.
      stop: set when nobody wants what is being played any more; then `play` ends with Stopped.
    """

    def __init__(
        self,
        model: Model,
        task: Task,
        tokenizer: Tokenizer,
        limits: SequenceLimits,
        sampling: Sampling,
        devices: Devices,
        key: Array,
        verifier: Verifier,
        acting: Acting,
        account: Account | None = None,
        delay: float = 0.0,
        stop: threading.Event | None = None,
    ):
        self.account = account or Account()
        self.stop = stop or threading.Event()
        self.model, self.task, self.tokenizer, self.limits, self.devices = model, task, tokenizer, limits, devices
        self.verifier, self.acting, self.delay = verifier, acting, delay
        self.network = "policy"  # the name that costs of what samples are reported under
        self.key = devices.replicate(key)
        self.kept: dict[int, Slots] = {}  # idle rows of earlier plays: to fill a cache with zeros takes time
        steps = min(acting.chunk, max(limits.completion - 1, 1))

        def read(networks: Params, tokens: Array, length: Array) -> Prompts:
            (policy,) = networks.values()
            return read_prompts(model, policy, tokens, length)

        def start(slots: Slots, prompts: Prompts, key: Array, admission: Admission) -> Slots:
            return admit(model, slots, prompts, key, admission, sampling)

        def answers(networks: Params, slots: Slots, key: Array, observation: Observation) -> Slots:
            (policy,) = networks.values()
            return answer(model, policy, slots, key, observation, sampling)

        def sample(networks: Params, slots: Slots, key: Array) -> tuple[Slots, Chunk]:
            (policy,) = networks.values()
            return decode(model, policy, slots, key, sampling, steps)

        self.idle = jax.jit(partial(idle, model, slots=limits.episode), static_argnums=0, out_shardings=devices.rows)
        settings: dict[str, Any] = {"phase": Phase.DECODE, "account": self.account}
        self.read = CompiledFunction(devices, read, networks=(0,), **settings)
        self.start = CompiledFunction(devices, start, (0,), **settings)
        self.answers = CompiledFunction(devices, answers, (1,), networks=(0,), **settings)
        self.sample = CompiledFunction(
            devices, sample, (1,), networks=(0,), iterations=lambda result: result[1].steps, **settings
        )

    def rows(self, rollouts: int, group_size: int) -> Rows:
        """Shapes of a play of so many rollouts, each a multiple of the number of devices."""
        devices = len(self.devices.devices)
        slots = rounded_up(min(self.acting.slots or rollouts, rollouts), devices)
        return Rows(slots, rounded_up(-(-slots // group_size), devices), rounded_up(-(-slots // READERS), devices))

    def cache_bytes(self, rollouts: int, group_size: int) -> int:
        """Bytes of the key-value caches of a play, on all devices together."""
        rows, limits = self.rows(rollouts, group_size), self.limits
        shapes = [(rows.slots, limits.episode), (rows.prompts, limits.prompt)]
        return sum(tree_bytes(jax.eval_shape(lambda shape=shape: self.model.cache(*shape))) for shape in shapes)

    def play(
        self,
        params: Params,
        problems: Sequence[tuple[int, Problem]],
        group_size: int,
        *,
        first_id: int,
        version: int,
        greedy: Sequence[bool] = (),
        limit: np.ndarray | None = None,
    ) -> Batch:
        """Plays every (seed, problem) group_size times. Rollout ids count up from first_id.

        Args:
          greedy: for each attempt of a group, whether it takes the most probable token; by default none does.
          limit: for each rollout, the most tokens of a completion; by default what there is room for.
        """
        prompts = ragged([self.tokenizer.encode(problem.prompt) for _, problem in problems], self.limits.prompt)
        episodes = Episodes(problems, prompts, group_size, self.limits)
        with self.verifier.environment(self.task, self.delay, self.stop) as environment:
            play = Play(self, params, episodes, prompts, environment, words(first_id, len(episodes.length)))
            if greedy:
                play.greedy = np.tile(np.array(greedy), len(problems))
            if limit is not None:
                play.limit = limit
            play.to_the_end()
        self.kept[play.rows.slots] = play.slots
        self.account.judged(environment.spent())
        for one in episodes.passes(play.read, play.decoded):
            self.account.passed(one)
        return Batch(episodes.rollouts(version), episodes.trajectories(), np.arange(len(episodes.length)))


class Play:
    """One play: which rollout has which row, and what each row does next."""

    def __init__(
        self,
        player: Player,
        params: Params,
        episodes: Episodes,
        prompts: tuple[np.ndarray, np.ndarray],
        environment: Environment,
        ids: np.ndarray,
    ):
        self.player, self.networks = player, {player.network: params}
        self.episodes, self.environment = episodes, environment
        self.count, self.group_size = len(episodes.length), episodes.group_size
        self.rows = player.rows(self.count, self.group_size)
        self.prompts, self.ids = prompts, ids
        self.greedy = np.zeros(self.count, bool)
        self.limit = np.full(self.count, player.limits.completion, np.int32)
        self.at = np.full(self.rows.slots, -1)  # the rollout that each row has
        self.samples = np.zeros(self.rows.slots, bool)  # rows whose completion goes on
        self.begun = 0  # rollouts that have or had a row
        self.first_prompt = self.after_prompts = 0  # of the prompts that were read last
        self.unread: list[tuple[int, list[int]]] = []  # rows, and what they read next
        self.read = self.decoded = 0  # token positions computed
        self.shared: Prompts
        rows = self.rows.slots
        self.slots: Slots = player.kept.pop(rows) if rows in player.kept else player.idle(rows)
        if player.limits.turns > 1:  # now, though nobody has answered yet
            player.answers.prepare(self.networks, self.slots, player.key, self._observation([]))

    def to_the_end(self) -> None:
        """Plays all of it."""
        while True:
            if self.player.stop.is_set():
                raise Stopped
            self._admit()
            self._answer()
            if self.samples.any():
                self._sample()
            elif not self.environment.waiting:
                return
            self._observe(wait=not self.samples.any())

    def _admit(self) -> None:
        """Gives free rows to the next rollouts, in the order of their ids."""
        player, slots, group = self.player, self.rows.slots, self.group_size
        while self.begun < self.count and len(free := np.flatnonzero(self.at < 0)):
            if self.begun // group >= self.after_prompts:
                self._read_prompts()
            mine = np.arange(self.begun, min(self.begun + len(free), self.count, self.after_prompts * group))
            rows = free[: len(mine)]
            self.at[rows], self.samples[rows] = mine, True
            self.begun += len(mine)
            source = np.full(slots, -1, np.int32)
            source[rows] = mine // group - self.first_prompt
            which = np.maximum(self.at, 0)
            admission = Admission(source, self.ids[which], self.greedy[which], self.limit[which])
            with player.account.during(Activity.COMPUTING):
                admission = player.devices.shard(admission)
                self.slots = player.start(self.slots, self.shared, player.key, admission)

    def _read_prompts(self) -> None:
        """Has the next prompts read, as many as go at once."""
        tokens, length = self.prompts
        self.first_prompt = self.begun // self.group_size
        self.after_prompts = min(self.first_prompt + self.rows.prompts, len(length))
        mine = slice(self.first_prompt, self.after_prompts)
        missing = self.rows.prompts - len(length[mine])
        tokens = np.pad(tokens[mine], ((0, missing), (0, 0)), constant_values=PAD)
        length = np.pad(length[mine], (0, missing), constant_values=1)
        self.read += tokens.size
        with self.player.account.during(Activity.COMPUTING):
            self.shared = self.player.read(self.networks, *self.player.devices.shard((tokens, length)))

    def _answer(self) -> None:
        """Has rows read what their environment answered."""
        player, size = self.player, self.rows.readers
        while self.unread:
            now, self.unread = self.unread[:size], self.unread[size:]
            self.samples[[row for row, _ in now]] = True
            observation = self._observation(now)
            self.read += observation.tokens.size
            with player.account.during(Activity.COMPUTING):
                self.slots = player.answers(self.networks, self.slots, player.key, observation)

    def _observation(self, answers: Sequence[tuple[int, list[int]]]) -> Observation:
        """Answers to rows, as many at most as are read at once."""
        limits, size = self.player.limits, self.rows.readers
        rows = np.array([row for row, _ in answers], np.int32)
        tokens, length = ragged([text for _, text in answers], 1 + limits.observation)
        missing = size - len(rows)
        observation = Observation(
            np.pad(rows, (0, missing), constant_values=self.rows.slots),  # rows that do not exist
            np.pad(tokens, ((0, missing), (0, 0))),
            np.pad(length, (0, missing)),
            np.pad(self.limit[self.at[rows]], (0, missing)),
        )
        return self.player.devices.shard(observation)

    def _sample(self) -> None:
        """Samples some tokens in every row that has more to say, and has what was ended judged."""
        player, episodes = self.player, self.episodes
        with player.account.during(Activity.COMPUTING):
            self.slots, chunk = player.sample(self.networks, self.slots, player.key)
            chunk = patiently(jax.device_get, chunk)
        self.decoded += self.rows.slots * int(chunk.steps)
        going = np.flatnonzero(self.samples)
        mine = self.at[going]
        episodes.sampled(mine, chunk.tokens[going], chunk.logp[going], chunk.sampled[going])
        self.samples &= chunk.open
        ended = going[~chunk.open[going]]
        if len(ended):
            texts = episodes.complete(self.at[ended], player.tokenizer)
            said = [(episodes.states[one], text) for one, text in zip(self.at[ended], texts, strict=True)]
            with player.account.during(Activity.VERIFYING):
                prompts = [episodes.prompt(one) for one in self.at[ended]]
                self.environment.submit(ended.tolist(), said, prompts)

    def _observe(self, wait: bool) -> None:
        """Takes the environment's answers that are there."""
        with self.player.account.during(Activity.VERIFYING):
            steps: list[tuple[int, Step]] = self.environment.take(wait)
        if not steps:
            return
        self.player.verifier.tolerate([step for _, step in steps])
        for row, step in steps:
            if text := self.episodes.observe(self.at[row], step, self.player.tokenizer):
                self.unread.append((row, text))
            else:
                self.at[row] = -1


def rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
