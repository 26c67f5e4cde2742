"""Multiruns: many jobs from one command line, each in a process of its own.

In one process, a job's memory peak would be the sweep's and its crash everybody's.
"""

import sys
from types import ModuleType

from hydra.core.plugins import Plugins

from .job import VERSION_BASE, InvalidJob, JobFailed
from .launchers import JoblibLauncher, ProcessLauncher, RayLauncher, SubmititLauncher
from .search import OptunaSweeper
from .sweeper import PatientSweeper

__all__ = ["VERSION_BASE", "InvalidJob", "JobFailed", "register"]

NAMESPACE = "hydra_plugins.rlbench"  # Hydra takes launchers and sweepers from there only


def register() -> None:
    """Makes our launchers and sweepers known to Hydra, which conf/hydra/ names."""
    module = ModuleType(NAMESPACE)
    for plugin in (ProcessLauncher, JoblibLauncher, SubmititLauncher, RayLauncher, PatientSweeper, OptunaSweeper):
        plugin.__module__ = NAMESPACE
        setattr(module, plugin.__name__, plugin)
        Plugins.instance().register(plugin)
    sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins")).rlbench = module  # type: ignore[attr-defined]
    sys.modules[NAMESPACE] = module
