"""Episodes while they are played: a state machine without input or output, kept as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..accounting.account import Pass, attended
from ..accounting.tally import Tally
from ..models.prefix import Widths
from ..models.tokenizers import END, PAD
from ..types import SOLVED_ABOVE, Phase, Problem, Rollouts, Status, Step, Tokenizer

NOBODY = Problem("", None)


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
        return self.prompt + self.widths.continuation

    @property
    def widths(self) -> Widths:
        """Of the two parts of a row."""
        return Widths(self.prompt, self.turns * self.completion + (self.turns - 1) * self.observation)


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


class Passed(NamedTuple):
    """Tokens of each row that went through the network in one way, since it was last asked."""

    fed: np.ndarray  # i64[rows]
    seen: np.ndarray  # i64[rows]  tokens that they attend to
    read: np.ndarray  # i64[rows]  positions whose outputs were used

    @classmethod
    def blank(cls, rows: int) -> "Passed":
        return cls(*np.zeros((3, rows), np.int64))

    def add(self, rows: np.ndarray, fed: np.ndarray, before: np.ndarray, read: np.ndarray | int) -> None:
        """`fed` tokens of each of some rows, all different, after `before` others."""
        self.fed[rows] += fed
        self.seen[rows] += attended(fed, before)
        self.read[rows] += read


class Episodes:
    """Room for episodes, which grow in it token by token. Attempts at a problem are neighbours: a group.

    Args:
      groups: that there is room for.
    """

    def __init__(self, groups: int, group_size: int, limits: SequenceLimits):
        rows = groups * group_size
        self.limits, self.group_size = limits, group_size
        self.ids = np.full(rows, -1)  # of rollouts; -1: the place is free
        self.seed, self.problems = [0] * groups, [NOBODY] * groups
        self.prompt_length = np.zeros(rows, np.int64)
        self.tokens = np.full((rows, limits.episode), PAD, np.int32)
        self.chosen = np.zeros(self.tokens.shape, bool)
        self.logp = np.zeros(self.tokens.shape, np.float32)
        self.reward = np.zeros(self.tokens.shape)
        self.version = np.zeros(self.tokens.shape, np.int32)  # of the weights
        self.behind = np.zeros(self.tokens.shape, np.int32)  # learner steps by which they were old when they were used
        self.oldest = np.full(rows, -1)  # version of the weights that the episode began with; -1: it did not begin
        self.over = np.zeros(rows, bool)
        self.length = np.zeros(rows, np.int64)  # tokens so far
        self.turn = np.zeros(rows, np.int64)  # completions that were judged
        self.completed = np.zeros((rows, limits.turns), np.int64)  # tokens of each turn's completion
        self.states: list[object] = [None] * rows
        self.completions: list[list[str]] = [[] for _ in range(rows)]
        self.status, self.detail = [Status.OPEN] * rows, [""] * rows
        self.solved: list[bool | None] = [None] * rows
        self.truncated, self.timed_out = np.zeros((2, rows), bool)
        self._prompt_counted = np.zeros(groups, bool)
        self._prompts, self._answers, self._decoded = Passed.blank(groups), Passed.blank(rows), Passed.blank(rows)

    def open(
        self,
        groups: np.ndarray,
        problems: Sequence[tuple[int, Problem]],
        prompts: tuple[np.ndarray, np.ndarray],
        first_id: int,
    ) -> np.ndarray:
        """Gives free places to attempts at problems, whose ids count up. Returns their rows.

        Args:
          problems: with their seeds.
          prompts: i32[P, S] and their lengths, as of `ragged`.
        """
        tokens, length = prompts
        rows = self.rows_of(groups)
        self.ids[rows] = first_id + np.arange(len(rows))
        for group, (seed, problem) in zip(groups.tolist(), problems, strict=True):
            self.seed[group], self.problems[group] = seed, problem
        for row in rows.tolist():
            self.states[row] = self.problems[row // self.group_size].state
            self.completions[row] = []
            self.status[row], self.detail[row], self.solved[row] = Status.OPEN, "", None
        self.tokens[rows], self.chosen[rows], self.oldest[rows] = PAD, False, -1
        for column in (self.logp, self.reward, self.behind, self.turn, self.completed):
            column[rows] = 0
        for flags in (self.over, self.truncated, self.timed_out):
            flags[rows] = False
        self._prompt_counted[groups] = False
        self.tokens[rows, : tokens.shape[1]] = np.repeat(tokens, self.group_size, axis=0)
        self.length[rows] = self.prompt_length[rows] = np.repeat(length, self.group_size)
        return rows

    def close(self, rows: np.ndarray) -> None:
        """Frees the places of whole groups."""
        self.ids[rows] = -1

    def rows_of(self, groups: np.ndarray) -> np.ndarray:
        """Rows of groups."""
        return (groups[:, None] * self.group_size + np.arange(self.group_size)).ravel()

    def prompt(self, row: int) -> str:
        """Text of the problem of an episode."""
        return self.problems[row // self.group_size].prompt

    def prompts_read(self, groups: np.ndarray) -> None:
        """The network has read the prompts of groups. To read one again, for other weights, is nobody's need."""
        groups = groups[~self._prompt_counted[groups]]
        self._prompt_counted[groups] = True
        fed = self.prompt_length[groups * self.group_size]
        self._prompts.add(groups, fed, np.zeros_like(fed), 1)

    def begin(self, rows: np.ndarray, version: int) -> None:
        """Episodes begin with weights of this version."""
        self.version[rows] = version
        self.oldest[rows] = version

    def answers_read(self, rows: np.ndarray, length: np.ndarray) -> None:
        """The network has read the last tokens of episodes, so many of each."""
        self._answers.add(rows, length, self.length[rows] - length, 1)

    def sampled(
        self, rows: np.ndarray, tokens: np.ndarray, logp: np.ndarray, there: np.ndarray, version: int, behind: int = 0
    ) -> None:
        """Appends sampled tokens [n, k] to some episodes, all different.

        Args:
          there: bool[n, k], which of them there are; column 0 has first tokens of completions, which no decoding chose.
        """
        count = there.sum(axis=1)
        row = np.repeat(rows, count)
        ahead = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)  # of each token, in its own episode
        place = self.length[row] + ahead
        self.tokens[row, place] = tokens[there]
        self.logp[row, place] = logp[there]
        self.chosen[row, place] = True
        self.version[row, place], self.behind[row, place] = version, behind
        self.length[rows] += count
        self.completed[rows, self.turn[rows]] += count
        passed = count - there[:, 0]
        self._decoded.add(rows, passed, self.length[rows] - 1 - passed, passed)

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
        answer's. Nothing where it is over, or was in its last turn.
        """
        self.states[row], self.status[row], self.detail[row] = step.state, step.status, step.detail
        self.solved[row] = step.solved
        self.timed_out[row] |= step.status == Status.TIMEOUT
        end = self.length[row]
        self.reward[row, end - 1] += step.reward
        self.turn[row] += 1
        if self.turn[row] == self.limits.turns or step.next_observation is None:
            self.over[row] = True
            return []
        answer = tokenizer.encode(step.next_observation)
        self.tokens[row, end : end + len(answer)] = answer
        self.length[row] += len(answer)
        return [int(self.tokens[row, end - 1]), *answer]

    def demonstrate(self, row: int, completion: str, tokenizer: Tokenizer) -> None:
        """Appends a completion that somebody else wrote, ended as a policy would end it."""
        tokens = np.array([*tokenizer.encode(completion), END], np.int32)
        self.sampled(np.array([row]), tokens[None], np.zeros((1, len(tokens))), np.ones((1, len(tokens)), bool), 0)
        self.completions[row].append(completion)

    def passes(self, groups: np.ndarray, read: int, decoded: int) -> list[Pass]:
        """Passes of groups through the network since this was asked last.

        Args:
          read: token positions that were computed to read prompts and observations, padding too.
          decoded: token positions that were computed to sample.
        """
        rows = self.rows_of(groups)
        answers = _taken(self._answers, Phase.PREFILL, rows)
        prompts = _taken(self._prompts, Phase.PREFILL, groups, copies=self.group_size)  # read once for all of a group
        decodes = _taken(self._decoded, Phase.DECODE, rows)
        passes = [prompts._replace(slots=read - answers.slots), answers, decodes._replace(slots=decoded)]
        return [one for one in passes if one.slots]

    def tally(self, rows: np.ndarray) -> Tally:
        """Rows in the ledger's terms."""
        prompt, length, completion = self.prompt_length[rows], self.length[rows], self.completed[rows].sum(axis=1)
        broke = np.array([self.status[row] == Status.INFRASTRUCTURE for row in rows.tolist()], bool)
        environment = length - prompt - completion
        return Tally(prompt, completion, environment, length, self.truncated[rows], self.timed_out[rows], broke)

    def trajectories(self, rows: np.ndarray) -> list[Trajectory]:
        """Records of some rows."""
        completion = self.completed[rows].sum(axis=1)
        columns = (
            self.reward[rows].sum(axis=1),
            self.prompt_length[rows],
            completion,
            self.length[rows] - self.prompt_length[rows] - completion,
            self.truncated[rows],
            self.timed_out[rows],
        )
        return [
            Trajectory(
                *(self.seed[row // self.group_size], self.prompt(row), tuple(self.completions[row])),
                *(reward, self._is_solved(row, reward), self.status[row], *numbers, self.detail[row]),
            )
            for row, reward, *numbers in zip(rows.tolist(), *(column.tolist() for column in columns), strict=True)
        ]

    def _is_solved(self, row: int, reward: float) -> bool:
        """True if the last step says so, or says nothing and the rewards add up to full reward, which is 1."""
        said = self.solved[row]
        return reward > SOLVED_ABOVE if said is None else said

    def rollouts(self, rows: np.ndarray) -> Rollouts:
        """Episodes as right-padded arrays of the smallest bucket that holds them all. -1 is a masked row.

        An episode whose verifier broke keeps its tokens and loses its mask: it is an invalid sample. Rows of a group
        stay one; a padding row is a group of its own.
        """
        there = rows >= 0
        longest = self.length[rows[there]].max(initial=0)
        size = next(bucket for bucket in self.limits.buckets if bucket >= longest)
        valid = np.array([row >= 0 and self.status[row] != Status.INFRASTRUCTURE for row in rows.tolist()])
        group = np.where(there, rows // self.group_size, len(self.ids) + np.arange(len(rows)))
        heads = np.append(True, group[1:] != group[:-1])  # attempts at a problem come one after the other

        def column(values: np.ndarray, padding: int | bool) -> np.ndarray:
            return np.where(there[:, None], values[rows, :size], padding)

        return Rollouts(
            tokens=column(self.tokens, PAD).astype(np.int32),
            mask=column(self.chosen, False) & valid[:, None],
            logp=column(self.logp, 0).astype(np.float32),
            reward=column(self.reward, 0).astype(np.float32),
            group=(np.cumsum(heads) - 1).astype(np.int32),
            version=column(self.version, 0).astype(np.int32),
        )


def _taken(passed: Passed, phase: Phase, rows: np.ndarray, copies: int = 1) -> Pass:
    """The tokens of some rows that went through, in as many slots; from now on none."""
    fed, seen, outputs = (column[rows] for column in passed)
    for column in passed:
        column[rows] = 0
    return Pass(phase, int(fed.sum()), fed, seen, outputs, copies)


def ragged(lists: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as i32[rows, width], padded on the right, and their lengths i32[rows]."""
    out = np.full((len(lists), width), PAD, np.int32)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out, np.array([len(values) for values in lists], np.int32)
