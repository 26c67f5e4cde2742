"""One job of a multirun: what it is, how it is run, and how it fails."""

import importlib
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ..discovery import config_dirs, make_importable
from ..help import is_one_line
from ..types import ConfigError, Diverged, TooManyFailures

VERSION_BASE = "1.3"  # of Hydra's behaviour


class JobFailed(RuntimeError):
    """A job of a multirun failed; the message is its one-line reason."""


class InvalidJob(JobFailed):
    """The config of a job of a multirun is wrong."""


class Job(NamedTuple):
    """A job that will run."""

    number: int  # its place among the jobs of the sweep
    overrides: list[str]
    config: DictConfig  # composed, Hydra's own node included
    folder: Path  # of its run


def perform(task_function: TaskFunction, config: DictConfig) -> JobReturn:
    """Runs a job in this process. An error of the run is in what is returned, and can be sent anywhere."""
    for folder in config_dirs(config):
        make_importable(Path(folder).parent)
    version.setbase(VERSION_BASE)
    setup_globals()
    context = HydraContext(config_loader=cast(ConfigLoader, None), callbacks=Callbacks(config))  # it is composed
    result = run_job(
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )
    if result.status == JobStatus.FAILED:
        error = result._return_value
        if is_one_line(error):
            result.return_value = InvalidJob(line(str(error)))
        else:
            if not isinstance(error, Diverged | TooManyFailures):
                traceback.print_exception(error)
            result.return_value = JobFailed(line(f"{type(error).__name__}: {error}"))
    return result


def failure(overrides: Sequence[str], error: Exception) -> JobReturn:
    """The return of a job that never ran, or never came back."""
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)


def line(text: str) -> str:
    """A text as one line."""
    return " ".join(text.split())


def library(name: str, key: str) -> Any:
    """An optional library, which is also the name of the extra that brings it.

    Args:
      key: the group of the config whose option needs it.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        what = f"needs a library that is not installed: pip install 'rlbench[{name}]'"
        raise ConfigError(key, name, what) from None
