"""Ctrl-C: held back while something is written that has to be whole, and waiting for nothing else."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
PATIENCE = 0.5  # seconds that a run waits, after Ctrl-C, for a thread to end by itself


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
            self._delivered = False

    @property
    def came(self) -> bool:
        """True if the block that is installed was interrupted."""
        return self._delivered

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


class Stopped(RuntimeError):
    """A thread gave up, since the run that it worked for is over."""


LEFT: list[threading.Thread] = []  # that nobody waits for any more; they end with the process, if not before


def patiently(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function that may stay in native code for long, such as a compiler.

    Python handles no signal in the meantime. So the main thread has another one call it, and Ctrl-C leaves that
    one behind. After Ctrl-C nothing is called any more.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    if UNINTERRUPTED.came:  # and was lost: native code that looks for an attribute drops whatever is raised there
        raise KeyboardInterrupt
    result: Future[T] = Future()

    def call() -> None:
        try:
            result.set_result(function(*arguments))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=call, name=getattr(function, "__name__", None), daemon=True)
    try:
        thread.start()
        return result.result()
    except KeyboardInterrupt:
        LEFT.append(thread)
        raise


def end_process(status: int) -> NoReturn:
    """Ends the process, at once where a thread was left behind: Python's own end might crash with it."""
    if any(thread.is_alive() for thread in LEFT):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)
    sys.exit(status)
