"""The common parts of the runs of one process: turns at the devices, compiled programs, the room in memory."""

import threading
from typing import Any

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
        self.fits: int | None = None  # runs that there is memory for, once the first has its programs
        self._lock = threading.Lock()
        self._programs: dict[str, dict[Any, Any]] = {}

    def programs(self, role: str) -> dict[Any, Any]:
        """Compiled programs of a part of a run, by what they are for."""
        with self._lock:
            return self._programs.setdefault(role, {})

    def ready(self, own: int, temporaries: int, free: int) -> None:
        """A run is about to take its first step.

        Args:
          own: bytes that it takes.
          temporaries: bytes of the program that needs most, while it runs.
          free: bytes that are left, of a device or of the machine, beside this run.
        """
        with self._lock:
            if self.fits is None:
                others = (FILLED * free - self.turns.at_once * temporaries) / max(own, 1)
                self.fits = 1 + max(int(others), 0)
