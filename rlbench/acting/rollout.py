"""Plays a task with a model, turn by turn, into Rollouts."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..accounting.account import Account, Pass
from ..accounting.memory import tree_bytes
from ..accounting.tally import Tally
from ..accounting.timeline import Activity
from ..contract.task import problem_of
from ..devices import CompiledFunction, Devices
from ..interrupts import Stopped, patiently
from ..models.tokenizers import END, PAD
from ..randomness import words
from ..types import SOLVED_ABOVE, Array, Model, Params, Phase, Problem, Rollouts, Status, Step, Task, Tokenizer
from ..verifying.verifier import Verifier
from .generate import Completion, Sampling, chooser, first_completion, next_completion


class SequenceLimits(NamedTuple):
    """Room for text, in tokens: what is known of shapes before a run."""

    prompt: int
    completion: int  # of one turn, the token that ends it included
    observation: int
    turns: int
    buckets: tuple[int, ...]  # row lengths of Rollouts, ascending; the last holds any episode

    @property
    def episode(self) -> int:
        """The longest row: a prompt, its completions, and what the environment says between them."""
        return self.prompt + self.turns * self.completion + (self.turns - 1) * self.observation


class Trajectory(NamedTuple):
    """Record of one rollout on the host, beside the arrays."""

    problem: int  # its seed
    prompt: str
    completions: tuple[str, ...]
    reward: float
    status: Status
    prompt_tokens: int
    completion_tokens: int
    observation_tokens: int
    truncated: bool  # a completion reached its longest length without ending
    timed_out: bool  # a completion was not judged in time
    detail: str  # the reason of the status, for people

    @property
    def solved(self) -> bool:
        """True if the rewards add up to full reward, which is 1."""
        return self.reward > SOLVED_ABOVE


class Batch(NamedTuple):
    """Rollouts on the host, and what was sampled for them."""

    rollouts: Rollouts
    trajectories: list[Trajectory]
    rows: np.ndarray  # i64[B]  where each row of the rollouts stands among the trajectories; -1 is padding

    def tally(self, group_size: int) -> Tally:
        """The batch in the ledger's terms."""
        columns: list[Any] = list(zip(*self.trajectories, strict=True))
        all_of: Any = Trajectory(*columns)
        rows = len(self.trajectories)
        prompt = np.fromiter(all_of.prompt_tokens, np.int64, rows)
        completion = np.fromiter(all_of.completion_tokens, np.int64, rows)
        environment = np.fromiter(all_of.observation_tokens, np.int64, rows)
        return Tally(
            problems=rows // group_size,
            prompt=prompt,
            completion=completion,
            environment=environment,
            tokens=prompt + completion + environment,
            truncated=np.fromiter(all_of.truncated, bool, rows),
            timed_out=np.fromiter(all_of.timed_out, bool, rows),
            broke=np.fromiter(map(Status.INFRASTRUCTURE.__eq__, all_of.status), bool, rows),
        )


class Episode:
    """One rollout while it is played."""

    def __init__(self, seed: int, problem: Problem, prompt: list[int]):
        self.seed, self.prompt = seed, problem.prompt
        self.state, self.status, self.detail = problem.state, Status.OPEN, ""
        self.tokens, self.chosen = list(prompt), [False] * len(prompt)
        self.logp, self.reward = [0.0] * len(prompt), [0.0] * len(prompt)
        self.prompt_tokens = len(prompt)
        self.completions: list[str] = []
        self.truncated = self.timed_out = False

    def append(self, tokens: list[int], chosen: bool, logp: list[float] | None = None) -> None:
        self.tokens += tokens
        self.chosen += [chosen] * len(tokens)
        self.logp += logp or [0.0] * len(tokens)
        self.reward += [0.0] * len(tokens)

    def observe(self, step: Step, tokenizer: Tokenizer, last: bool) -> list[int]:
        """Takes the environment's answer to a completion.

        Returns its tokens; none where the episode is over, or was in its last turn.
        """
        self.state, self.status, self.detail = step.state, step.status, step.detail
        self.timed_out |= self.status == Status.TIMEOUT
        self.reward[-1] += step.reward
        if last or step.next_observation is None:
            return []
        answer = tokenizer.encode(step.next_observation)
        self.append(answer, chosen=False)
        return answer

    def trajectory(self) -> Trajectory:
        completion = sum(self.chosen)
        observed = len(self.tokens) - self.prompt_tokens - completion
        return Trajectory(
            self.seed,
            self.prompt,
            tuple(self.completions),
            sum(self.reward),
            self.status,
            self.prompt_tokens,
            completion,
            observed,
            self.truncated,
            self.timed_out,
            self.detail,
        )


