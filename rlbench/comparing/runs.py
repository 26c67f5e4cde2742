"""Runs, read from their folders. One that cannot be read whole is skipped with its reason and harms no other."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..discovery import flags
from ..records import (
    MULTIRUN,
    Unreadable,
    line,
    read_config,
    read_hydra,
    read_ledger,
    read_rows,
    read_summary,
    read_words,
)

FILES = {"metrics.jsonl", "summary.json", "ledger.json"}  # each of which makes a folder a run's
OUTCOMES = ("finished", "diverged")  # of the algorithm; what else ends a run says nothing of it


class Run(NamedTuple):
    """A run that ended, by itself or because it diverged."""

    folder: Path
    config: dict[str, Any]  # by dotted key
    summary: dict[str, Any]
    ledger: dict[str, Any]
    rows: list[dict[str, Any]]  # of metrics.jsonl: every evaluation, and some of the steps between
    words: list[str] | None  # of the command line, for one job; None where they were not kept
    sweep: Path | None = None  # folder of the multirun that it is a job of

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows that hold an accuracy; where no verdict told there is none."""
        return [row for row in self.rows if row.get("eval/accuracy") is not None]

    @property
    def diverged(self) -> bool:
        return self.summary["status"] == "diverged"


class Skipped(NamedTuple):
    """A run that is in no comparison."""

    folder: Path
    reason: str


def load(folders: Iterable[Path]) -> tuple[list[Run], list[Skipped]]:
    """All runs below the folders, in the order of their paths, each once."""
    places, skipped = found(folders)
    runs = []
    for folder in places:
        try:
            runs.append(load_run(folder))
        except Unreadable as error:
            skipped.append(Skipped(folder, str(error)))
    return runs, sorted(skipped, key=lambda one: natural(one.folder))


def found(folders: Iterable[Path]) -> tuple[list[Path], list[Skipped]]:
    """The folders below that hold a file of a run, or a config beside Hydra's own folder, which isn't looked into.

    Those that cannot be looked into are skipped.
    """
    seen: dict[Path, Path] = {}
    closed: list[OSError] = []
    for root in folders:
        for place, inner, files in os.walk(root, onerror=closed.append):
            names = {*inner, *files}  # a folder in the place of a file is damage, too
            if not FILES.isdisjoint(names) or ("config.yaml" in names and ".hydra" in inner):
                seen.setdefault(Path(place).resolve(), Path(place))
            inner[:] = [name for name in inner if not name.startswith(".")]
    return sorted(seen.values(), key=natural), [Skipped(Path(one.filename), str(one.strerror)) for one in closed]


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """A sort key under which job 10 comes after job 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in path.parts]


def load_run(folder: Path) -> Run:
    """One run.

    Raises:
      Unreadable: it did not end, its end was not measured, or one of its files is damaged or of another run.
    """
    summary = read_summary(folder)
    if summary["status"] not in OUTCOMES:
        raise Unreadable(line(f"{summary['status']}: {summary.get('error', 'no error is known')}"))
    if "flops" not in summary:
        raise Unreadable("summary.json: no flops")
    config = read_config(folder)
    if config["seed"] != summary["seed"]:
        raise Unreadable(f"config.yaml: seed {config['seed']}, but {summary['seed']} in summary.json")
    run = Run(folder, dict(flat(config)), summary, read_ledger(folder), read_rows(folder), *origin(folder))
    if (last := run.rows[-1]["step"]) < summary["learner_steps"]:
        raise Unreadable(f"metrics.jsonl: ends at step {last} of {summary['learner_steps']}")
    evaluated = [row for row in run.rows if "eval/accuracy" in row]
    if not evaluated:
        raise Unreadable("metrics.jsonl: no evaluation")
    if not run.evaluations or (evaluated[-1] is not run.evaluations[-1] and not run.diverged):
        step = evaluated[-1]["step"]
        raise Unreadable(f"accuracy at step {step} was not measured: every verdict was an infrastructure fault")
    return run


def origin(folder: Path) -> tuple[list[str] | None, Path | None]:
    """The words that run it again, folders of plugins among them, and its multirun's folder, from what Hydra keeps."""
    words = read_words(folder)
    if words is None or not os.path.lexists(folder / ".hydra/hydra.yaml"):
        return words, None
    kept = read_hydra(folder)
    sweeps = (above for above in folder.parents if (above / MULTIRUN).is_file())
    return [*flags(kept), *words], next(sweeps, None) if kept["hydra"]["mode"] == "MULTIRUN" else None


def flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config with their dotted keys."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
