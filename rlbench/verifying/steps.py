"""A task's own code, called where it costs a rollout, not the run, if it raises or hangs."""

import copy
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from queue import SimpleQueue
from typing import Any, NamedTuple

from ..interrupts import BEAT, LEFT, UNINTERRUPTED, Stopped
from .watchdog import WATCHDOG, About

STUCK = 8  # calls that may hang at once


class Fault(NamedTuple):
    """A call that gave no result."""

    reason: str  # in one line
    about: About


class TooManyStuck(RuntimeError):
    """More calls hang than may."""


class Calls:
    """Some calls and, so far, their results."""

    def __init__(self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], about: Sequence[About]):
        self.function, self.arguments, self.about = function, arguments, about
        self.results: list[Any] = []
        self.began = time.monotonic()  # when the call at hand did
        self.left = False  # whether nobody waits any more
        self.done = threading.Event()
        self.lock = threading.Lock()

    def make(self, place: memoryview) -> None:
        """Makes them in turn, until somebody has lost patience with one.

        Args:
          place: i64[1], where the number of the call at hand is written.
        """
        function, results = self.function, self.results
        for number, arguments in enumerate(self.arguments, 1):
            place[0] = number
            try:
                result = function(*arguments)
            except BaseException as error:  # whatever a stranger's code raises, SystemExit too
                result = Fault(described(error), self.about[number - 1])
            with self.lock:
                if self.left:
                    break
                results.append(result)
                self.began = time.monotonic()
        place[0] = 0

    def overdue(self, seconds: float) -> bool:
        """True if the call at hand has taken longer; then its result and those of the others are not waited for."""
        with self.lock:
            if len(self.results) < len(self.arguments) and time.monotonic() - self.began > seconds:
                self.left = True
            return self.left


def described(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    try:
        (why, *_) = str(error).strip().splitlines() or [""]
    except Exception:
        why = "its message can't be told"
    return f"{type(error).__name__}: {why}".rstrip(": ")


class StepThread:
    """A thread that makes calls, batch by batch."""

    numbers = itertools.count()

    def __init__(self) -> None:
        self.number = next(self.numbers)
        self.inbox: SimpleQueue[Calls | None] = SimpleQueue()
        self._clock: int | None = None  # of the thread's processor time
        self._used = self._reported = 0.0  # seconds
        self.thread = threading.Thread(target=self._work, name="steps", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        if hasattr(time, "pthread_getcpuclockid"):  # macOS has none: there a call that hangs counts when it ends
            self._clock = time.pthread_getcpuclockid(threading.get_ident())
        while calls := self.inbox.get():
            calls.make(WATCHDOG.page(self.number, calls.about))
            self._used = time.thread_time()
            calls.done.set()

    def cpu_seconds(self) -> float:
        """Processor time that it took since this was asked last."""
        used = self._used
        if self._clock is not None:
            with suppress(OSError):  # the thread has ended
                used = time.clock_gettime(self._clock)
        self._reported, described = max(used, self._reported), self._reported
        return self._reported - described


class Steps:
    """Makes the calls of batches on threads of its own.

    A batch is handed over whole, so that a call costs no change of threads; only one that hangs costs its thread.

    Args:
      seconds: that one call may take.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._idle: list[StepThread] = []
        self._stuck: list[StepThread] = []
        self._lock = threading.Lock()

    def make(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        about: Sequence[About],
        stop: threading.Event | None = None,
    ) -> tuple[list[Any], float]:
        """Results of calls of a function, or their faults, and the processor time that the threads took.

        Args:
          arguments: of each call.
          about: what each call is about, for messages.
          stop: ends it early, once it is set.

        Raises:
          TooManyStuck: more than STUCK calls hang.
          Stopped: `stop` was set meanwhile.
        """
        results: list[Any] = []
        spent = 0.0
        with WATCHDOG.over(self.seconds):
            while len(results) < len(arguments):
                with self._lock:
                    worker = self._idle.pop() if self._idle else StepThread()
                batch = Calls(function, arguments[len(results) :], about[len(results) :])
                worker.inbox.put(batch)
                try:
                    hangs = self._wait(batch, stop)
                except BaseException:
                    batch.left = True
                    self._leave(worker)
                    raise
                results += batch.results
                spent += worker.cpu_seconds()
                if hangs:
                    why = f"it took longer than {self.seconds:g} s and was left behind"
                    results.append(Fault(why, about[len(results)]))
                    self._leave(worker)
                    if (stuck := self._hanging()) > STUCK:
                        raise TooManyStuck(f"{stuck} calls hang, each for over {self.seconds:g} s")
                else:
                    with self._lock:
                        self._idle.append(worker)
        return results, spent + self._spent_behind()

    def close(self) -> None:
        """Ends the threads that do nothing."""
        with self._lock:
            for worker in self._idle:
                worker.inbox.put(None)
            self._idle.clear()

    def _wait(self, batch: Calls, stop: threading.Event | None) -> bool:
        """Waits for the results. Returns whether a call hangs."""
        while not batch.done.wait(min(BEAT, self.seconds)):
            WATCHDOG.beat()
            UNINTERRUPTED.heed()
            if stop and stop.is_set():
                raise Stopped
            if batch.overdue(self.seconds):
                return True
        return False

    def _leave(self, worker: StepThread) -> None:
        """Lets a thread go, which ends once its call does."""
        worker.inbox.put(None)
        LEFT.append(worker.thread)
        with self._lock:
            self._stuck.append(worker)
        WATCHDOG.watch_on(worker.thread, self.seconds)

    def _hanging(self) -> int:
        with self._lock:
            return sum(worker.thread.is_alive() for worker in self._stuck)

    def _spent_behind(self) -> float:
        """Processor time of the threads that were left behind, since this was asked last."""
        with self._lock:
            spent = sum(worker.cpu_seconds() for worker in self._stuck)
            self._stuck = [worker for worker in self._stuck if worker.thread.is_alive()]
        return spent


ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None)})


def own(state: Any) -> Any:
    """A copy that can be changed without changing the original; the original, where nothing can change it."""
    return state if immutable(state) else copy.deepcopy(state)


def immutable(value: Any) -> bool:
    """True if nothing can change it, as far as its types tell: numbers, texts, and tuples and named tuples of them."""
    if type(value) in ATOMS or isinstance(value, Enum):
        return True
    fixed = type(value) is frozenset or (isinstance(value, tuple) and not hasattr(value, "__dict__"))
    return fixed and all(map(immutable, value))
