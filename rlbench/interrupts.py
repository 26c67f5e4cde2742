"""Ctrl-C: held back while something is written that has to be whole, and waiting for nothing else.

Python handles signals in the main thread. Where runs are beside each other, each on a thread of its own, what came is
raised in each of them as soon as it looks: whatever waits there does so, with `heed`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
BEAT = 0.25  # seconds between looks, of a thread that waits, at whether it still has to
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
        self._main = threading.main_thread().ident or 0
        self.terminating = False
        self._graceful: set[int] = set()  # threads
        self._carriers: dict[
            int, Callable[[Exception], None]
        ] = {}  # threads of runs; told of what ended one that hangs
        self._stopped: set[int] = set()  # of these

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
        mine = threading.get_ident()
        self._graceful.add(mine)
        try:
            yield
        finally:
            self._graceful.discard(mine)

    def terminate(self) -> NoReturn:
        """Ends what SIGTERM has to end."""
        if threading.get_ident() in self._carriers:
            raise Terminated
        self._error = Terminated
        self._deliver()

    @contextlib.contextmanager
    def carrying(self, abandon: Callable[[Exception], None]) -> Iterator[None]:
        """A block of a thread that carries a run beside others: what interrupts the main thread interrupts it, too.

        Args:
          abandon: called from another thread with an error that the run, which hangs, will not raise any more.
        """
        mine = threading.get_ident()
        self._carriers[mine] = abandon
        try:
            yield
        finally:
            del self._carriers[mine]
            self._stopped.discard(mine)

    def heed(self) -> None:
        """Raises what came, in a thread that carries a run.

        Raises:
          KeyboardInterrupt: Ctrl-C came, or the run is to be stopped.
          Terminated: SIGTERM came, and the thread is not in a `graceful` block.
        """
        mine = threading.get_ident()
        if mine == self._main:
            if self._delivered:  # and was lost: native code that looks for an attribute drops whatever is raised there
                raise self._error
        elif mine in self._carriers:
            if mine in self._stopped:
                raise KeyboardInterrupt
            if self._delivered:
                raise self._error
            if self.terminating and mine not in self._graceful:
                raise Terminated

    def stop(self, thread: int) -> None:
        """Interrupts a thread that carries a run, as Ctrl-C would."""
        if thread in self._carriers:
            self._stopped.add(thread)
        else:
            signal.pthread_kill(thread, signal.SIGINT)  # a signal of its own: it may wait for a lock

    def give_up(self, thread: int, error: Exception) -> None:
        """Leaves a thread behind that carries a run and does not end; where it is the only one, ends the process."""
        if abandon := self._carriers.get(thread):
            abandon(error)
            return
        print(f"rlbench: {error}", file=sys.stderr, flush=True)
        os._exit(1)

    @property
    def came(self) -> bool:
        """True if the block that is installed was interrupted."""
        return self._delivered

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._delivered:
            return
        if number == signal.SIGTERM:
            self.terminating = True
            if self._main in self._graceful:
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


def next_of(queue: SimpleQueue[T]) -> T:
    """The next item of a queue, waited for by a thread that carries a run."""
    while True:
        with contextlib.suppress(Empty):
            return queue.get(timeout=BEAT)
        UNINTERRUPTED.heed()


def thread_name(role: str, run: str) -> str:
    """The name of a thread that works for a run, by that of the run's own."""
    return role if run == threading.main_thread().name else f"{role} of {run}"


LEFT: list[threading.Thread] = []  # that nobody waits for any more; they end with the process, if not before


def patiently(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function that may stay in native code for long, such as a compiler.

    Python handles no signal in the meantime. So the main thread has another one call it, and Ctrl-C leaves that
    one behind. After Ctrl-C nothing is called any more.
    """
    UNINTERRUPTED.heed()
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
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
