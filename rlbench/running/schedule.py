"""The schedule: synchronous and asynchronous training are one loop with one number."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

from ..interrupts import LEFT, PATIENCE, UNINTERRUPTED
from ..types import Natural, Positive

T = TypeVar("T")


class Runner(NamedTuple):
    """The lead that acting may have over learning."""

    max_staleness: Natural  # learner steps between the policy that samples a batch and the one trained on it
    watchdog_seconds: Positive  # without anything new, after which the run is ended


def stream(
    act: Callable[[int], T], count: int, max_staleness: int, stop: threading.Event | None = None
) -> Generator[T, None, None]:
    """Yields act(0), act(1), ... in order, computed on a thread of its own, at most so far ahead.

    At most max_staleness + 1 batches are in flight, the one that the caller has taken and trains on
    included. So act(i) starts when at least i - max_staleness batches are done with; with
    max_staleness 0 that is synchronous training.

    Args:
      stop: set when nobody wants a batch any more, so that an `act` that looks at it ends early. It is waited for,
        but after Ctrl-C not for longer than PATIENCE.
    """
    asked: SimpleQueue[tuple[int, Future[T]] | None] = SimpleQueue()

    def work() -> None:
        while request := asked.get():
            index, batch = request
            if batch.set_running_or_notify_cancel():
                try:
                    batch.set_result(act(index))
                except BaseException as error:
                    batch.set_exception(error)

    thread = threading.Thread(target=work, name="actor", daemon=True)
    thread.start()
    flying: deque[Future[T]] = deque()
    started = 0
    try:
        for done in range(count):
            while started < min(count, done + max_staleness + 1):
                flying.append(Future())
                asked.put((started, flying[-1]))
                started += 1
            yield flying.popleft().result()
    finally:
        if stop:
            stop.set()
        for batch in flying:
            batch.cancel()
        asked.put(None)
        thread.join(PATIENCE if UNINTERRUPTED.came else None)
        if thread.is_alive():
            LEFT.append(thread)
