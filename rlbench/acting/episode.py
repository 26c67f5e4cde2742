"""Episodes while they are played: a state machine without input or output, kept as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ..accounting.account import Pass, attended
from ..accounting.tally import Tally
from ..checkpoint import Stateful
from ..models.prefix import Widths
from ..models.tokenizers import END, PAD
from ..types import SOLVED_ABOVE, Phase, Problem, Rollouts, Status, Step, Tokenizer


class SequenceLimits(NamedTuple):
    """Room for text, in tokens: what is known of shapes before a run."""

    prompt: int
    completion: int  # of one turn, the token that ends it included
    observation: int
    turns: int
    buckets: tuple[int, ...]  # row lengths of Rollouts, ascending; the last holds any episode
    continuation: int | None = None  # of all turns together, observations included; None: what they can have

    @property
    def episode(self) -> int:
        """The longest row: a prompt, its completions, and what the environment says between them."""
        return self.prompt + self.widths.continuation

    @property
    def widths(self) -> Widths:
        """Of the two parts of a row."""
        return Widths(self.prompt, min(self._all_turns, self.continuation or self._all_turns))

    @property
    def slots(self) -> int:
        """Room of a row in the cache, to which an observation is written in full width, padding too."""
        return self.prompt + min(self._all_turns, self.widths.continuation + self.observation)

    @property
    def _all_turns(self) -> int:
        return self.turns * self.completion + (self.turns - 1) * self.observation


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
    truncated: bool  # a completion reached its longest length without ending, or the episode did
    timed_out: bool  # a completion was not judged in time
    detail: str  # the reason of the status, for people
    labels: tuple[str, ...]  # facts about the episode


@dataclass(frozen=True, eq=False)
class Trajectories(Sequence[Trajectory]):
    """Records of n rollouts, column by column; one by one they are made where somebody reads them."""

    ids: np.ndarray  # i64[n]
    problem: np.ndarray  # object[n]
    prompt: np.ndarray  # object[n]
    completions: np.ndarray  # object[n, turns]  texts of completions; None of those that there were not
    reward: np.ndarray  # f64[n]
    solved: np.ndarray  # bool[n]  as the last step says, or else if rewards add up to 1
    status: np.ndarray  # object[n]
    detail: np.ndarray  # object[n]
    labels: np.ndarray  # object[n]  of the last step; None of an episode without a step
    tally: Tally

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        tally = self.tally
        return Trajectory(
            problem=self.problem[at],
            prompt=self.prompt[at],
            completions=tuple(text for text in self.completions[at] if text is not None),
            reward=float(self.reward[at]),
            solved=bool(self.solved[at]),
            status=self.status[at],
            prompt_tokens=int(tally.prompt[at]),
            completion_tokens=int(tally.completion[at]),
            observation_tokens=int(tally.environment[at]),
            truncated=bool(tally.truncated[at]),
            timed_out=bool(tally.timed_out[at]),
            detail=self.detail[at],
            labels=self.labels[at] or (),
        )

    @property
    def judged(self) -> np.ndarray:
        """bool[n]: those whose verifier did not break."""
        return ~self.tally.broke

    @classmethod
    def in_order(cls, parts: Sequence["Trajectories"]) -> "Trajectories":
        """All of these, in the order of their ids."""
        order = np.argsort(np.concatenate([part.ids for part in parts]))
        columns = zip(*(part._columns() for part in parts), strict=True)
        *own, tally = ([np.concatenate(pieces)[order] for pieces in zip(*each, strict=True)] for each in columns)
        values: Any = [*(column for (column,) in own), Tally(*tally)]
        return cls(*values)

    def _columns(self) -> list[tuple[np.ndarray, ...]]:
        values = [getattr(self, field.name) for field in fields(self)]
        return [value if isinstance(value, tuple) else (value,) for value in values]


class Passed(NamedTuple):
    """Tokens of each row that went through the network in one way, since it was last asked."""

    fed: np.ndarray  # i64[rows]
    seen: np.ndarray  # i64[rows]  tokens that they attend to
    read: np.ndarray  # i64[rows]  positions whose outputs were used
    cached: np.ndarray  # i64[rows]  tokens that the cache had already, and that were not read again

    @classmethod
    def blank(cls, rows: int) -> "Passed":
        return cls(*np.zeros((4, rows), np.int64))

    def add(
        self, rows: np.ndarray, fed: np.ndarray, before: np.ndarray, read: np.ndarray | int, continued: bool = False
    ) -> None:
        """`fed` tokens of each of some rows, all different, after `before` others.

        Args:
          continued: a turn begins, for which these others would be read again if the cache had not kept them.
        """
        self.fed[rows] += fed
        self.seen[rows] += attended(fed, before)
        self.read[rows] += read
        if continued:
            self.cached[rows] += before


class Episodes(Stateful):
    """Room for episodes, which grow in it token by token. Attempts at a problem are neighbours: a group.

    Args:
      groups: that there is room for.
    """

    # fmt: off
    STATE = (
        "ids", "seed", "prompts", "prompt_length", "tokens", "chosen", "logp", "reward", "version", "behind", "oldest",
        "over", "length", "turn", "completed", "states", "status", "detail", "solved", "labels", "completions",
        "truncated", "timed_out", "_prompt_counted", "_prompts", "_answers", "_decoded",
    )
    # fmt: on

    def __init__(self, groups: int, group_size: int, limits: SequenceLimits):
        rows = groups * group_size
        self.limits, self.group_size = limits, group_size
        self.ids = np.full(rows, -1)  # of rollouts; -1: the place is free
        self.seed, self.prompts = (np.full(groups, None, object) for _ in range(2))  # of the problems
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
        self.states, self.status, self.detail = (np.full(rows, None, object) for _ in range(3))
        self.solved, self.labels = (np.full(rows, None, object) for _ in range(2))
        self.completions = np.full((rows, limits.turns), None, object)  # texts of the completions
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
        self.seed[groups], self.prompts[groups] = [seed for seed, _ in problems], [one.prompt for _, one in problems]
        states = np.fromiter((problem.state for _, problem in problems), object, len(problems))
        self.states[rows] = np.repeat(states, self.group_size)
        self.status[rows], self.detail[rows], self.solved[rows], self.completions[rows] = Status.OPEN, "", None, None
        self.labels[rows] = None
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
        return self.prompts[row // self.group_size]

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
        self._answers.add(rows, length, self.length[rows] - length, 1, continued=True)

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
        last, turn = self.length[rows], self.turn[rows]
        size = self.completed[rows, turn]
        self.truncated[rows] |= self.tokens[rows, last - 1] != END
        place = np.minimum((last - size)[:, None] + np.arange(size.max(initial=0)), self.limits.episode - 1)
        tokens = self.tokens[rows[:, None], place].tolist()
        texts = [tokenizer.decode(text[:end]) for text, end in zip(tokens, size.tolist(), strict=True)]
        self.completions[rows, turn] = texts
        return texts

    def observe(self, rows: np.ndarray, steps: Sequence[Step], tokenizer: Tokenizer) -> list[tuple[int, list[int]]]:
        """Takes the environment's answers to completions of some episodes, all different.

        Returns what the episodes that go on read next: the last token of the completion, which nobody has read yet,
        and the answer's. The others are over, were in their last turn, or have no room for the answer and a token more.
        """
        columns = (np.fromiter(column, object, len(rows)) for column in zip(*steps, strict=True))
        self.states[rows], observation, reward, status, _, self.detail[rows], self.solved[rows], labels = columns
        self.labels[rows] = labels
        end = self.length[rows]
        self.status[rows] = status
        self.timed_out[rows] |= status == Status.TIMEOUT
        self.reward[rows, end - 1] += reward.astype(float)
        self.turn[rows] += 1
        goes_on = (self.turn[rows] < self.limits.turns) & (status == Status.OPEN) & (observation != None)  # noqa: E711
        self.over[rows[~goes_on]] = True
        answers = [(int(rows[one]), tokenizer.encode(observation[one])) for one in np.flatnonzero(goes_on)]
        cut = [row for row, answer in answers if len(answer) >= self.room(row)]
        self.over[cut] = self.truncated[cut] = True
        return [self._read(row, answer) for row, answer in answers if not self.over[row]]

    def room(self, rows: Any) -> Any:
        """Tokens that some episodes, or one, may still have."""
        return self.prompt_length[rows] + self.limits.widths.continuation - self.length[rows]

    def _read(self, row: int, answer: list[int]) -> tuple[int, list[int]]:
        end = self.length[row]
        self.tokens[row, end : end + len(answer)] = answer
        self.length[row] += len(answer)
        return row, [int(self.tokens[row, end - 1]), *answer]

    def demonstrate(self, row: int, completion: str, tokenizer: Tokenizer) -> None:
        """Appends a completion that somebody else wrote, ended as a policy would end it."""
        tokens = np.array([*tokenizer.encode(completion), END], np.int32)
        self.sampled(np.array([row]), tokens[None], np.zeros((1, len(tokens))), np.ones((1, len(tokens)), bool), 0)
        self.completions[row, self.turn[row]] = completion

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
        environment = length - prompt - completion
        broke = self.status[rows] == Status.INFRASTRUCTURE
        return Tally(prompt, completion, environment, length, self.truncated[rows], self.timed_out[rows], broke)

    def trajectories(self, rows: np.ndarray) -> Trajectories:
        """Records of some rows."""
        reward, solved = self.reward[rows].sum(axis=1), self.solved[rows]
        unknown = solved == None  # noqa: E711
        groups = rows // self.group_size
        return Trajectories(
            ids=self.ids[rows],
            problem=self.seed[groups],
            prompt=self.prompts[groups],
            completions=self.completions[rows],
            reward=reward,
            solved=np.where(unknown, reward > SOLVED_ABOVE, solved).astype(bool),
            status=self.status[rows],
            detail=self.detail[rows],
            labels=self.labels[rows],
            tally=self.tally(rows),
        )

    def rollouts(self, rows: np.ndarray) -> Rollouts:
        """Episodes as right-padded arrays of the smallest bucket that holds them all. -1 is a masked row.

        An episode whose verifier broke keeps its tokens and loses its mask: it is an invalid sample. Rows of a group
        stay one; a padding row is a group of its own.
        """
        there = rows >= 0
        longest = self.length[rows[there]].max(initial=0)
        size = next(bucket for bucket in self.limits.buckets if bucket >= longest)
        valid = there & (self.status[rows] != Status.INFRASTRUCTURE)
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
    fed, seen, outputs, cached = (column[rows] for column in passed)
    for column in passed:
        column[rows] = 0
    return Pass(phase, int(fed.sum()), fed, seen, outputs, copies, cached=int(cached.sum()))


def ragged(lists: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as i32[rows, width], padded on the right, and their lengths i32[rows]."""
    out = np.full((len(lists), width), PAD, np.int32)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out, np.array([len(values) for values in lists], np.int32)
