"""One job of a multirun: what it is, how it is run, and how it fails."""

import importlib
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from hydra.types import TaskFunction
from omegaconf import DictConfig

from ..discovery import config_dirs, make_importable
from ..help import is_one_line
from ..hydra_adapter import JobReturn, JobStatus, error_of, run_composed
from ..types import FAILURES, ConfigError


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


def perform(task_function: TaskFunction, config: DictConfig, *, on_thread: bool = False) -> JobReturn:
    """Runs a job in this process. An error of the run is in what is returned, and can be sent anywhere.

    Args:
      on_thread: of its own, in a process of several jobs.
    """
    for folder in config_dirs(config):
        make_importable(Path(folder).parent)
    result = run_composed(task_function, config, on_thread=on_thread)
    if result.status == JobStatus.FAILED:
        error = error_of(result)
        if is_one_line(error):
            result.return_value = InvalidJob(line(str(error)))
        else:
            if not isinstance(error, FAILURES):
                traceback.print_exception(error)
            result.return_value = JobFailed(line(f"{type(error).__name__}: {error}"))
    return result


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
