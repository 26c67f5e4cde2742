"""Hydra's internals that rlbench depends on: no other module of it imports from `hydra._internal` or `hydra.core`.

Hydra may change them in any release. They have been checked with hydra-core 1.3.7 to 1.3.8, and pyproject.toml leaves
out 1.4 and what follows: to move that bound is to check what is here.
"""

import contextlib
import copy
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from logging.config import DictConfigurator
from types import ModuleType
from typing import Any, cast

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

__all__ = [
    "VERSION_BASE",
    "ConfigSearchPath",
    "FileConfigSource",
    "HydraConfig",
    "IntervalSweep",
    "JobReturn",
    "JobStatus",
    "Override",
    "RangeSweep",
    "as_in_its_job",
    "combinations",
    "compose_job",
    "error_of",
    "failure",
    "file_logs",
    "filter_overrides",
    "group_options",
    "import_plugins",
    "launcher_of",
    "parse_overrides",
    "prepare_for_threads",
    "raised_by_hydra",
    "register",
    "register_for_multirun",
    "run_composed",
    "set_up_multirun",
    "unknown_key",
]

VERSION_BASE = "1.3"  # of Hydra's behaviour
NAMESPACE = "hydra_plugins.rlbench"  # Hydra takes launchers and sweepers from below hydra_plugins only


def import_plugins() -> None:
    """Imports Hydra's own plugins and those that are installed, once in a process.

    Hydra executes their modules then, even if they were imported before: their classes are others afterwards. A class
    that calls `super()` with its name, as BasicSweeper does, is of no use if it was imported before.
    """
    Plugins.instance()


def register(plugin: type[Plugin]) -> None:
    """Makes a plugin known to Hydra."""
    Plugins.instance().register(plugin)


def register_for_multirun(*plugins: type[Plugin]) -> None:
    """Makes launchers and sweepers known to Hydra, by the names that they have in conf/hydra/."""
    module = ModuleType(NAMESPACE)
    for plugin in plugins:
        plugin.__module__ = NAMESPACE
        setattr(module, plugin.__name__, plugin)
        register(plugin)
    sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins")).rlbench = module  # type: ignore[attr-defined]
    sys.modules[NAMESPACE] = module


def group_options(group: str) -> list[str]:
    """Every option of a config group, of all that is on the search path; while Hydra is initialized."""
    return GlobalHydra.instance().config_loader().get_group_options(group)


def parse_overrides(words: Sequence[str], context: HydraContext | None = None) -> list[Override]:
    """The overrides that words of a command line are.

    Args:
      context: of the command line; without one, glob(..) cannot be expanded.

    Raises:
      OverrideParseException: of the first word that is none.
    """
    parser = OverridesParser.create(config_loader=context.config_loader if context else None)
    return parser.parse_overrides(list(words))


def combinations(overrides: list[Override], batch_size: int | None) -> list[list[list[str]]]:
    """Every combination of the values of overrides, as words, in batches; None is one batch.

    Raises:
      HydraException: an interval has no values that could be counted.
    """
    # Here, where plugins have been imported: see import_plugins.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    return BasicSweeper.split_arguments(overrides, batch_size)


def launcher_of(context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Launcher:
    """The launcher that the config of a multirun chooses, set up."""
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task_function, config=config)


def set_up_multirun(config: DictConfig) -> None:
    """Registers Hydra's resolvers and configures logging, in the process that launches jobs."""
    setup_globals()
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)


