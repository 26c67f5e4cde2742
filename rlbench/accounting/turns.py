"""Turns of the threads of one process at its devices: whose turn it is computes, the others wait in order."""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator

from ..interrupts import BEAT, UNINTERRUPTED


class Turns:
    """A lock: first come, first served.

    Several runs in one process would otherwise compute at once, and nobody could say whose seconds those were.
    """

    def __init__(self) -> None:
        self._free = True
        self._lock = threading.Lock()
        self._queue: deque[threading.Event] = deque()
        self._mine = threading.local()

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
            if self._free:
                self._free = False
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
                self._free = True
