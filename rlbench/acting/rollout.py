"""Plays a task with a model, turn by turn, into Rollouts."""

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..accounting.account import Account, Pass
from ..accounting.memory import tree_bytes
from ..accounting.tally import Tally
from ..accounting.timeline import Doing
from ..contract.task import problem_of
from ..devices import Devices, Program
from ..interrupts import Stopped, patiently
from ..models.tokenizers import END, PAD
from ..randomness import words
from ..types import Array, Model, Params, Phase, Problem, Rollouts, Status, Step, Task, Tokenizer
from ..verifying.verifier import Verifier
from .generate import Reply, Sampling, chooser, first_reply, next_reply


class Space(NamedTuple):
    """Room for text, in tokens: what is known of shapes before a run."""

    prompt: int
    reply: int  # of one turn, the token that ends it included
    observation: int
    turns: int
    buckets: tuple[int, ...]  # row lengths of Rollouts, ascending; the last holds any conversation

    @property
    def conversation(self) -> int:
        """The longest row: a prompt, its replies, and what the environment says between them."""
        return self.prompt + self.turns * self.reply + (self.turns - 1) * self.observation


class Transcript(NamedTuple):
    """Record of one rollout on the host, beside the arrays."""

    problem: int  # its seed
    prompt: str
    replies: tuple[str, ...]
    reward: float
    status: Status
    prompt_tokens: int
    reply_tokens: int
    observation_tokens: int
    truncated: bool  # a reply filled its space without ending
    timed_out: bool  # a reply was not judged in time
    detail: str  # the reason of the status, for people

    @property
    def solved(self) -> bool:
        """True if the rewards add up to full reward, which is 1."""
        return self.reward > 1 - 1e-6


class Batch(NamedTuple):
    """Rollouts on the host, and what was sampled for them."""

    rollouts: Rollouts
    transcripts: list[Transcript]
    rows: np.ndarray  # i64[B]  where each row of the rollouts stands among the transcripts; -1 is padding

    def tally(self, group_size: int) -> Tally:
        """The batch in the ledger's terms."""
        columns: list[Any] = list(zip(*self.transcripts, strict=True))
        all_of: Any = Transcript(*columns)
        rows = len(self.transcripts)
        prompt = np.fromiter(all_of.prompt_tokens, np.int64, rows)
        reply = np.fromiter(all_of.reply_tokens, np.int64, rows)
        environment = np.fromiter(all_of.observation_tokens, np.int64, rows)
        return Tally(
            problems=rows // group_size,
            prompt=prompt,
            reply=reply,
            environment=environment,
            tokens=prompt + reply + environment,
            truncated=np.fromiter(all_of.truncated, bool, rows),
            timed_out=np.fromiter(all_of.timed_out, bool, rows),
            broke=np.fromiter(map(Status.INFRASTRUCTURE.__eq__, all_of.status), bool, rows),
        )


class Conversation:
    """One rollout while it is played."""

    def __init__(self, seed: int, problem: Problem, prompt: list[int]):
        self.seed, self.prompt = seed, problem.prompt
        self.state, self.status, self.detail = problem.state, Status.OPEN, ""
        self.tokens, self.chosen = list(prompt), [False] * len(prompt)
        self.logp, self.reward = [0.0] * len(prompt), [0.0] * len(prompt)
        self.prompt_tokens = len(prompt)
        self.replies: list[str] = []
        self.truncated = self.timed_out = False

    def say(self, tokens: list[int], chosen: bool, logp: list[float] | None = None) -> None:
        self.tokens += tokens
        self.chosen += [chosen] * len(tokens)
        self.logp += logp or [0.0] * len(tokens)
        self.reward += [0.0] * len(tokens)

    def hear(self, step: Step, tokenizer: Tokenizer, last: bool) -> list[int]:
        """Takes the environment's answer to a reply.

        Returns its tokens; none where the conversation is over, or was in its last turn.
        """
        self.state, self.status, self.detail = step.state, step.status, step.detail
        self.timed_out |= self.status == Status.TIMEOUT
        self.reward[-1] += step.reward
        if last or step.asks is None:
            return []
        answer = tokenizer.encode(step.asks)
        self.say(answer, chosen=False)
        return answer

    def transcript(self) -> Transcript:
        replied = sum(self.chosen)
        observed = len(self.tokens) - self.prompt_tokens - replied
        return Transcript(
            self.seed,
            self.prompt,
            tuple(self.replies),
            sum(self.reward),
            self.status,
            self.prompt_tokens,
            replied,
            observed,
            self.truncated,
            self.timed_out,
            self.detail,
        )


