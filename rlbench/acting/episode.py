"""Episodes while they are played: a state machine without input or output, kept as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..accounting.account import Pass
from ..models.tokenizers import END, PAD
from ..types import SOLVED_ABOVE, Phase, Problem, Rollouts, Status, Step, Tokenizer


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
    solved: bool
    status: Status
    prompt_tokens: int
    completion_tokens: int
    observation_tokens: int
    truncated: bool  # a completion reached its longest length without ending
    timed_out: bool  # a completion was not judged in time
    detail: str  # the reason of the status, for people


class Episodes:
    """Attempts at problems, `group_size` at each, as they grow token by token.

    Args:
      problems: with their numbers.
      prompts: i32[P, S] and their lengths, as of `ragged`.
    """

    def __init__(
        self,
        problems: Sequence[tuple[int, Problem]],
        prompts: tuple[np.ndarray, np.ndarray],
        group_size: int,
        limits: SequenceLimits,
    ):
        tokens, length = prompts
        rows = len(problems) * group_size
        self.limits, self.group_size = limits, group_size
        self.problems = problems
        self.prompt_length = np.repeat(length.astype(np.int64), group_size)
        self.tokens = np.full((rows, limits.episode), PAD, np.int32)
        self.tokens[:, : limits.prompt] = np.repeat(tokens, group_size, axis=0)
        self.chosen = np.zeros(self.tokens.shape, bool)
        self.logp = np.zeros(self.tokens.shape, np.float32)
        self.reward = np.zeros(self.tokens.shape)
        self.length = self.prompt_length.copy()  # tokens so far
        self.turn = np.zeros(rows, np.int64)  # completions that were judged
        self.observed = np.zeros((rows, limits.turns), np.int64)  # tokens of the environment before each turn
        self.completed = np.zeros((rows, limits.turns), np.int64)  # tokens of each turn's completion
        self.states = [problem.state for _, problem in problems for _ in range(group_size)]
        self.completions: list[list[str]] = [[] for _ in range(rows)]
        self.status, self.detail = [Status.OPEN] * rows, [""] * rows
        self.solved: list[bool | None] = [None] * rows
        self.truncated, self.timed_out = np.zeros((2, rows), bool)

    def prompt(self, row: int) -> str:
        """Text of the problem of an episode."""
        return self.problems[row // self.group_size][1].prompt

    def sampled(self, rows: np.ndarray, tokens: np.ndarray, logp: np.ndarray, there: np.ndarray) -> None:
        """Appends sampled tokens [n, k] to some episodes, all different.

        Args:
          there: bool[n, k], which of them there are.
        """
        count = there.sum(axis=1)
        row = np.repeat(rows, count)
        ahead = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)  # of each token, in its own episode
        place = self.length[row] + ahead
        self.tokens[row, place] = tokens[there]
        self.logp[row, place] = logp[there]
        self.chosen[row, place] = True
        self.length[rows] += count
        self.completed[rows, self.turn[rows]] += count

    def complete(self, rows: np.ndarray, tokenizer: Tokenizer) -> list[str]:
        """Texts of the completions that some episodes have just ended."""
        last = self.length[rows]
        first = last - self.completed[rows, self.turn[rows]]
        self.truncated[rows] |= self.tokens[rows, last - 1] != END
        texts = []
        for row, begin, end in zip(rows.tolist(), first.tolist(), last.tolist(), strict=True):
            texts.append(tokenizer.decode(self.tokens[row, begin:end].tolist()))
            self.completions[row].append(texts[-1])
        return texts

    def observe(self, row: int, step: Step, tokenizer: Tokenizer) -> list[int]:
        """Takes the environment's answer to a completion.

        Returns what the episode reads next: the last token of the completion, which nobody has read yet, and the
        answer's. None where it is over, or was in its last turn.
        """
        self.states[row], self.status[row], self.detail[row] = step.state, step.status, step.detail
        self.solved[row] = step.solved
        self.timed_out[row] |= step.status == Status.TIMEOUT
        end = self.length[row]
        self.reward[row, end - 1] += step.reward
        self.turn[row] += 1
        if self.turn[row] == self.limits.turns or step.next_observation is None:
            return []
        answer = tokenizer.encode(step.next_observation)
        self.tokens[row, end : end + len(answer)] = answer
        self.length[row] += len(answer)
        self.observed[row, self.turn[row]] = len(answer)
        return [int(self.tokens[row, end - 1]), *answer]

    def demonstrate(self, row: int, completion: str, tokenizer: Tokenizer) -> None:
        """Appends a completion that somebody else wrote, ended as a policy would end it."""
        tokens = np.array([*tokenizer.encode(completion), END], np.int32)
        self.sampled(np.array([row]), tokens[None], np.zeros((1, len(tokens))), np.ones((1, len(tokens)), bool))
        self.completions[row].append(completion)

    def passes(self, read: int, decoded: int) -> list[Pass]:
        """Passes through the network of all episodes, turn by turn.

        Args:
          read: token positions that were computed to read prompts and observations, padding too.
          decoded: token positions that were computed to sample.
        """
        prefills, decodes = [], []
        before = np.zeros_like(self.length)
        for turn in range(self.limits.turns):
            played = self.completed[:, turn] > 0
            if turn == 0:
                own = slice(None, None, self.group_size)  # a prompt is read once for its group
                fed = self.prompt_length
                prefills.append(Pass(Phase.PREFILL, 0, fed[own], 0, fed[own] > 0, self.group_size))
            else:
                fed = np.where(played, 1 + self.observed[:, turn], 0)
                prefills.append(Pass(Phase.PREFILL, 0, fed, before, fed > 0))
            back = np.where(played, self.completed[:, turn] - 1, 0)  # the last token is read in the next turn
            decodes.append(Pass(Phase.DECODE, 0, back, before + fed, back))
            before = before + fed + back
        return [*with_slots(prefills, read), *with_slots(decodes, decoded)]

    def trajectories(self) -> list[Trajectory]:
        completion = self.completed.sum(axis=1)
        columns = (
            self.reward.sum(axis=1),
            self.prompt_length,
            completion,
            self.length - self.prompt_length - completion,
            self.truncated,
            self.timed_out,
        )
        return [
            Trajectory(
                *(self.problems[row // self.group_size][0], self.prompt(row), tuple(self.completions[row])),
                *(reward, self._is_solved(row, reward), self.status[row], *numbers, self.detail[row]),
            )
            for row, (reward, *numbers) in enumerate(zip(*(column.tolist() for column in columns), strict=True))
        ]

    def _is_solved(self, row: int, reward: float) -> bool:
        """True if the last step says so, or says nothing and the rewards add up to full reward, which is 1."""
        said = self.solved[row]
        return reward > SOLVED_ABOVE if said is None else said

    def rollouts(self, version: int) -> Rollouts:
        """The episodes as right-padded arrays of the smallest bucket that holds them all.

        An episode whose verifier broke keeps its tokens and loses its mask: it is an invalid sample.
        """
        longest = self.length.max()
        size = next(bucket for bucket in self.limits.buckets if bucket >= longest)
        broke = np.array([status == Status.INFRASTRUCTURE for status in self.status])
        return Rollouts(
            tokens=self.tokens[:, :size],
            mask=self.chosen[:, :size] & ~broke[:, None],
            logp=self.logp[:, :size],
            reward=self.reward[:, :size].astype(np.float32),
            group=np.arange(len(self.length), dtype=np.int32) // self.group_size,
            version=np.full((len(self.length), size), version, np.int32),
        )


def with_slots(passes: Sequence[Pass], slots: int) -> list[Pass]:
    """Passes with the token positions that they took together: each as many as it has tokens, the first all others."""
    sizes = [int(one.fed.sum()) for one in passes]
    spare = slots - sum(sizes)
    return [
        one._replace(slots=size + spare * (i == 0)) for i, (one, size) in enumerate(zip(passes, sizes, strict=True))
    ]


def ragged(lists: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as i32[rows, width], padded on the right, and their lengths i32[rows]."""
    out = np.full((len(lists), width), PAD, np.int32)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out, np.array([len(values) for values in lists], np.int32)