def compose_job(context: HydraContext, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config of one job of a multirun, Hydra's own node included.

    Args:
      config: of the multirun.

    Raises:
      HydraException, OmegaConfBaseException: there is no such config.
    """
    return context.config_loader.load_sweep_config(config, list(overrides))


@contextlib.contextmanager
def as_in_its_job(config: DictConfig) -> Iterator[DictConfig]:
    """A copy of a job's config, of which interpolations of Hydra's resolve as they will in the job."""
    instance, before = HydraConfig.instance(), HydraConfig.instance().cfg
    try:
        instance.set_config(copy.deepcopy(config))
        yield copy.deepcopy(config)
    finally:
        instance.cfg = before


def run_composed(task_function: TaskFunction, config: DictConfig, *, on_thread: bool = False) -> JobReturn:
    """Runs a job of a multirun in this process, which need not be the one that composed its config.

    Args:
      on_thread: of its own, in a process of several jobs: see `prepare_for_threads`.
    """
    version.setbase(VERSION_BASE)
    setup_globals()
    return run_job(
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        configure_logging=not on_thread,
        hydra_context=HydraContext(
            config_loader=cast(ConfigLoader, None),  # it is composed
            callbacks=Callbacks(config),
        ),
    )


class ConfigOfThread(HydraConfig):
    """The config of the job that this thread runs."""

    def __init__(self) -> None:
        self._of = threading.local()

    @property  # type: ignore[override]
    def cfg(self) -> DictConfig | None:
        return getattr(self._of, "cfg", None)

    @cfg.setter
    def cfg(self, config: DictConfig | None) -> None:
        self._of.cfg = config


def prepare_for_threads(config: DictConfig) -> None:
    """Makes this process ready for jobs that run beside each other and have this one's logging and environment.

    What goes to files is not logged yet: see `file_logs`.
    """
    setup_globals()
    Singleton._instances[HydraConfig] = ConfigOfThread()  # type: ignore[assignment]
    with as_in_its_job(config) as job:
        os.environ.update(OmegaConf.to_container(job.hydra.job.env_set))  # type: ignore[arg-type]
    parts: Any = OmegaConf.to_container(config.hydra.job_logging, resolve=False) or {"version": 1}
    files = log_files(parts)
    for name in files:
        del parts["handlers"][name]
    for logger in filter(None, [parts.get("root"), *(parts.get("loggers") or {}).values()]):
        logger["handlers"] = [name for name in logger.get("handlers") or () if name not in files]
    for formatter in (parts.get("formatters") or {}).values():
        if "format" in formatter:
            formatter["format"] = formatter["format"].replace("[%(name)s]", "[%(threadName)s][%(name)s]")
    configure_log(OmegaConf.create(parts), config.hydra.verbose)


@contextlib.contextmanager
def file_logs(mine: Callable[[str], bool]) -> Iterator[None]:
    """A block of a job beside others, in which what its threads log goes to its files.

    Args:
      mine: of a thread's name, whether it is the job's.
    """
    settings: Any = OmegaConf.to_container(HydraConfig.get().job_logging, resolve=True) or {"version": 1}
    configurator: Any = DictConfigurator(settings)
    parts = configurator.config
    for name, formatter in (parts.get("formatters") or {}).items():
        parts["formatters"][name] = configurator.configure_formatter(formatter)
    root = logging.getLogger()
    wanted = (parts.get("root") or {}).get("handlers") or ()
    handlers = [configurator.configure_handler(parts["handlers"][name]) for name in log_files(parts) if name in wanted]
    for handler in handlers:
        handler.addFilter(lambda record: mine(record.threadName))
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def log_files(parts: Mapping[str, Any]) -> list[str]:
    """Names of the handlers of a logging config that write to files."""
    return [name for name, handler in (parts.get("handlers") or {}).items() if "filename" in handler]


def failure(overrides: Sequence[str], error: Exception) -> JobReturn:
    """The return of a job that never ran, or never came back."""
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)


def error_of(result: JobReturn) -> Exception:
    """The error of a job that failed. Its `return_value` would print and raise."""
    return result._return_value


def unknown_key(error: Exception) -> str | None:
    """The key that an override names and the config lacks, if this is the error: its message alone tells."""
    match = re.search(r"Could not override '([^'@]+)'|Key '(\w+)' is not in struct", str(error))
    return match and (match[1] or match[2])


def raised_by_hydra(error: Exception) -> bool:
    """True for an error that a module of Hydra's raised itself, and nothing that it called."""
    modules = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(modules) and modules[-1].startswith("hydra.")
