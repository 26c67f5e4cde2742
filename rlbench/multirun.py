"""Multiruns: each job in a process of its own, and a table at the end.

In one process, a job's memory peak would be the sweep's and its crash everybody's.
"""

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from .comparing.table import show_tables
from .help import explain
from .types import ConfigError, Diverged

PLUGINS = Plugins.instance()
# Hydra executes the modules of its own plugins when it looks for them: a class imported earlier would be another.
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402

log = logging.getLogger(__name__)

VERSION_BASE = "1.3"  # of Hydra's behaviour
NAMESPACE = "hydra_plugins.rlbench"  # Hydra takes launchers and sweepers from there only; see register


class JobFailed(RuntimeError):
    """A job of a multirun failed; the message is its one-line reason."""


class InvalidJob(JobFailed):
    """The config of a job of a multirun is wrong."""


class ProcessLauncher(Launcher):
    """Runs the jobs of a multirun one after the other, each in a fresh process."""

    __module__ = NAMESPACE

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        returns = []
        for index, overrides in enumerate(job_overrides, initial_job_idx):
            log.info("job %d of %d: %s", index + 1, len(job_overrides), " ".join(filter_overrides(overrides)))
            result = self._launch(index, list(overrides))
            if result.status == JobStatus.FAILED:
                log.error("job %d failed: %s", index + 1, result._return_value)
            returns.append(result)
        return returns

    def _launch(self, index: int, overrides: list[str]) -> JobReturn:
        try:
            config = self.context.config_loader.load_sweep_config(self.config, overrides)
        except (HydraException, OmegaConfBaseException) as error:
            return failure(overrides, InvalidJob(" ".join(explain(error, overrides).split())))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = index
        spawn = multiprocessing.get_context("spawn")
        here, there = spawn.Pipe(duplex=False)
        job = spawn.Process(target=work, args=(there, self.task_function, config))
        job.start()
        there.close()
        try:
            result: JobReturn = here.recv()
        except EOFError:
            result = failure(overrides, JobFailed("the process ended without a word"))
        except KeyboardInterrupt:
            os.kill(job.pid or 0, signal.SIGINT)
            raise
        finally:
            job.join()
        if job.exitcode == 130:
            raise KeyboardInterrupt
        if job.exitcode:
            reason = signal.Signals(-job.exitcode).name if job.exitcode < 0 else f"exit code {job.exitcode}"
            return failure(overrides, JobFailed(f"the process died: {reason}"))
        return result


def work(pipe: Connection, task_function: TaskFunction, config: DictConfig) -> None:
    """Runs one job in its process and sends back what became of it."""
    version.setbase(VERSION_BASE)
    setup_globals()
    context = HydraContext(config_loader=cast(ConfigLoader, None), callbacks=Callbacks(config))  # it is composed
    try:
        result = run_job(
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=context,
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    if result.status == JobStatus.FAILED:
        error = result._return_value
        if isinstance(error, ConfigError):
            result.return_value = InvalidJob(str(error))
        else:
            if not isinstance(error, Diverged):
                traceback.print_exception(error)
            result.return_value = JobFailed(f"{type(error).__name__}: {error}")
    pipe.send(result)


def failure(overrides: Sequence[str], error: Exception) -> JobReturn:
    """The return of a job that never ran, or never came back."""
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)


class PatientSweeper(BasicSweeper):
    """Hydra's own sweeper, but a job that cannot be composed fails alone, and a table ends the sweep."""

    __module__ = NAMESPACE

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        pass

    def sweep(self, arguments: list[str]) -> Any:
        try:
            return super().sweep(arguments)
        finally:
            assert self.config is not None
            show_tables([Path(self.config.hydra.sweep.dir)])


def register() -> None:
    """Makes both known to Hydra, which conf/hydra/ selects by default."""
    here = sys.modules[__name__]
    sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins")).rlbench = here  # type: ignore[attr-defined]
    sys.modules[NAMESPACE] = here
    for plugin in (ProcessLauncher, PatientSweeper):
        PLUGINS.register(plugin)
