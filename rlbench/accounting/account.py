"""The account of one thread: what its programs cost and what went through them, until the ledger takes it."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..checkpoint import Stateful
from .flops import Flops, Work
from .shared import Shared
from .timeline import Activity, Timeline


class Pass(NamedTuple):
    """Sequences that went through a network: what was room, and what was text.

    Shared sequences come once; row b of a batch then belongs to sequence b // copies.
    """

    phase: str
    slots: int  # token positions computed, padding too
    fed: np.ndarray  # i64[sequences]  of them, the real tokens of each sequence
    seen: np.ndarray  # i64[sequences]  tokens that these attend to, themselves included, added up: `attended`
    read: np.ndarray | int  # positions of each whose outputs were used
    copies: int = 1  # rows that share a sequence
    times: int = 1  # the same sequences went through
    cached: int = 0  # tokens that turns found in the cache, and would have read again without it


class Room(NamedTuple):
    """Token positions that go through a network for rows of a batch, padding too."""

    prompt: int  # of every group; 0 where rows are read as they are
    rest: int  # of every row
    group: int = 1  # rows that share a prompt


def attended(fed: np.ndarray, before: np.ndarray | int = 0) -> np.ndarray:
    """Tokens that `fed` tokens after `before` others attend to, added up."""
    return fed * (2 * before + fed + 1) // 2


class Verification(NamedTuple):
    """Cost of judging completions."""

    calls: int = 0
    programs: int = 0  # that were run for them
    repeated: int = 0  # calls that took the verdict of an identical program
    cpu_seconds: float = 0.0  # of the judging thread and of its children, not of waiting
    wall_seconds: float = 0.0  # during which the caller waited for verdicts
    queue_seconds: float = 0.0  # that completions waited for a free worker, added up
    timeouts: int = 0

    def plus(self, other: "Verification") -> "Verification":
        return Verification._make(a + b for a, b in zip(self, other, strict=True))


NOTHING = Verification()


class Spent(NamedTuple):
    """Work taken from an account."""

    flops: Flops
    passes: tuple[Pass, ...]
    verification: Verification


class Account(Stateful):
    """Collects what the programs and the host code of one thread report.

    Args:
      timeline: where the thread's states are added up; by default nowhere that is looked at.
      role: the thread's name there.
      computing: what it is called there that its programs run.
      shared: by runs of one process, which compute in turn.
    """

    STATE = ("temporaries", "uncounted", "_runs", "_passes", "_verification")

    def __init__(
        self,
        timeline: Timeline | None = None,
        role: str = "learner",
        computing: Activity = Activity.COMPUTING,
        shared: Shared | None = None,
    ):
        self.timeline, self.role, self.computing, self.shared = timeline or Timeline(), role, computing, shared
        self.temporaries: dict[str, int] = {}  # bytes of each compiled program, the most of its shapes
        self.uncounted: set[str] = set()
        self._runs: list[tuple[Work, Sequence[Any]]] = []
        self._passes: list[Pass] = []
        self._verification = NOTHING

    def during(self, doing: Activity) -> contextlib.AbstractContextManager[None]:
        """The thread does this within the block; computing waits for its turn."""
        if doing == Activity.COMPUTING:
            return self._computing() if self.shared else self.timeline.during(self.role, self.computing)
        return self.timeline.during(self.role, doing)

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        assert self.shared
        with (
            self.shared.turns.taken(lambda: self.timeline.during(self.role, Activity.QUEUEING)),
            self.timeline.during(self.role, self.computing),
        ):
            yield

    def compiled(self, name: str, work: Work, temporaries: int) -> None:
        """A program was compiled, which needs so many bytes beside its arguments and results."""
        self.temporaries[name] = max(temporaries, self.temporaries.get(name, 0))
        self.uncounted |= {f"{name}: {what}" for what in work.uncounted}

    def ran(self, work: Work, iterations: Sequence[Any]) -> None:
        """A program ran; iterations are i32[] on the device, of the loops whose length only the run knows."""
        self._runs.append((work, iterations))

    def passed(self, one: Pass) -> None:
        """Sequences went through a network."""
        self._passes.append(one)

    def judged(self, verification: Verification) -> None:
        """Completions were judged."""
        self._verification = self._verification.plus(verification)

    def take(self) -> Spent:
        """Everything reported since the last time. Waits for the programs that ran."""
        flops: Flops = Counter()
        for work, iterations in self._runs:
            work.add_to(flops, [int(times) for times in iterations])
        spent = Spent(flops, tuple(self._passes), self._verification)
        self._runs, self._passes, self._verification = [], [], NOTHING
        return spent
