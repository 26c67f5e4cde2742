"""A pool of sandboxed workers: batches of programs in, verdicts out, in order."""

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..types import Program, Status, Verdict
from .codec import Unencodable
from .sandbox import FORK, InfrastructureError, Limits, Sandbox, Worker, expected_of, request_of


class Pool:
    """Verifies programs on as many workers as there are cores, unless told otherwise.

    Args:
      queue: programs that may wait for a worker; who submits more waits himself.
    """

    def __init__(self, limits: Limits, *, workers: int | None = None, queue: int = 10_000, sandbox: Sandbox = FORK):
        self.count = workers or cores()
        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="verifier")
        self._room = threading.BoundedSemaphore(queue)
        self._mine = threading.local()
        self._workers: list[Worker] = []
        self._closing = threading.Lock()
        self._closed = False
        self._make = lambda: Worker(limits, sandbox)

    def submit(self, program: Program) -> Future[Verdict]:
        """Starts verifying a program, as soon as a worker is free."""
        self._room.acquire()
        try:
            future = self._threads.submit(self._verify, program, time.monotonic())
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(lambda _: self._room.release())
        return future

    def verify(self, programs: Sequence[Program]) -> list[Verdict]:
        """Verdicts of a batch, in its order."""
        return [future.result() for future in [self.submit(program) for program in programs]]

    def close(self) -> None:
        """Ends all workers at once. Programs that wait or run are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._closing:
            self._closed = True
        for worker in self._workers:
            worker.end()
        self._threads.shutdown()
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _verify(self, program: Program, submitted: float) -> Verdict:
        waited = time.monotonic() - submitted
        if not hasattr(self._mine, "worker"):
            with self._closing:
                if self._closed:
                    raise CancelledError
                self._mine.worker = self._make()
                self._workers.append(self._mine.worker)
        return tried(self._mine.worker, program)._replace(queue_seconds=waited)


def tried(worker: Worker, program: Program) -> Verdict:
    """A verdict: of a second try where the first was disturbed; "infrastructure" where that was disturbed, too."""
    for _ in range(2):
        try:
            return worker.verify(program)
        except InfrastructureError as error:
            failed = Verdict(error.again, detail=f"tried twice: {error}")
        except Unencodable as wrong:
            return Verdict(Status.INFRASTRUCTURE, detail=f"its tests cannot be told: {wrong}")
    return failed


def identity(program: Program) -> str:
    """The same for the same source and tests; trees tell 1 from True and from 1.0, which are equal."""
    try:
        return json.dumps([request_of(program), expected_of(program)])
    except Unencodable:
        return f"nobody's {id(program)}"


def cores() -> int:
    """That this process may use: by its affinity, and by the quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, math.ceil(int(quota) / int(period)))
    return max(allowed, 1)


@contextlib.contextmanager
def alone(limits: Limits, sandbox: Sandbox = FORK) -> Iterator[Worker]:
    """A single worker, for a block."""
    worker = Worker(limits, sandbox)
    try:
        yield worker
    finally:
        worker.close()
