"""Launchers of a multirun's jobs: here, one after the other or side by side; on Slurm; on a Ray cluster.

The launchers that are published for these libraries end the whole sweep when one job crashes, or when one cannot be
composed, and joblib's runs many jobs in one process. So these are our own, as thin as they can be: what is promised of
a sweep is kept in one place, whatever it runs on.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..help import explain
from ..hydra_adapter import JobReturn, JobStatus, compose_job, error_of, failure, filter_overrides, set_up_multirun
from ..interrupts import Terminated, end_process
from ..plugins import plain, valid
from ..records import read_summary
from ..types import ConfigError
from .finished import Finished
from .job import InvalidJob, Job, JobFailed, library, line, perform

log = logging.getLogger(__name__)

Outcomes = Generator[tuple[Job, JobReturn], None, None]


class Jobs(Launcher):
    """The launchers' common part. Jobs that cannot be composed fail alone, finished ones are left out."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        """Runs the jobs, each in a process of its own; yields what became of each, in the order in which they end."""
        raise NotImplementedError

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Returns one result a job, in the order of the jobs; `working_dir` is the folder of its run, if it has one."""
        set_up_multirun(self.config)
        finished = Finished(Path(self.config.hydra.sweep.dir).absolute())
        returns: dict[int, JobReturn] = {}
        jobs = []
        for index, words in enumerate(job_overrides, initial_job_idx):
            overrides = list(words)
            try:
                config = self._compose(overrides)
                folder, done = finished.place(config, index)
            except (ConfigError, HydraException, OmegaConfBaseException) as error:
                returns[index] = failure(overrides, InvalidJob(line(explain(error, overrides))))
                log_failure(index, returns[index])
                continue
            if done:
                log.info("job %d is already finished: %s", index + 1, folder)
                returns[index] = JobReturn(overrides, working_dir=str(folder), status=JobStatus.COMPLETED)
                returns[index].return_value = read_summary(folder)["accuracy_after"]
            else:
                jobs.append(Job(index, overrides, config, folder))
        with contextlib.closing(self.run(jobs)) as outcomes:
            for job, result in outcomes:
                result.working_dir = str(job.folder)
                returns[job.number] = result
                log_failure(job.number, result)
        return [returns[index] for index in sorted(returns)]

    def _compose(self, overrides: list[str]) -> DictConfig:
        config = compose_job(self.context, self.config, overrides)
        config.hydra.sweep.dir = str(Path(self.config.hydra.sweep.dir).absolute())
        return config

    def announce(self, job: Job) -> None:
        """Says that a job starts."""
        log.info("job %d: %s", job.number + 1, " ".join(filter_overrides(job.overrides)))


def log_failure(index: int, result: JobReturn) -> None:
    """Says that a job failed, as soon as it did."""
    if result.status == JobStatus.FAILED:
        log.error("job %d failed: %s", index + 1, error_of(result))


class ProcessLauncher(Jobs):
    """One after the other, each in a fresh process."""

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        for job in jobs:
            yield self.spawn(job)

    def spawn(self, job: Job, running: set[BaseProcess] | None = None) -> tuple[Job, JobReturn]:
        """Runs a job in a fresh process and waits for it.

        Args:
          running: where the process is known while it runs.

        Raises:
          KeyboardInterrupt: also where only the process was interrupted.
        """
        self.announce(job)
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe(duplex=False)
        process = spawn.Process(target=work, args=(there, self.task_function, job.config))
        running = set() if running is None else running
        running.add(process)
        try:
            process.start()
            there.close()
            result: JobReturn = here.recv()
        except EOFError:
            result = failure(job.overrides, JobFailed("the process ended without a word"))
        except KeyboardInterrupt:
            interrupt(process)
            raise
        finally:
            process.join()
            running.discard(process)
        if died := death(process):
            result = failure(job.overrides, died)
        return job, result


def death(process: BaseProcess) -> JobFailed | None:
    """The error that a process ended with.

    Raises:
      KeyboardInterrupt: it was interrupted.
    """
    status = process.exitcode or 0
    if status == 130:
        raise KeyboardInterrupt
    reason = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    return JobFailed(f"the process died: {reason}") if status else None


def work(pipe: Connection, task_function: TaskFunction, config: DictConfig) -> None:
    """Runs one job in its process and sends back what became of it."""
    signal.signal(signal.SIGTERM, terminated)
    threading.Thread(target=follow, daemon=True).start()
    try:
        pipe.send(perform(task_function, config))
    except KeyboardInterrupt:
        end_process(130)


def terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Ends a job in good order, wherever it does not do so by itself."""
    raise Terminated


def follow() -> None:
    """Ends this process when the one that launched it has died: the folder of its run may be given to another.

    With a checkpoint, as whoever ended that one would have ended a run by itself.
    """
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(process: BaseProcess) -> None:
    """Passes Ctrl-C on, which a terminal has sent to all, but `kill` has not."""
    if process.pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)