def pack(episodes: Sequence[Episode], group_size: int, version: int, buckets: Sequence[int]) -> Batch:
    """Episodes as right-padded arrays of the smallest bucket that holds them all.

    An episode whose verifier broke keeps its tokens and loses its mask: it is an invalid sample.
    """
    rows, longest = len(episodes), max(len(c.tokens) for c in episodes)
    length = next(bucket for bucket in buckets if bucket >= longest)

    def padded(lists: list[list[Any]], fill: Any, dtype: Any) -> np.ndarray:
        out = np.full((rows, length), fill, dtype)
        for row, values in zip(out, lists, strict=True):
            row[: len(values)] = values
        return out

    broke = np.array([c.status == Status.INFRASTRUCTURE for c in episodes])
    mask = padded([c.chosen for c in episodes], False, bool) & ~broke[:, None]
    rollouts = Rollouts(
        tokens=padded([c.tokens for c in episodes], PAD, np.int32),
        mask=mask,
        logp=padded([c.logp for c in episodes], 0.0, np.float32),
        reward=padded([c.reward for c in episodes], 0.0, np.float32),
        group=np.arange(rows, dtype=np.int32) // group_size,
        version=np.full((rows, length), version, np.int32),
    )
    return Batch(rollouts, [c.trajectory() for c in episodes], np.arange(rows))


def training_problems(task: Task, seed: int, first: int, count: int) -> list[tuple[int, Problem]]:
    """`count` training problems of a run with their numbers; runs of different seeds have no number in common."""
    numbers = range((seed << 32) + first, (seed << 32) + first + count)
    return [(number, problem_of(task, number, "train")) for number in numbers]


