"""Plays a task with a model by continuous batching: a finished row is judged at once and makes room for the next.

A row that waits for its environment holds up nobody. What a rollout says depends on its id and its problem alone,
not on the row that it gets, its neighbours, or when it gets there.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import numpy as np

from ..accounting.account import Account, Pass
from ..accounting.memory import tree_bytes
from ..accounting.timeline import Activity
from ..checkpoint import Stateful
from ..devices import CompiledFunction, Devices, in_memory
from ..interrupts import Stopped, patiently
from ..models.tokenizers import PAD
from ..randomness import words
from ..types import Array, Count, Model, Params, Phase, Problem, Step, Task, Tokenizer
from ..verifying.delay import AT_ONCE, Delay
from ..verifying.environment import Environment
from ..verifying.verifier import Verifier
from .collector import Batch, batch_of
from .episode import Episodes, SequenceLimits, ragged
from .slots import (
    Admission,
    Chunk,
    Observation,
    Prompts,
    Sampling,
    Slots,
    admit,
    answer,
    decode,
    idle,
    read_prompts,
    reread,
)

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
      delay: by which the task takes longer for every completion.
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
        delay: Delay = AT_ONCE,
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

        def again(networks: Params, slots: Slots, tokens: Array, length: Array) -> Slots:
            (policy,) = networks.values()
            return reread(model, policy, slots, tokens, length)

        self.idle = jax.jit(partial(idle, model, slots=limits.slots), static_argnums=0, out_shardings=devices.rows)
        settings: dict[str, Any] = {"phase": Phase.DECODE, "account": self.account}
        self.read = CompiledFunction(devices, read, networks=(0,), **settings)
        self.start = CompiledFunction(devices, start, (0,), **settings)
        self.answers = CompiledFunction(devices, answers, (1,), networks=(0,), **settings)
        self.again = CompiledFunction(devices, again, (1,), networks=(0,), **settings)
        self.sample = CompiledFunction(
            devices, sample, (1,), networks=(0,), iterations=[lambda result: result[1].steps], **settings
        )

    def fresh(self, slots: int) -> Slots:
        """Idle rows."""
        shapes = jax.eval_shape(partial(idle, self.model, slots, slots=self.limits.slots))
        with in_memory("idle", Phase.DECODE, shapes):
            made: Slots = self.devices.memory.note(self.idle(slots))
            return made

    def rows(self, rollouts: int, group_size: int) -> Rows:
        """Shapes of a play of so many rollouts, each a multiple of the number of devices."""
        devices = len(self.devices.devices)
        slots = rounded_up(min(self.acting.slots or rollouts, rollouts), devices)
        return Rows(slots, rounded_up(-(-slots // group_size), devices), rounded_up(-(-slots // READERS), devices))

    def cache_bytes(self, rollouts: int, group_size: int) -> int:
        """Bytes of the key-value caches of a play, on all devices together."""
        rows, limits = self.rows(rollouts, group_size), self.limits
        shapes = [(rows.slots, limits.slots), (rows.prompts, limits.prompt)]
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
        """Plays every (seed, problem) group_size times, to the end. Rollout ids count up from first_id.

        Args:
          greedy: for each attempt of a group, whether it takes the most probable token; by default none does.
          limit: for each rollout, the most tokens of a completion; by default what there is room for.
        """
        episodes = Episodes(len(problems), group_size, self.limits)
        groups = np.arange(len(problems))
        with self.verifier.environment(self.task, self.delay, self.stop) as environment:
            play = Play(self, params, version, episodes, environment, self.rows(len(episodes.ids), group_size))
            rows = play.ask(groups, problems, first_id)
            if greedy:
                play.greedy = np.tile(np.array(greedy), len(problems))
            if limit is not None:
                play.limit = limit
            while not play.idle:
                play.advance()
                play.take(wait=not play.samples.any())
        self.kept[play.rows.slots] = play.slots
        self.account.judged(environment.spent())
        for one in play.passes(groups):
            self.account.passed(one)
        return batch_of(episodes, rows)


class Play(Stateful):
    """Rollouts under way: which of them has which row of the device, and what each row does next.

    Args:
      params: that sample, of this version.
      rows: shapes.
    """

    # fmt: off
    STATE = (
        "version", "newest", "greedy", "limit", "at", "row_of", "samples", "queue", "judging", "unread", "prompt_at",
        "read", "decoded",
    )
    # fmt: on

    def __init__(
        self, player: Player, params: Params, version: int, episodes: Episodes, environment: Environment, rows: Rows
    ):
        self.player, self.episodes, self.environment, self.rows = player, episodes, environment, rows
        self.networks, self.version = {player.network: params}, version
        self.newest = version  # of the weights that there are
        capacity, slots = len(episodes.ids), rows.slots
        self.greedy = np.zeros(capacity, bool)
        self.limit = np.full(capacity, player.limits.completion, np.int32)
        self.at = np.full(slots, -1)  # the rollout that each row has
        self.row_of = np.full(capacity, -1)  # the row that each rollout has
        self.samples = np.zeros(slots, bool)  # rows whose completion goes on
        self.queue = np.zeros(0, np.int64)  # rollouts that wait for a row, in the order of their ids
        self.judging: dict[int, int] = {}  # rollouts that wait for the environment, by id
        self.unread: list[tuple[int, list[int]]] = []  # rollouts, and what they read next
        self.prompt_at = np.full(capacity // episodes.group_size, -1)  # where each group's prompt was read
        self.read = self.decoded = 0  # token positions computed
        self.shared: Prompts
        self.slots: Slots = player.kept.pop(slots) if slots in player.kept else player.fresh(slots)
        if player.limits.turns > 1:  # now, though nobody has answered yet
            player.answers.prepare(self.networks, self.slots, player.key, self._observation([]))

    def state(self) -> dict[str, Any]:
        """As arrays and plain objects; rows and prompts of the device only where somebody needs them again."""
        return super().state() | {
            "episodes": self.episodes.state(),
            "environment": self.environment.state(),
            "slots": None if self.drained and not self.slots.left.any() else self.slots,  # one that was dropped goes on
            "shared": self.shared if len(self.queue) and (self.prompt_at >= 0).any() else None,
        }

    def take_up(self, state: Mapping[str, Any], answered: Collection[int]) -> None:
        """Goes on from a state. What waited for the environment, and has no answer yet, is asked for again.

        Args:
          answered: ids of rollouts that wait for nothing but to `observe` it.
        """
        self.restore(state)
        self.episodes.restore(state["episodes"])
        if state["slots"]:
            self.slots = self.player.devices.shard(state["slots"])
        if state["shared"]:
            self.shared = jax.device_put(state["shared"], self._prepared_prompts().output_shardings)
        else:
            self.prompt_at[:] = -1
        there = self.environment.restore(state["environment"]).union(answered)
        again = [row for one, row in sorted(self.judging.items()) if one not in there]
        if again:
            self._submit(np.array(again))

    @property
    def idle(self) -> bool:
        """True if nothing is under way and nothing waits."""
        return not (len(self.queue) or self.samples.any() or self.unread or self.judging)

    @property
    def drained(self) -> bool:
        """True if no row has an episode."""
        return not (self.at >= 0).any()

    def ask(self, groups: np.ndarray, problems: Sequence[tuple[int, Problem]], first_id: int) -> np.ndarray:
        """Has attempts at problems played, in free places. Returns these."""
        tokenizer, limits = self.player.tokenizer, self.player.limits
        prompts = ragged([tokenizer.encode(problem.prompt) for _, problem in problems], limits.prompt)
        rows = self.episodes.open(groups, problems, prompts, first_id)
        self.prompt_at[groups] = -1
        self.queue = np.concatenate([self.queue, rows])
        return rows

    def swap(self, params: Params, version: int) -> None:
        """Goes on with other weights. Rows keep what the ones before have read; prompts that are shared do not."""
        self.networks, self.version = {self.player.network: params}, version
        self.prompt_at[:] = -1

    def reread(self) -> None:
        """Has rows read their text again, as far as it was read."""
        episodes, mine = self.episodes, np.maximum(self.at, 0)
        length = np.maximum(episodes.length - 1, 0)  # nobody has read the last token
        for rollout, text in self.unread:
            length[rollout] = episodes.length[rollout] - len(text)
        length = np.where(self.at >= 0, length[mine], 0).astype(np.int32)
        tokens = np.where(self.at[:, None] >= 0, episodes.tokens[mine], PAD)
        self.read += tokens.size
        with self.player.account.during(Activity.COMPUTING):
            text = self.player.devices.handed((tokens, length))
            self.slots = self.player.again(self.networks, self.slots, *text)

    def prepare_reread(self) -> None:
        """Has the program of `reread` compiled now."""
        nothing = np.full((self.rows.slots, self.player.limits.episode), PAD, np.int32)
        text = self.player.devices.handed((nothing, np.zeros(self.rows.slots, np.int32)))
        self.player.again.prepare(self.networks, self.slots, *text)

    def advance(self, admits: bool = True) -> None:
        """Starts rollouts where there are free rows, has rows read their answers, and samples some tokens in each.

        Args:
          admits: whether rollouts are started.
        """
        if self.player.stop.is_set():
            raise Stopped
        if admits:
            self._admit()
        self._answer()
        if self.samples.any():
            self._sample()

    def take(self, wait: bool) -> np.ndarray:
        """Takes the environment's answers that are there. Returns the ids of their rollouts.

        Args:
          wait: until there is one.
        """
        with self.player.account.during(Activity.VERIFYING):
            steps: list[tuple[int, Step]] = self.environment.take(wait)
        return self.observe(steps)

    def observe(self, steps: Sequence[tuple[int, Step]]) -> np.ndarray:
        """Takes answers of the environment, by rollouts' ids. Returns the ids of rollouts that are still wanted."""
        wanted = sorted([answer for answer in steps if answer[0] in self.judging], key=itemgetter(0))
        if not wanted:
            return np.zeros(0, np.int64)
        ids, answers = zip(*wanted, strict=True)
        self.player.verifier.tolerate(answers)
        rollouts = np.array([self.judging.pop(one) for one in ids])
        self.unread += self.episodes.observe(rollouts, answers, self.player.tokenizer)
        self._free(rollouts[self.episodes.over[rollouts]])
        return np.array(ids, np.int64)

    def drop(self, rollouts: np.ndarray) -> None:
        """Gives up rollouts, wherever they are."""
        for one in self.episodes.ids[rollouts].tolist():
            self.judging.pop(one, None)
        gone = set(rollouts.tolist())
        self.unread = [answer for answer in self.unread if answer[0] not in gone]
        self.queue = self.queue[~np.isin(self.queue, rollouts)]
        self._free(rollouts)

    def _free(self, rollouts: np.ndarray) -> None:
        """Takes the rows of rollouts, if they have some."""
        rows = self.row_of[rollouts]
        rows = rows[rows >= 0]
        self.at[rows], self.samples[rows], self.row_of[rollouts] = -1, False, -1

    def passes(self, groups: np.ndarray) -> list[Pass]:
        """Passes through the network since this was asked last, all of them for these groups."""
        passes = self.episodes.passes(groups, self.read, self.decoded)
        self.read = self.decoded = 0
        return passes

    def _prepared_prompts(self) -> Any:
        """The compiled program that reads prompts."""
        tokens = np.full((self.rows.prompts, self.player.limits.prompt), PAD, np.int32)
        text = self.player.devices.handed((tokens, np.ones(self.rows.prompts, np.int32)))
        return self.player.read.prepare(self.networks, *text).executable

    def _admit(self) -> None:
        """Gives free rows to the next rollouts, in the order of their ids."""
        player, slots, group = self.player, self.rows.slots, self.episodes.group_size
        while len(self.queue) and len(free := np.flatnonzero(self.at < 0)):
            if self.prompt_at[self.queue[0] // group] < 0:
                self._read_prompts()
            mine = self.queue[: len(free)]
            unread = self.prompt_at[mine // group] < 0
            mine = mine[: unread.argmax()] if unread.any() else mine
            self.queue = self.queue[len(mine) :]
            rows = free[: len(mine)]
            self.at[rows], self.samples[rows], self.row_of[mine] = mine, True, rows
            self.episodes.begin(mine, self.version)
            source = np.full(slots, -1, np.int32)
            source[rows] = self.prompt_at[mine // group]
            which = np.maximum(self.at, 0)
            admission = Admission(source, words(self.episodes.ids[which]), self.greedy[which], self._limit(which))
            with player.account.during(Activity.COMPUTING):
                admission = player.devices.handed(admission)
                self.slots = player.start(self.slots, self.shared, player.key, admission)

    def _read_prompts(self) -> None:
        """Has the next prompts read, as many as go at once."""
        episodes, size = self.episodes, self.rows.prompts
        group = self.queue // episodes.group_size
        mine = group[np.append(True, group[1:] != group[:-1])][:size]
        self.prompt_at[:] = -1
        self.prompt_at[mine] = np.arange(len(mine))
        heads, missing = mine * episodes.group_size, size - len(mine)
        prompts = episodes.tokens[heads, : self.player.limits.prompt]
        tokens = np.pad(prompts, ((0, missing), (0, 0)), constant_values=PAD)
        length = np.pad(episodes.prompt_length[heads].astype(np.int32), (0, missing), constant_values=1)
        self.read += tokens.size
        episodes.prompts_read(mine)
        with self.player.account.during(Activity.COMPUTING):
            self.shared = self.player.read(self.networks, *self.player.devices.handed((tokens, length)))

    def _answer(self) -> None:
        """Has rows read what their environment answered."""
        player, size = self.player, self.rows.readers
        while self.unread:
            now, self.unread = self.unread[:size], self.unread[size:]
            rollouts = np.array([rollout for rollout, _ in now])
            self.samples[self.row_of[rollouts]] = True
            self.episodes.answers_read(rollouts, np.array([len(text) for _, text in now]))
            observation = self._observation(now)
            self.read += observation.tokens.size
            with player.account.during(Activity.COMPUTING):
                self.slots = player.answers(self.networks, self.slots, player.key, observation)

    def _limit(self, rollouts: np.ndarray) -> np.ndarray:
        """The most tokens of the next completions of some rollouts, i32[n]."""
        return np.minimum(self.limit[rollouts], self.episodes.room(rollouts)).astype(np.int32)

    def _observation(self, answers: Sequence[tuple[int, list[int]]]) -> Observation:
        """Answers to rollouts, as many at most as are read at once."""
        limits, size = self.player.limits, self.rows.readers
        rollouts = np.array([rollout for rollout, _ in answers], np.int64)
        rows = self.row_of[rollouts].astype(np.int32)
        tokens, length = ragged([text for _, text in answers], 1 + limits.observation)
        missing = size - len(rows)
        observation = Observation(
            np.pad(rows, (0, missing), constant_values=self.rows.slots),  # rows that do not exist
            np.pad(tokens, ((0, missing), (0, 0))),
            np.pad(length, (0, missing)),
            np.pad(self._limit(rollouts), (0, missing)),
        )
        return self.player.devices.handed(observation)

    def _sample(self) -> None:
        """Samples some tokens in every row that has more to say, and has what was ended judged."""
        player, episodes = self.player, self.episodes
        with player.account.during(Activity.COMPUTING):
            self.slots, chunk = player.sample(self.networks, self.slots, player.key)
            chunk = patiently(jax.device_get, chunk)
        self.decoded += self.rows.slots * int(chunk.steps)
        going = np.flatnonzero(self.samples)
        sampled = chunk.tokens[going], chunk.logp[going], chunk.sampled[going]
        episodes.sampled(self.at[going], *sampled, self.version, self.newest - self.version)
        self.samples &= chunk.open
        ended = going[~chunk.open[going]]
        if len(ended):
            rollouts = self.at[ended]
            episodes.complete(rollouts, player.tokenizer)
            self.judging.update(zip(episodes.ids[rollouts].tolist(), rollouts.tolist(), strict=True))
            self._free(rollouts[episodes.turn[rollouts] == player.limits.turns - 1])  # nothing follows
            self._submit(rollouts)

    def _submit(self, rollouts: np.ndarray) -> None:
        """Has the last completions of rollouts judged."""
        episodes = self.episodes
        texts = episodes.completions[rollouts, episodes.turn[rollouts]]
        given = [*zip(episodes.states[rollouts].tolist(), texts.tolist(), strict=True)]
        prompts = [episodes.prompt(one) for one in rollouts.tolist()]
        with self.player.account.during(Activity.VERIFYING):
            self.environment.submit(episodes.ids[rollouts].tolist(), given, prompts)


def rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
