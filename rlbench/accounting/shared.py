"""The common parts of the runs of one process: turns at the devices, compiled programs, the room in memory."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ..interrupts import BEAT, UNINTERRUPTED
from .turns import Turns

FILLED = 0.9  # share of the free memory that runs may take


class Shared:
    """The process of some runs that differ in nothing but their seed.

    Args:
      at_once: threads that compute at the same time.
    """

    def __init__(self, at_once: int = 1):
        self.turns = Turns(at_once)
        self.peak = 0  # bytes of a device that all took together
        self.starts: int | None = None  # runs that may make their starts at once, after the first
        self.fits: int | None = None  # runs that there is memory for afterwards, once the first has its programs
        self._inside = 0
        self._changed = threading.Condition()
        self._programs: dict[str, dict[Any, Any]] = {}

    def programs(self, role: str) -> dict[Any, Any]:
        """Compiled programs of a part of a run, by what they are for."""
        with self._changed:
            return self._programs.setdefault(role, {})

    def made_start(self, peak: int, free: int) -> None:
        """A run has made its start.

        Args:
          peak: bytes that it took, at the most.
          free: bytes that are left, of a device or of the machine.
        """
        with self._changed:
            if self.starts is None:
                self.starts = 1 + int(FILLED * free / max(peak, 1))

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """A block of a run that has its start, and now takes the memory that it needs: one run, until that is known."""
        with self._changed:
            while self._inside >= (self.fits or 1):
                self._changed.wait(BEAT)
                UNINTERRUPTED.heed()
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def ready(self, own: int, temporaries: int, free: int) -> None:
        """A run is about to take its first step.

        Args:
          own: bytes that it takes.
          temporaries: bytes of the program that needs most, while it runs.
          free: bytes that are left, of a device or of the machine, beside this run.
        """
        with self._changed:
            if self.fits is None:
                others = (FILLED * free - self.turns.at_once * temporaries) / max(own, 1)
                self.fits = 1 + max(int(others), 0)
                self._changed.notify_all()
