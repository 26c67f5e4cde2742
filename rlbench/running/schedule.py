"""The schedule: synchronous and asynchronous training are one loop with one number."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from ..types import Natural

T = TypeVar("T")


class Runner(NamedTuple):
    """How far acting may run ahead of learning."""

    max_staleness: Natural  # learner steps between the policy that samples a batch and the one trained on it


def stream(act: Callable[[int], T], count: int, max_staleness: int) -> Generator[T, None, None]:
    """Yields act(0), act(1), ... in order, computed on a thread of its own, at most so far ahead.

    At most max_staleness + 1 batches are in flight, the one that the caller has taken and trains on
    included. So act(i) starts when at least i - max_staleness batches are done with; with
    max_staleness 0 that is synchronous training.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="actor") as thread:
        flying: deque[Future[T]] = deque()
        started = 0
        try:
            for done in range(count):
                while started < min(count, done + max_staleness + 1):
                    flying.append(thread.submit(act, started))
                    started += 1
                yield flying.popleft().result()
        finally:
            for batch in flying:
                batch.cancel()
