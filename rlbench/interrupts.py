"""Ctrl-C, held back while something is written that has to be whole."""

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """A context within which the main thread is not interrupted; what came meanwhile interrupts it at the end.

    Without `install`, or in another thread, where no interrupt arrives, it does nothing.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._pending = False
        self._main = threading.main_thread().ident

    def install(self) -> None:
        """Takes over SIGINT, which is one for the whole process."""
        signal.signal(signal.SIGINT, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._depth == 0:
            raise KeyboardInterrupt
        self._pending = True

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._depth += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if threading.get_ident() == self._main:
            self._depth -= 1
            if self._depth == 0 and self._pending:
                self._pending = False
                raise KeyboardInterrupt


UNINTERRUPTED = Interrupts()
