"""Weights & Biases, beside the run: another process sends what the files in the run's folder say, as they say it.

Training never waits for it: nothing is handed over but the files. Whatever becomes of that process, `rlbench-wandb`
sends the rest from the same files.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import psutil
from pydantic import Field

from ..records import Unreadable
from ..types import NonNegative
from .command import CONNECTED, SAYS
from .sending import Identity

log = logging.getLogger(__name__)

Project = Annotated[str, Field(pattern=r"^[^/\\#?%:]{1,128}$")]
CONNECTING = 10.0  # seconds from its beginning after which a run doesn't wait for a server that never answered


class WeightsAndBiases:
    """One run at wandb: grouped by sweep, tagged by algorithm, task and seed.

    Args:
      mode: `offline` writes wandb's own files below the run's folder, `disabled` does nothing.
      group: by default the sweep's folder.
      tags: beside algorithm, task and seed.
      finish_seconds: most that the end of a run waits for what is not sent yet.
    """

    def __init__(
        self,
        *,
        project: Project,
        entity: str | None,
        mode: Literal["online", "offline", "disabled"],
        group: str | None,
        tags: list[str],
        finish_seconds: NonNegative,
    ):
        self.mode, self.patience = mode, finish_seconds
        self.identity = Identity.new(project, entity, group, tags)
        self.folder: Path
        self.sender: subprocess.Popen[bytes] | None = None
        self.scratch: tempfile.TemporaryDirectory[str]  # what the sender leaves there, even where it is killed
        self.output: IO[bytes]  # by the sender; a pipe would have to be read
        self.began = 0.0

    def begin(self, folder: Path) -> None:
        self.folder = folder
        if self.mode == "disabled":
            return
        self.began = time.monotonic()
        words = [sys.executable, "-m", "rlbench.tracking.command", "--follow", str(folder)]
        try:
            if not self._goes_on(folder):
                self.identity.keep(folder)
            self.output = tempfile.TemporaryFile()  # noqa: SIM115
            self.scratch = tempfile.TemporaryDirectory(prefix="rlbench-", ignore_cleanup_errors=True)
            self.sender = subprocess.Popen(
                words + ["--offline"] * (self.mode == "offline"),
                env=os.environ | {"TMPDIR": self.scratch.name},
                stdin=subprocess.PIPE,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the run's, which says when it ends
            )
        except OSError as error:
            self._missing(str(error))

    def _goes_on(self, folder: Path) -> bool:
        """True if a run at wandb, in the same project, is that of an earlier attempt."""
        with contextlib.suppress(Unreadable):
            if before := Identity.of(folder):
                return (before.project, before.entity) == (self.identity.project, self.identity.entity)
        return False

    def log(self, row: dict[str, Any]) -> None:
        """Nothing to do but to see whether the sender is still there."""
        if self.sender and self.sender.poll() is not None:
            self._gone()

    def trajectories(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self, summary: dict[str, Any] | None, ledger: dict[str, Any] | None) -> None:
        """Lets the sender finish, for some seconds; leaves no process behind."""
        if not self.sender:
            return
        patience = self.patience
        if self.mode == "online" and not self._connected():
            patience = min(patience, max(CONNECTING - (time.monotonic() - self.began), 0.0))
        try:
            with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
                self.sender.communicate(b"\n", timeout=patience)
        finally:
            late = self.sender.poll() is None
            if late:
                end(self.sender.pid)
                self.sender.wait()
            self._gone(f"it was not done {patience:.0f} s after the run" if late else "")

    def _connected(self) -> bool:
        return f"{SAYS}{CONNECTED}" in self._output()

    def _output(self) -> str:
        """Output of the sender so far; read without moving the position, which it shares."""
        return os.pread(self.output.fileno(), 1 << 20, 0).decode(errors="replace")

    def _gone(self, reason: str = "") -> None:
        """Says once what is missing at wandb, if anything is, and what the sender said of it."""
        assert self.sender
        ended = self.sender.returncode
        self.sender = None
        self.scratch.cleanup()
        if not ended:
            return
        if ended < 0 and not reason:
            reason = f"its process was ended by {signal.Signals(-ended).name}"
        lines = [line for line in self._output().splitlines() if line.strip() and line != f"{SAYS}{CONNECTED}"]
        last = [line.removeprefix(SAYS) for line in lines if line.startswith(SAYS) or ended == 1][-1:]
        self._missing("; ".join([*filter(None, [reason]), *last]) or "its process ended without a word")

    def _missing(self, reason: str) -> None:
        log.warning("wandb does not have all of this run (%s); send it with: rlbench-wandb %s", reason, self.folder)


def end(pid: int) -> None:
    """Kills a process and all that it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
