"""The local truth of a run: metrics.jsonl, a line a learner step as it happens, trajectories.jsonl, a line a completion
that an evaluation kept, summary.json and ledger.json.
"""

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoint import add, open_at, size_of

log = logging.getLogger(__name__)
LINES = ("metrics.jsonl", "trajectories.jsonl")
OUTCOME = ("summary.json", "ledger.json")


class Files:
    """Writes into a run's folder. What is written last is put there in one move: it is whole or not there.

    Args:
      sizes: bytes of the files of lines that a run goes on with; by default they are new.
    """

    def __init__(self, folder: Path, sizes: Mapping[str, int] | None = None):
        self.folder, sizes = folder, sizes or dict.fromkeys(LINES, 0)
        for outcome in OUTCOME:
            (folder / outcome).unlink(missing_ok=True)  # of an earlier attempt
        self._metrics, self._trajectories = self._open = [open_at(folder / name, sizes[name]) for name in LINES]

    def sizes(self) -> dict[str, int]:
        """Bytes of the files of lines, which are on the disk then."""
        return {name: size_of(file) for name, file in zip(LINES, self._open, strict=True)}

    def begin(self, folder: Path) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        add(self._metrics, strict_json(row) + "\n")

    def trajectories(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        add(self._trajectories, "".join(strict_json({"step": step} | row) + "\n" for row in rows))

    def note(self, text: str) -> None:
        pass

    def finish(self, summary: dict[str, Any] | None, ledger: dict[str, Any] | None) -> None:
        for file in self._open:
            with contextlib.suppress(OSError):  # of what could not be written before
                file.close()
        for name, content in (("ledger.json", ledger), ("summary.json", summary)):
            if content:
                self._put(name, content)

    def _put(self, name: str, content: dict[str, Any]) -> None:
        draft = self.folder / f"{name}.part"
        try:
            draft.write_text(strict_json(content, indent=2) + "\n")
            os.replace(draft, self.folder / name)
        except OSError as error:  # whatever ended the run is to be heard of, not this
            log.error("%s cannot be written: %s", self.folder / name, error.strerror)


def strict_json(content: Any, indent: int | None = None) -> str:
    """As JSON that any reader takes: null stands for a number that is not finite."""
    return json.dumps(finite(content), indent=indent, allow_nan=False)


def finite(content: Any) -> Any:
    """The content, with None for every number in it that is not finite."""
    if isinstance(content, dict):
        return {name: finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