class JoblibLauncher(ProcessLauncher):
    """Several at a time on this machine, each in a fresh process.

    Threads of joblib's wait for the processes. Its own workers would be used again for the next job, with the last
    one's memory peak, and one that crashed would end all.

    Args:
      n_jobs: how many at a time; negative numbers count back from the cores, -1 being all.
    """

    def __init__(self, *, n_jobs: int):
        self.n_jobs = n_jobs

    def setup(self, **given: Any) -> None:
        self.joblib = library("joblib", "hydra/launcher")
        if valid(int, self.n_jobs, "hydra.launcher.n_jobs") == 0:
            raise ConfigError("hydra.launcher.n_jobs", 0, "1 or more, or counted back from the cores, -1 being all")
        super().setup(**given)

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        running: set[BaseProcess] = set()
        ended = False

        def one(job: Job) -> tuple[Job, JobReturn]:
            if ended:
                raise KeyboardInterrupt
            return self.spawn(job, running)

        parallel = self.joblib.Parallel(n_jobs=self.n_jobs, backend="threading", return_as="generator_unordered")
        try:
            yield from parallel(self.joblib.delayed(one)(job) for job in jobs)
        except BaseException:
            ended = True
            interrupted: set[BaseProcess] = set()
            while running:  # each has a thread that waits for its last words
                for process in set(running) - interrupted:
                    if process.pid:  # else it is about to start
                        interrupt(process)
                        interrupted.add(process)
                time.sleep(0.1)
            raise


class SubmititLauncher(Jobs):
    """On a Slurm cluster, as an array of jobs; or on this machine, all at once.

    Args:
      cluster: slurm, local, or None for slurm where there is one.
      parameters: of submitit's AutoExecutor: of the resources that a job asks for.
    """

    POLL = 1.0  # seconds between looks at what ended

    def __init__(self, *, cluster: str | None, parameters: dict[str, Any]):
        self.cluster, self.parameters = cluster, parameters

    def setup(self, **given: Any) -> None:
        self.submitit = library("submitit", "hydra/launcher")
        super().setup(**given)

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        if not jobs:
            return
        folder = Path(self.config.hydra.sweep.dir).absolute() / ".submitit" / "%j"
        executor = self.submitit.AutoExecutor(folder, cluster=self.cluster)
        executor.update_parameters(**plain(self.parameters))
        with executor.batch():
            submitted = [executor.submit(perform, self.task_function, job.config) for job in jobs]
        for job in jobs:
            self.announce(job)
        flying = dict(zip(submitted, jobs, strict=True))
        try:
            while flying:
                for future in [future for future in flying if future.done()]:
                    job = flying.pop(future)
                    yield job, self._outcome(job, future)
                time.sleep(self.POLL)
        except BaseException:
            for future in flying:
                future.cancel()
            while not all(future.done() for future in flying):
                time.sleep(self.POLL)
            raise

    def _outcome(self, job: Job, future: Any) -> JobReturn:
        try:
            return future.result()
        except self.submitit.core.utils.UncompletedJobError:
            why = f"the process died ({future.state}); its last words: {future.paths.stderr}"
            return failure(job.overrides, JobFailed(why))


class RayLauncher(Jobs):
    """On a Ray cluster, or a local one that is started for the sweep.

    Args:
      init: of ray.init, address and all.
      remote: of ray.remote: what a job asks for.
    """

    def __init__(self, *, init: dict[str, Any], remote: dict[str, Any]):
        self.init, self.remote = init, remote

    def setup(self, **given: Any) -> None:
        self.ray = library("ray", "hydra/launcher")
        super().setup(**given)

    def run(self, jobs: Sequence[Job]) -> Outcomes:
        if not jobs:
            return
        ray = self.ray
        ray.init(**plain(self.init))
        # A process is not used again, and a crash is not tried again.
        submit = ray.remote(max_calls=1, max_retries=0, **plain(self.remote))(perform).remote
        flying = {}
        for job in jobs:
            self.announce(job)
            flying[submit(self.task_function, job.config)] = job
        try:
            while flying:
                (future, *_), _ = ray.wait(list(flying))
                job = flying.pop(future)
                yield job, self._outcome(job, future)
        except BaseException:
            for future in flying:
                ray.cancel(future)
            ray.wait(list(flying), num_returns=len(flying), timeout=60)  # for their summaries
            raise
        finally:
            ray.shutdown()

    def _outcome(self, job: Job, future: Any) -> JobReturn:
        try:
            return self.ray.get(future)
        except self.ray.exceptions.RayError as error:
            (why, *_) = str(error).strip().splitlines() or [""]
            return failure(job.overrides, JobFailed(f"the process died: {type(error).__name__}: {why}"))