class Actor:
    """Samples a policy's completions to a task's problems.

    Args:
      verifier: judges the completions.
      key: with a rollout's id and a token's position, all that its randomness depends on.
      account: told of what the programs and the task cost.
      delay: seconds that the task takes longer for every turn.
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
        account: Account | None = None,
        delay: float = 0.0,
        stop: threading.Event | None = None,
    ):
        self.account = account or Account()
        self.stop = stop or threading.Event()
        self.task, self.tokenizer, self.limits, self.devices = task, tokenizer, limits, devices
        self.verifier, self.delay = verifier, delay
        self.network = "policy"  # the name that costs of what samples are reported under
        self.key = devices.replicate(key)
        slots = limits.episode - limits.prompt

        def first(networks: Params, key: Array, prompt: Array, length: Array, ids: Array, greedy: Array):
            choose = chooser(key, ids, greedy)
            (policy,) = networks.values()
            completion, cache = first_completion(
                model, policy, prompt, length, choose, sampling, limits.completion, slots
            )
            return (completion, cache) if limits.turns > 1 else (completion, None)

        def following(
            networks: Params, cache: Any, key: Array, sampled: Array, length: Array, ids: Array, greedy: Array
        ):
            choose = chooser(key, ids, greedy)
            (policy,) = networks.values()
            return next_completion(model, policy, cache, sampled, length, choose, sampling, limits.completion)

        settings: dict[str, Any] = {"networks": (0,), "phase": Phase.DECODE, "account": self.account}
        self.first = CompiledFunction(devices, first, iterations=lambda result: result[0].steps, **settings)
        self.following = CompiledFunction(
            devices, following, (1,), iterations=lambda result: result[0].steps, **settings
        )
        self._segment_bytes = lambda rows, slots: tree_bytes(jax.eval_shape(lambda: model.segment(rows, slots)))

    def cache_bytes(self, problems: int, group_size: int) -> int:
        """Bytes of the key-value cache of a batch, on all devices together."""
        own = self.limits.episode - self.limits.prompt
        return self._segment_bytes(problems, self.limits.prompt) + self._segment_bytes(problems * group_size, own)

    def play(
        self,
        params: Params,
        problems: Sequence[tuple[int, Problem]],
        group_size: int,
        *,
        first_id: int,
        version: int,
        greedy: Sequence[bool] = (),
    ) -> Batch:
        """Plays every (seed, problem) group_size times. Rollout ids count up from first_id.

        Args:
          greedy: for each attempt of a group, whether it takes the most probable token; by default none does.
        """
        prompts = [self.tokenizer.encode(problem.prompt) for _, problem in problems]
        episodes = [
            Episode(seed, problem, prompt)
            for (seed, problem), prompt in zip(problems, prompts, strict=True)
            for _ in range(group_size)
        ]
        self._heed_stop()
        rows = len(episodes)
        shard = self.devices.shard
        ids = shard(words(first_id, rows))
        greed = shard(np.tile(np.array(greedy or [False] * group_size), len(problems)))
        networks = {self.network: params}
        tokens = ragged(prompts, self.limits.prompt)
        with self.account.during(Activity.COMPUTING):
            completion, cache = self.first(networks, self.key, *shard(tokens), ids, greed)
            sampled = patiently(jax.device_get, completion)
        self._report(tokens, sampled, before=0, copies=group_size)
        for turn in range(self.limits.turns):
            self._heed_stop()
            answers = self._judge(sampled, episodes, last=turn == self.limits.turns - 1)
            if not any(answers):
                break
            tokens = ragged(answers, 1 + self.limits.observation)
            before = np.array([len(c.tokens) - len(answer) for c, answer in zip(episodes, answers, strict=True)])
            with self.account.during(Activity.COMPUTING):
                completion, cache = self.following(networks, cache, self.key, *shard(tokens), ids, greed)
                sampled = patiently(jax.device_get, completion)
            self._report(tokens, sampled, before, copies=1)
        return pack(episodes, group_size, version, self.limits.buckets)

    def _heed_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def _judge(self, completion: Completion, episodes: Sequence[Episode], last: bool) -> list[list[int]]:
        """Has every completion judged. Returns what each row reads next; nothing where it is over."""
        texts: dict[int, str] = {}
        for row in np.flatnonzero(completion.length).tolist():
            tokens = completion.tokens[row, : completion.length[row]].tolist()
            episodes[row].append(tokens, chosen=True, logp=completion.logp[row, : completion.length[row]].tolist())
            episodes[row].truncated |= tokens[-1] != END
            texts[row] = self.tokenizer.decode(tokens)
            episodes[row].completions.append(texts[row])
        with self.account.during(Activity.VERIFYING):
            steps, took = self.verifier.judge(
                self.task,
                [(episodes[row].state, text) for row, text in texts.items()],
                self.delay,
                prompts=[episodes[row].prompt for row in texts],
                stop=self.stop,
            )
        self.account.judged(took)
        self.verifier.tolerate(steps)
        reads: list[list[int]] = [[] for _ in episodes]
        for row, step in zip(texts, steps, strict=True):
            final = episodes[row].tokens[-1]
            answer = episodes[row].observe(step, self.tokenizer, last)
            reads[row] = [final, *answer] if answer else []
        return reads

    def _report(
        self, read: tuple[np.ndarray, np.ndarray], completion: Completion, before: np.ndarray | int, copies: int
    ) -> None:
        """Tells the account what a program read, and which of the tokens that it chose it fed back."""
        tokens, length = read
        spoke = completion.length > 0
        fed = np.where(spoke, completion.length - 1, 0).astype(
            np.int64
        )  # nobody has read a completion's last token yet
        ahead = np.repeat(length + before, copies)
        length = length.astype(np.int64)  # of which squares are taken
        self.account.passed(Pass(Phase.PREFILL, tokens.size, length, before, length > 0, copies))
        self.account.passed(Pass(Phase.DECODE, len(spoke) * int(completion.steps), fed, ahead, fed))


def ragged(lists: Sequence[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as i32[rows, width], padded on the right, and their lengths i32[rows]."""
    out = np.full((len(lists), width), PAD, np.int32)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out, np.array([len(values) for values in lists], np.int32)