def pack(conversations: Sequence[Conversation], group_size: int, version: int, buckets: Sequence[int]) -> Batch:
    """Conversations as right-padded arrays of the smallest bucket that holds them all.

    A conversation whose verifier broke keeps its tokens and loses its mask: it did not happen.
    """
    rows, longest = len(conversations), max(len(c.tokens) for c in conversations)
    length = next(bucket for bucket in buckets if bucket >= longest)

    def padded(lists: list[list[Any]], fill: Any, dtype: Any) -> np.ndarray:
        out = np.full((rows, length), fill, dtype)
        for row, values in zip(out, lists, strict=True):
            row[: len(values)] = values
        return out

    broke = np.array([c.status == Status.INFRASTRUCTURE for c in conversations])
    mask = padded([c.chosen for c in conversations], False, bool) & ~broke[:, None]
    rollouts = Rollouts(
        tokens=padded([c.tokens for c in conversations], PAD, np.int32),
        mask=mask,
        logp=padded([c.logp for c in conversations], 0.0, np.float32),
        reward=padded([c.reward for c in conversations], 0.0, np.float32),
        group=np.arange(rows, dtype=np.int32) // group_size,
        version=np.full((rows, length), version, np.int32),
    )
    return Batch(rollouts, [c.transcript() for c in conversations], np.arange(rows))


def training_problems(task: Task, seed: int, first: int, count: int) -> list[tuple[int, Problem]]:
    """`count` training problems of a run with their numbers; runs of different seeds have no number in common."""
    numbers = range((seed << 32) + first, (seed << 32) + first + count)
    return [(number, problem_of(task, number, "train")) for number in numbers]


