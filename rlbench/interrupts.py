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


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the machine is wanted for something else."""


class Interrupts:
    """A context within which the main thread is not interrupted; what came meanwhile interrupts it at the end.

    Where it is not `installed`, or in another thread, where no interrupt arrives, it does nothing.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._pending = self._delivered = False
        self._error: type[KeyboardInterrupt] = KeyboardInterrupt
        self._main = threading.main_thread().ident
        self.terminating = self._graceful = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Takes over SIGINT and SIGTERM within the block, if it is entered in the main thread.

        They interrupt once. An impatient second one would cost what the first one lets be written.
        """
        if threading.get_ident() != self._main:
            yield
            return
        self._pending = self._delivered = self.terminating = False
        before = {number: signal.signal(number, self._arrived) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._delivered = False

    @contextlib.contextmanager
    def graceful(self) -> Iterator[None]:
        """A block that SIGTERM does not interrupt: it looks at `terminating` now and then, and calls `terminate`."""
        self._graceful = True
        try:
            yield
        finally:
            self._graceful = False

    def terminate(self) -> NoReturn:
        """Ends what SIGTERM has to end."""
        self._error = Terminated
        self._deliver()

    @property
    def came(self) -> bool:
        """True if the block that is installed was interrupted."""
        return self._delivered

    def again(self) -> NoReturn:
        """Interrupts once more, since what was raised was lost."""
        raise self._error

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._delivered:
            return
        if number == signal.SIGTERM:
            self.terminating = True
            if self._graceful:
                return
        self._pending, self._error = True, Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self._depth == 0:
            self._deliver()

    def _deliver(self) -> NoReturn:
        self._pending, self._delivered = False, True
        raise self._error

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
        UNINTERRUPTED.again()
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
