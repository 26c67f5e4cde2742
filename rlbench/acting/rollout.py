"""Plays a task with a model, turn by turn, into Rollouts."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ..devices import Devices, Program
from ..models.tokenizers import END, PAD
from ..types import Array, Model, Params, Problem, Rollouts, Status, Task, Tokenizer
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
    """What the host knows of one rollout, beside the arrays."""

    problem: int  # its seed
    prompt: str
    replies: tuple[str, ...]
    reward: float
    status: Status
    prompt_tokens: int
    reply_tokens: int
    observation_tokens: int
    truncated: bool  # the last reply filled its space without ending

    @property
    def solved(self) -> bool:
        """Whether the rewards add up to full reward, which is 1."""
        return self.reward > 1 - 1e-6


class Batch(NamedTuple):
    """Rollouts on the host, and their transcripts in the same order."""

    rollouts: Rollouts
    transcripts: list[Transcript]


class Conversation:
    """One rollout while it is played."""

    def __init__(self, seed: int, problem: Problem, prompt: list[int]):
        self.seed, self.prompt = seed, problem.prompt
        self.state, self.status = problem.state, Status.OPEN
        self.tokens, self.chosen = list(prompt), [False] * len(prompt)
        self.logp, self.reward = [0.0] * len(prompt), [0.0] * len(prompt)
        self.prompt_tokens = len(prompt)
        self.replies: list[str] = []
        self.truncated = False

    def say(self, tokens: list[int], chosen: bool, logp: list[float] | None = None) -> None:
        self.tokens += tokens
        self.chosen += [chosen] * len(tokens)
        self.logp += logp or [0.0] * len(tokens)
        self.reward += [0.0] * len(tokens)

    def hear(self, task: Task, tokenizer: Tokenizer, reply: str, last: bool) -> list[int]:
        """The environment's answer to a reply; empty where the conversation is over, or was in its last turn."""
        self.replies.append(reply)
        self.state, observation, reward, self.status, _ = task.step(self.state, reply)
        self.reward[-1] += reward
        if last or observation is None or self.status != Status.OPEN:
            return []
        answer = tokenizer.encode(observation)
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
    return Batch(rollouts, [c.transcript() for c in conversations])


def training_problems(task: Task, seed: int, first: int, count: int) -> list[tuple[int, Problem]]:
    """`count` training problems of a run with their numbers; runs of different seeds have no number in common."""
    numbers = range((seed << 32) + first, (seed << 32) + first + count)
    return [(number, task.problem(number, "train")) for number in numbers]


class Actor:
    """Samples a policy's replies to a task's problems.

    Args:
      key: with a rollout's id and a token's position, all that its randomness depends on.
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
    ):
        self.task, self.tokenizer, self.space, self.devices = task, tokenizer, space, devices
        self.key = devices.replicate(key)
        slots = space.conversation - space.prompt

        def first(params: Params, key: Array, prompt: Array, length: Array, ids: Array, greedy: Array):
            reply, cache = first_reply(
                model, params, prompt, length, chooser(key, ids, greedy), sampling, space.reply, slots
            )
            return (reply, cache) if space.turns > 1 else (reply, None)

        def following(params: Params, cache: Any, key: Array, said: Array, length: Array, ids: Array, greedy: Array):
            return next_reply(model, params, cache, said, length, chooser(key, ids, greedy), sampling, space.reply)

        self.first = Program(devices, first)
        self.following = Program(devices, following, donate=(1,))

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
        rows = len(conversations)
        spread = self.devices.spread
        ids = spread(np.arange(first_id, first_id + rows, dtype=np.uint32))
        greed = spread(np.tile(np.array(greedy or [False] * group_size), len(problems)))
        reply, cache = self.first(params, self.key, *spread(ragged(prompts, self.space.prompt)), ids, greed)
        for turn in range(self.space.turns):
            answers = self._listen(jax.device_get(reply), conversations, last=turn == self.space.turns - 1)
            if not any(answers):
                break
            said = spread(ragged(answers, 1 + self.space.observation))
            reply, cache = self.following(params, cache, self.key, *said, ids, greed)
        return pack(conversations, group_size, version, self.space.buckets)

    def _listen(self, reply: Reply, conversations: Sequence[Conversation], last: bool) -> list[list[int]]:
        """Lets the task answer every reply. Returns what each row reads next; nothing where it is over."""
        reads: list[list[int]] = []
        for row, conversation in enumerate(conversations):
            length = int(reply.length[row])
            if not length:
                reads.append([])
                continue
            tokens = reply.tokens[row, :length].tolist()
            conversation.say(tokens, chosen=True, logp=reply.logp[row, :length].tolist())
            conversation.truncated = tokens[-1] != END
            answer = conversation.hear(self.task, self.tokenizer, self.tokenizer.decode(tokens), last)
            reads.append([tokens[-1], *answer] if answer else [])
        return reads


def ragged(lists: Sequence[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as i32[rows, width], padded on the right, and their lengths i32[rows]."""
    out = np.full((len(lists), width), PAD, np.int32)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out, np.array([len(values) for values in lists], np.int32)