class Actor:
    """Samples a policy's replies to a task's problems.

    Args:
      verifier: judges the replies.
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
        space: Space,
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
        self.task, self.tokenizer, self.space, self.devices = task, tokenizer, space, devices
        self.verifier, self.delay = verifier, delay
        self.network = "policy"  # the name that costs of what samples are reported under
        self.key = devices.replicate(key)
        slots = space.conversation - space.prompt

        def first(networks: Params, key: Array, prompt: Array, length: Array, ids: Array, greedy: Array):
            choose = chooser(key, ids, greedy)
            (policy,) = networks.values()
            reply, cache = first_reply(model, policy, prompt, length, choose, sampling, space.reply, slots)
            return (reply, cache) if space.turns > 1 else (reply, None)

        def following(networks: Params, cache: Any, key: Array, said: Array, length: Array, ids: Array, greedy: Array):
            choose = chooser(key, ids, greedy)
            (policy,) = networks.values()
            return next_reply(model, policy, cache, said, length, choose, sampling, space.reply)

        settings: dict[str, Any] = {"networks": (0,), "phase": Phase.DECODE, "account": self.account}
        self.first = Program(devices, first, trips=lambda result: result[0].steps, **settings)
        self.following = Program(devices, following, (1,), trips=lambda result: result[0].steps, **settings)
        self._segment_bytes = lambda rows, slots: tree_bytes(jax.eval_shape(lambda: model.segment(rows, slots)))

    def cache_bytes(self, problems: int, group_size: int) -> int:
        """Bytes of the key-value cache of a batch, on all devices together."""
        own = self.space.conversation - self.space.prompt
        return self._segment_bytes(problems, self.space.prompt) + self._segment_bytes(problems * group_size, own)

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
          greedy: for each attempt of a group, whether it takes the likeliest token; by default none does.
        """
        prompts = [self.tokenizer.encode(problem.prompt) for _, problem in problems]
        conversations = [
            Conversation(seed, problem, prompt)
            for (seed, problem), prompt in zip(problems, prompts, strict=True)
            for _ in range(group_size)
        ]
        self._heed_stop()
        rows = len(conversations)
        spread = self.devices.spread
        ids = spread(words(first_id, rows))
        greed = spread(np.tile(np.array(greedy or [False] * group_size), len(problems)))
        networks = {self.network: params}
        read = ragged(prompts, self.space.prompt)
        with self.account.during(Doing.COMPUTING):
            reply, cache = self.first(networks, self.key, *spread(read), ids, greed)
            said = patiently(jax.device_get, reply)
        self._report(read, said, before=0, copies=group_size)
        for turn in range(self.space.turns):
            self._heed_stop()
            answers = self._listen(said, conversations, last=turn == self.space.turns - 1)
            if not any(answers):
                break
            read = ragged(answers, 1 + self.space.observation)
            before = np.array([len(c.tokens) - len(answer) for c, answer in zip(conversations, answers, strict=True)])
            with self.account.during(Doing.COMPUTING):
                reply, cache = self.following(networks, cache, self.key, *spread(read), ids, greed)
                said = patiently(jax.device_get, reply)
            self._report(read, said, before, copies=1)
        return pack(conversations, group_size, version, self.space.buckets)

    def _heed_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def _listen(self, reply: Reply, conversations: Sequence[Conversation], last: bool) -> list[list[int]]:
        """Lets the task answer every reply. Returns what each row reads next; nothing where it is over."""
        texts: dict[int, str] = {}
        for row in np.flatnonzero(reply.length).tolist():
            tokens = reply.tokens[row, : reply.length[row]].tolist()
            conversations[row].say(tokens, chosen=True, logp=reply.logp[row, : reply.length[row]].tolist())
            conversations[row].truncated |= tokens[-1] != END
            texts[row] = self.tokenizer.decode(tokens)
            conversations[row].replies.append(texts[row])
        with self.account.during(Doing.VERIFYING):
            steps, took = self.verifier.judge(
                self.task,
                [(conversations[row].state, text) for row, text in texts.items()],
                self.delay,
                prompts=[conversations[row].prompt for row in texts],
                stop=self.stop,
            )
        self.account.judged(took)
        self.verifier.tolerate(steps)
        reads: list[list[int]] = [[] for _ in conversations]
        for row, step in zip(texts, steps, strict=True):
            final = conversations[row].tokens[-1]
            answer = conversations[row].hear(step, self.tokenizer, last)
            reads[row] = [final, *answer] if answer else []
        return reads

    def _report(self, read: tuple[np.ndarray, np.ndarray], reply: Reply, before: np.ndarray | int, copies: int) -> None:
        """Tells the account what a program read, and which of the tokens that it chose it fed back."""
        tokens, length = read
        spoke = reply.length > 0
        fed = np.where(spoke, reply.length - 1, 0).astype(np.int64)  # nobody has read a reply's last token yet
        ahead = np.repeat(length + before, copies)
        length = length.astype(np.int64)  # of which squares are taken
        self.account.passed(Pass(Phase.PREFILL, tokens.size, length, before, length > 0, copies))
        self.account.passed(Pass(Phase.DECODE, len(spoke) * int(reply.steps), fed, ahead, fed))


def ragged(lists: Sequence[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as i32[rows, width], padded on the right, and their lengths i32[rows]."""
    out = np.full((len(lists), width), PAD, np.int32)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out, np.array([len(values) for values in lists], np.int32)
