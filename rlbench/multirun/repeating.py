"""The end of a multirun: its tables, what failed and why, and the commands that repeat or complete it."""

import contextlib
import logging
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from omegaconf import DictConfig, OmegaConf

from ..command_line import quoted
from ..comparing.table import show_tables
from ..discovery import flags
from ..hydra_adapter import JobReturn, JobStatus, error_of, filter_overrides
from ..records import MULTIRUN

log = logging.getLogger(__name__)

OF_SWEEPS = re.compile(r"[+~]*hydra([./](launcher|sweeper|sweep)\b|\.mode=)")  # words that concern no single run
FOLDER, RUN_FOLDER = "hydra.sweep.dir=", "hydra.run.dir="


@contextlib.contextmanager
def reported(config: DictConfig) -> Iterator[list[JobReturn]]:
    """Opens the folder of a sweep and collects what became of its jobs; at its end, however it ends, tells of them.

    Raises:
      JobFailed: of the first job that failed.
    """
    returns: list[JobReturn] = []
    whole = False
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / MULTIRUN)
    try:
        yield returns
        whole = True
    finally:
        show_tables([folder])
        failed = [result for result in returns if result.status == JobStatus.FAILED]
        lines = [f"{len(failed)} of {len(returns)} jobs failed:"] if failed else []
        for result in failed:
            lines += [f"  {error_of(result)}", f"    {repeats(filter_overrides(result.overrides or []), config)}"]
        if failed or not whole:
            lines += ["what is missing here is done by", f"    {completes(config)}"]
            log.error("\n".join(lines))
    if failed:
        raise error_of(failed[0])


def repeats(overrides: Sequence[str], config: DictConfig) -> str:
    """The command that runs one job alone."""
    ours = [word for word in given(config, "hydra") if not OF_SWEEPS.match(word)]
    return shlex.join(["rlbench", *flags(config), *overrides, *ours])


def goes_on(config: DictConfig, folder: Path) -> str:
    """The command that goes on with a run by itself, in its folder."""
    words = [word for word in given(config, "hydra") if not word.startswith(RUN_FOLDER)]
    return shlex.join(["rlbench", *flags(config), *given(config, "task"), *words, RUN_FOLDER + quoted(str(folder))])


def completes(config: DictConfig) -> str:
    """The command that runs what a sweep has not finished, in the same folder."""
    words = [word for word in given(config, "hydra") if not word.startswith((FOLDER, "hydra.mode="))]
    folder = FOLDER + quoted(str(config.hydra.sweep.dir))
    return shlex.join(["rlbench", "-m", *flags(config), *given(config, "task"), *words, folder])


def given(config: DictConfig, kind: str) -> list[str]:
    """Words of the command line as they were typed: what they interpolate may differ from job to job."""
    return cast(list[str], OmegaConf.to_container(config.hydra.overrides[kind], resolve=False))
