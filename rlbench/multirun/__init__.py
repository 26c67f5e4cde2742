"""Multiruns: many jobs from one command line, each in a process of its own; or all seeds of a setting in one.

In one process, a job's memory peak is told apart from the sweep's by counting its arrays, and its crash is everybody's.
"""

from ..hydra_adapter import import_plugins, register_for_multirun
from .job import InvalidJob, JobFailed
from .launchers import JoblibLauncher, ProcessLauncher, RayLauncher, SubmititLauncher
from .search import OptunaSweeper
from .seeds import SeedsLauncher, shared
from .sweeper import GridSweeper

__all__ = ["InvalidJob", "JobFailed", "register", "shared"]

import_plugins()  # at once: a job's process then unpickles its config, which may name classes of theirs


def register() -> None:
    """Makes our launchers and sweepers known to Hydra, which conf/hydra/ names."""
    launchers = ProcessLauncher, JoblibLauncher, SeedsLauncher, SubmititLauncher, RayLauncher
    register_for_multirun(*launchers, GridSweeper, OptunaSweeper)
