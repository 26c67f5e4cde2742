"""Multiruns: many jobs from one command line, each in a process of its own.

In one process, a job's memory peak would be the sweep's and its crash everybody's.
"""

from ..hydra_adapter import import_plugins, register_for_multirun
from .job import InvalidJob, JobFailed
from .launchers import JoblibLauncher, ProcessLauncher, RayLauncher, SubmititLauncher
from .search import OptunaSweeper
from .sweeper import GridSweeper

__all__ = ["InvalidJob", "JobFailed", "register"]

import_plugins()  # at once: a job's process then unpickles its config, which may name classes of theirs


def register() -> None:
    """Makes our launchers and sweepers known to Hydra, which conf/hydra/ names."""
    register_for_multirun(ProcessLauncher, JoblibLauncher, SubmititLauncher, RayLauncher, GridSweeper, OptunaSweeper)
