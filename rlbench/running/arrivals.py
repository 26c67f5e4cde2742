"""The record of what chance decided in an asynchronous run: arrivals.jsonl, by which it can be run again.

One line a cycle of the actor: the version of the newest weights, and the ids of the rollouts whose answers came.
Admissions, batches and what is dropped follow from these.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..checkpoint import add, open_at, size_of
from ..types import ConfigError

NAME = "arrivals.jsonl"


class Cycle(NamedTuple):
    """Findings of one cycle of the actor."""

    version: int  # of the newest weights
    arrived: np.ndarray  # i64[n]  ids of rollouts, ascending


class Recording:
    """Writes arrivals.jsonl while a run goes on.

    Args:
      terms: what a run has to have in common with this one for the record to be of use to it.
      size: bytes of a record that is gone on with; 0 is a new one.
    """

    def __init__(self, folder: Path, terms: dict[str, Any], size: int = 0):
        self._file = open_at(folder / NAME, size)
        if not size:
            self._write(terms)

    @property
    def size(self) -> int:
        """Bytes so far, which are on the disk then."""
        return size_of(self._file)

    def note(self, cycle: Cycle) -> None:
        """Adds a line."""
        self._write({"version": cycle.version, "arrived": spans(cycle.arrived)})

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of what could not be written before
            self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        add(self._file, json.dumps(line, separators=(",", ":")) + "\n")


class Replay:
    """Cycles of a run that is run again, in order.

    Raises:
      ConfigError: the file is no such record, or of a run that differs, or ends too early.

    Args:
      skip: cycles that were run again before.
    """

    def __init__(self, path: Path, terms: dict[str, Any], skip: int = 0):
        self.path = path
        self._lines = self._read()
        recorded = next(self._lines, {})
        for name in terms:
            if recorded.get(name) != terms[name]:
                self._refuse(f"a record of a run with {name}={terms[name]}, not {recorded.get(name)}")
        self.taken = 0  # cycles
        self._ahead: Cycle | None = None
        for _ in range(skip):
            self.next()

    def peek(self) -> Cycle:
        """Findings of the next cycle, which stays the next."""
        self._ahead = self._ahead or self._read_next()
        return self._ahead

    def next(self) -> Cycle:
        """Findings of the next cycle."""
        cycle, self._ahead = self.peek(), None
        self.taken += 1
        return cycle

    def _read_next(self) -> Cycle:
        line = next(self._lines, None)
        if line is None:
            self._refuse("a record of a run that is as long as this one")
        try:
            ids = [one for first, last in line["arrived"] for one in range(first, last)]
            return Cycle(int(line["version"]), np.array(ids, np.int64))
        except (KeyError, TypeError, ValueError) as error:
            self._refuse(f"a file that a run wrote: {error!r}")

    def _read(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open() as file:
                for text in file:
                    yield dict(json.loads(text))
        except (OSError, TypeError, ValueError) as error:
            self._refuse(f"a file that a run wrote: {error}")

    def _refuse(self, wanted: str) -> NoReturn:
        raise ConfigError("runner.replay", self.path, wanted)


def spans(ids: np.ndarray) -> list[list[int]]:
    """Ascending numbers as [first, last + 1] of each stretch without a gap."""
    parts = np.split(ids, np.flatnonzero(np.diff(ids) != 1) + 1)
    return [[int(part[0]), int(part[-1]) + 1] for part in parts if len(part)]
