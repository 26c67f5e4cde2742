"""Finished runs of a sweep's folder, so that a sweep can be completed; and where the others go."""

import contextlib
import itertools
from os.path import lexists
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from ..hydra_adapter import as_in_its_job
from ..records import RECORD, Unreadable, content, read_summary


class Finished:
    """Contents of a sweep's folder. A run is known by its resolved config, not by its number.

    Args:
      folder: of the sweep; absolute.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._runs: dict[str, list[Path]] = {}  # of every config, finished or not
        self._taken: set[Path] = set()
        for path in sorted(folder.rglob("config.yaml")):
            if not path.with_name("hydra.yaml").exists():  # which is beside Hydra's own copy
                self._taken.add(path.parent)
                if can_be_written(path.parent):
                    with contextlib.suppress(Unreadable):  # then it is some other run's
                        self._runs.setdefault(content(path).decode(errors="replace"), []).append(path.parent)

    def place(self, config: DictConfig, number: int) -> tuple[Path, bool]:
        """Gives a job its folder: that of its own earlier attempt, or the next that no other run has.

        Returns the folder, and whether the job is finished there. If not, what an earlier attempt said of its outcome
        is removed.

        Raises:
          OmegaConfBaseException: hydra.sweep.subdir names what this config does not have.
        """
        attempts = self._runs.get(resolved(config) or "", [])
        if done := next(filter(is_finished, attempts), None):
            return done, True
        own = attempts.pop(0) if attempts else None  # where an identical job of the sweep is not to go too
        with read_write(config), open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
            if own:
                config.hydra.sweep.subdir = str(own.relative_to(self._folder))
            with as_in_its_job(config) as job:
                folder = self._folder / str(job.hydra.sweep.subdir)
            free = itertools.count(number)
            while folder in self._taken and folder != own:
                config.hydra.sweep.subdir = str(next(free))
                folder = self._folder / config.hydra.sweep.subdir
        self._taken.add(folder)
        for outcome in ("summary.json", "ledger.json"):
            (folder / outcome).unlink(missing_ok=True)
        return folder, False


def is_finished(folder: Path) -> bool:
    """True if a run says so, whole."""
    try:
        return read_summary(folder)["status"] == "finished"
    except Unreadable:
        return False


def can_be_written(folder: Path) -> bool:
    """True if a run can write its record there: it is there already, or nothing is in its place."""
    return all(path.is_file() or not lexists(path) for path in (folder / name for name in RECORD))


def resolved(config: DictConfig) -> str | None:
    """The text of a job's config.yaml; None where only the run itself can tell."""
    try:
        with as_in_its_job(config) as job, read_write(job), open_dict(job):
            del job["hydra"]
            return OmegaConf.to_yaml(job, resolve=True)
    except OmegaConfBaseException:
        return None
