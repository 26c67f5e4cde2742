"""Ctrl-C, held back while something is written that has to be whole."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType


class Interrupts:
    """A context within which the main thread is not interrupted; what came meanwhile interrupts it at the end.

    Where it is not `installed`, or in another thread, where no interrupt arrives, it does nothing.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._pending = self._delivered = False
        self._main = threading.main_thread().ident

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Takes over SIGINT within the block, if it is entered in the main thread.

        It interrupts once. An impatient second one would cost what the first one lets be written.
        """
        if threading.get_ident() != self._main:
            yield
            return
        self._pending = self._delivered = False
        before = signal.signal(signal.SIGINT, self._arrived)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._delivered:
            return
        self._pending = True
        if self._depth == 0:
            self._deliver()

    def _deliver(self) -> None:
        self._pending, self._delivered = False, True
        raise KeyboardInterrupt

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if threading.get_ident() == self._main:
            self._depth -= 1
            if self._depth == 0 and self._pending:
                self._deliver()


UNINTERRUPTED = Interrupts()
