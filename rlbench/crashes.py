"""The cost of crashes: what a run had done beyond its last checkpoint, as far as metrics.jsonl tells.

It is done again, so that the run's own numbers do not show it. A line of crashes.jsonl for each; its `step` is that of
the checkpoint, null where there was none.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

FILE = "crashes.jsonl"
LONGEST = 1 << 20  # bytes of a line of metrics.jsonl
WARM_START = "flops/phase/warm_start"  # entered by every run, whichever made it


class Lost(NamedTuple):
    """Work that was done for nothing."""

    crashes: int = 0
    learner_steps: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    rollouts: int = 0


def enter(folder: Path, size: int) -> None:
    """Enters the lines of metrics.jsonl beyond so many bytes, which the checkpoint has not, before they are removed.

    Nothing where there are none, or where they were entered before.
    """
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(size - LONGEST, 0))
            known = rows(file.read(size - file.tell()))
            beyond = rows(file.read())
    except FileNotFoundError:
        return
    if not beyond:
        return
    last, first = beyond[-1], known[-1] if known else {}

    def cost(name: str) -> Any:
        return last.get(name, 0) - first.get(name, 0)

    line = {
        "step": first.get("step"),
        "learner_steps": last["step"] - first.get("step", 0),
        "seconds": cost("wall_seconds"),
        "flops": cost("flops") - cost(WARM_START),
        "rollouts": cost("rollouts"),
    }
    if line not in entered(folder):
        with (folder / FILE).open("a") as log:
            log.write(json.dumps(line) + "\n")
            log.flush()
            os.fsync(log.fileno())


def lost(folder: Path) -> Lost:
    """Everything that the crashes of a run cost."""
    lines = entered(folder)
    sums = {name: sum(line[name] for line in lines) for name in Lost._fields[1:]}
    return Lost(len(lines), **sums)


def entered(folder: Path) -> list[dict[str, Any]]:
    """Lines of crashes.jsonl."""
    with contextlib.suppress(FileNotFoundError):
        return rows((folder / FILE).read_bytes())
    return []


def rows(text: bytes) -> list[dict[str, Any]]:
    """The lines of a text that are whole."""
    found = []
    for line in text.splitlines(keepends=True):
        with contextlib.suppress(ValueError):
            if line.endswith(b"\n") and isinstance(row := json.loads(line), dict):
                found.append(row)
    return found
