"""The launcher of many seeds: jobs that differ in nothing else run beside each other, in one process.

They share what is compiled, and the devices never wait for one of them alone. Each has its thread, its folder and its
ledger, computes what it would compute by itself, to the last bit, and fails by itself.
"""

import json
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import yaml
from hydra.types import TaskFunction
from omegaconf import DictConfig

from ..accounting.shared import Shared
from ..hydra_adapter import JobReturn, failure, file_logs, prepare_for_threads
from ..interrupts import BEAT, LEFT, UNINTERRUPTED, end_process, thread_name
from ..plugins import valid
from ..types import Count
from ..verifying.pool import cores
from .finished import resolved
from .job import Job, JobFailed, line, perform
from .launchers import Outcomes, ProcessLauncher, death, follow, interrupt

SHARED: ContextVar[Shared | None] = ContextVar("shared", default=None)  # by the runs of this process
PATIENCE = 30.0  # seconds that interrupted runs have to write down how far they came


def shared() -> Shared | None:
    """The common parts of the runs of this process; None of a run alone."""
    return SHARED.get()


class SeedsLauncher(ProcessLauncher):
    """Seeds of one setting beside each other, in one process; settings one after the other.

    Args:
      seeds_at_once: seeds that run at the same time, at the most; None: as many as memory has room for.
    """

    def __init__(self, *, seeds_at_once: int | None):
        self.seeds_at_once = seeds_at_once

    def setup(self, **given: Any) -> None:
        valid(Count | None, self.seeds_at_once, "hydra.launcher.seeds_at_once")
        super().setup(**given)

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        settings: dict[object, list[Job]] = {}
        for job in jobs:
            settings.setdefault(setting_of(job), []).append(job)
        for seeds in settings.values():
            if len(seeds) == 1:
                yield self.spawn(seeds[0])
            else:
                yield from self._together(seeds)

    def _together(self, jobs: Sequence[Job]) -> Outcomes:
        for job in jobs:
            self.announce(job)
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe(duplex=False)
        left = {job.number: job for job in jobs}
        arguments = there, self.task_function, {job.number: job.config for job in jobs}, self.seeds_at_once
        process = spawn.Process(target=work, args=arguments)
        process.start()
        there.close()
        died: Exception | None = None
        try:
            while left:
                number, result = here.recv()
                yield left.pop(number), result
        except EOFError:
            died = JobFailed("the process ended without a word")
        except BaseException:
            interrupt(process)
            raise
        finally:
            process.join()
        died = death(process) or died
        for job in left.values():
            assert died
            yield job, failure(job.overrides, died)


def setting_of(job: Job) -> object:
    """The setting of a job: jobs of one setting may run in one process."""
    own = job.config.hydra.job
    if own.chdir:  # of a process, for all of its jobs
        return job.number
    text = resolved(job.config)
    if text is None:
        return job.number
    config = yaml.safe_load(text)
    seed = config.pop("seed")
    if config["warm_start"]["seed"] == seed:
        del config["warm_start"]["seed"]
    return json.dumps(config), str(own.env_set)


class Outcome(NamedTuple):
    """The end of a job."""

    number: int
    result: JobReturn | None  # None: it was interrupted


def work(pipe: Connection, task_function: TaskFunction, configs: Mapping[int, DictConfig], most: int | None) -> None:
    """Runs jobs in their process and sends back what became of each."""
    threading.Thread(target=follow, daemon=True).start()
    os.environ["TTY_COMPATIBLE"] = "0"  # lines instead of bars, of which a terminal shows only one
    prepare_for_threads(next(iter(configs.values())))
    seeds = Seeds(task_function, configs, most)
    with UNINTERRUPTED.installed(), UNINTERRUPTED.graceful():
        try:
            for number, result in seeds.outcomes():
                pipe.send((number, result))
        except KeyboardInterrupt:
            seeds.wait(PATIENCE)
            end_process(130)
    end_process(130 if UNINTERRUPTED.terminating else 0)


def at_once() -> int:
    """Threads that compute at the same time.

    A program of a small model leaves cores idle, so on a CPU there is one more than cores. Several devices
    have to see programs with collectives in one order, and an accelerator runs them in a row.
    """
    import jax  # what the launcher itself does without

    return 1 + cores() if jax.default_backend() == "cpu" and jax.local_device_count() == 1 else 1


class Seeds:
    """Jobs on threads of their own.

    Args:
      most: jobs that run at the same time; None: as many as memory has room for.
    """

    def __init__(self, task_function: TaskFunction, configs: Mapping[int, DictConfig], most: int | None):
        self.task_function, self.most = task_function, most
        self.shared = Shared(at_once())
        self._waiting = deque(configs.items())
        self._threads: dict[int, threading.Thread] = {}
        self._ended: SimpleQueue[Outcome] = SimpleQueue()

    def outcomes(self) -> Iterator[tuple[int, JobReturn]]:
        """Runs all; yields the end of each, but of those that were interrupted."""
        while self._threads or self._waiting:
            while self._waiting and len(self._threads) < self._room() and not UNINTERRUPTED.terminating:
                self._start(*self._waiting.popleft())
            if not self._threads:
                return
            try:
                number, result = self._ended.get(timeout=BEAT)
            except Empty:
                continue
            if self._threads.pop(number, None) and result:  # one that was given up may end after all
                yield number, result

    def wait(self, seconds: float) -> None:
        """Waits for all threads, but not for ever."""
        until = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.join(max(until - time.monotonic(), 0.0))
            if thread.is_alive():
                LEFT.append(thread)

    def _room(self) -> int:
        """Jobs that may run now. The first goes alone until it is known what its start takes, and what it does."""
        fits = self.shared.fits or self.shared.starts or 1
        return min(fits, self.most or fits)

    def _start(self, number: int, config: DictConfig) -> None:
        thread = threading.Thread(target=self._carry, args=(number, config), name=f"job {number + 1}", daemon=True)
        self._threads[number] = thread
        thread.start()

    def _carry(self, number: int, config: DictConfig) -> None:
        """On a thread: one job."""
        thread = threading.current_thread()
        overrides = list(config.hydra.overrides.task)

        def logged(own: DictConfig) -> object:
            with file_logs(lambda name: name == thread.name or name.endswith(thread_name("", thread.name))):
                return self.task_function(own)

        def abandon(error: Exception) -> None:
            LEFT.append(thread)
            self._ended.put(Outcome(number, failure(overrides, JobFailed(line(f"{type(error).__name__}: {error}")))))

        result = None
        try:
            with UNINTERRUPTED.carrying(abandon):
                SHARED.set(self.shared)
                result = perform(logged, config, on_thread=True)
        except KeyboardInterrupt:
            pass
        finally:
            self._ended.put(Outcome(number, result))
