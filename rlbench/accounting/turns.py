"""Turns of the threads of one process at its devices: whose turn it is computes, the others wait in order."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from ..interrupts import BEAT, UNINTERRUPTED


class Turns:
    """A semaphore: first come, first served.

    Args:
      at_once: threads that compute at the same time.
      clock: seconds; only differences count.
    """

    def __init__(self, at_once: int = 1, clock: Callable[[], float] = time.perf_counter):
        self.at_once, self._computing = at_once, 0
        self._clock, self._share, self._last = clock, 0.0, clock()
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._mine = threading.local()

    def share(self) -> float:
        """Seconds since the beginning, each divided by the turns that were taken in it: what one had of the devices."""
        with self._lock:
            return self._advance()

    def _advance(self) -> float:
        now = self._clock()
        self._share += (now - self._last) / max(self._computing, 1)
        self._last = now
        return self._share

    @contextlib.contextmanager
    def taken(self, waiting: Callable[[], contextlib.AbstractContextManager[None]]) -> Iterator[None]:
        """A block that is this thread's turn; inside one, it is already.

        Args:
          waiting: the context of a wait, where there is one.
        """
        if getattr(self._mine, "has", False):
            yield
            return
        self._take(waiting)
        self._mine.has = True
        try:
            yield
        finally:
            self._mine.has = False
            self._pass_on()

    def _take(self, waiting: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        with self._lock:
            if self._computing < self.at_once:
                self._advance()
                self._computing += 1
                return
            mine = threading.Event()
            self._queue.append(mine)
        try:
            with waiting():
                while not mine.wait(BEAT):
                    UNINTERRUPTED.heed()
        except BaseException:
            with self._lock:
                given = mine.is_set()
                if not given:
                    self._queue.remove(mine)
            if given:
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._advance()
                self._computing -= 1
