"""The record of what chance decided in an asynchronous run: arrivals.jsonl, by which it can be run again.

One line a cycle of the actor: the version of the newest weights, and the ids of the rollouts whose answers came.
Admissions, batches and what is dropped follow from these.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np

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
    """

    def __init__(self, folder: Path, terms: dict[str, Any]):
        self._file = (folder / NAME).open("w")
        self._write(terms)

    def note(self, cycle: Cycle) -> None:
        """Adds a line."""
        self._write({"version": cycle.version, "arrived": spans(cycle.arrived)})

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


class Replay:
    """Cycles of a run that is run again, in order.

    Raises:
      ConfigError: the file is no such record, or of a run that differs, or ends too early.
    """

    def __init__(self, path: Path, terms: dict[str, Any]):
        self.path = path
        self._lines = self._read()
        recorded = next(self._lines, {})
        for name in terms:
            if recorded.get(name) != terms[name]:
                self._refuse(f"a record of a run with {name}={terms[name]}, not {recorded.get(name)}")

    def next(self) -> Cycle:
        """Findings of the next cycle."""
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
