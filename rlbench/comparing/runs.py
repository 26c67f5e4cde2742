"""Runs, read from their folders. One that cannot be read whole is skipped with its reason and harms no other."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..accounting.ledger import SCHEMA
from ..discovery import flags

FILES = {"metrics.jsonl", "summary.json", "ledger.json"}  # each of which makes a folder a run's
EVALUATED = b'"heldout/accuracy"'  # in the lines of metrics.jsonl that hold an evaluation
# What a comparison reads of a summary, of a ledger, and of an evaluation's line of metrics.
SUMMARY = {"algo", "task", "seed", "wall_seconds", "flops", "peak_memory_bytes"}
LEDGER = {"compute", "memory", "rollouts", "tokens", "verification", "time"}
ROW = {"step", "rollouts", "flops", "wall_seconds", "verification/cpu_seconds"}
BETWEEN = 50  # lines between evaluations that are read of a run, evenly spaced; a run may have a million
OUTCOMES = ("finished", "diverged")  # of the algorithm; what else ends a run says nothing of it
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built


class Run(NamedTuple):
    """A run that ended, by itself or because it diverged."""

    folder: Path
    config: dict[str, Any]  # by dotted key
    summary: dict[str, Any]
    ledger: dict[str, Any]
    rows: list[dict[str, Any]]  # of metrics.jsonl: every evaluation, and some of the steps between
    words: list[str] | None  # of the command line, for one job; None where they were not kept

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The rows that hold an accuracy, and not NaN."""
        return [row for row in self.rows if math.isfinite(row.get("heldout/accuracy", math.nan))]

    @property
    def diverged(self) -> bool:
        return self.summary["status"] == "diverged"


class Skipped(NamedTuple):
    """A run that is in no comparison."""

    folder: Path
    reason: str


class Unreadable(ValueError):
    """What is wrong with a run's files."""


def load(folders: Iterable[Path]) -> tuple[list[Run], list[Skipped]]:
    """All runs below the folders, in the order of their paths, each once."""
    runs, skipped = [], []
    for folder in found(folders):
        try:
            runs.append(load_run(folder))
        except Unreadable as error:
            skipped.append(Skipped(folder, str(error)))
    return runs, skipped


def found(folders: Iterable[Path]) -> list[Path]:
    """The folders below that hold a file of a run, or a config beside Hydra's own folder, which isn't looked into."""
    seen: dict[Path, Path] = {}
    for root in folders:
        for place, inner, files in os.walk(root):
            if not FILES.isdisjoint(files) or ("config.yaml" in files and ".hydra" in inner):
                seen.setdefault(Path(place).resolve(), Path(place))
            inner[:] = [name for name in inner if not name.startswith(".")]
    return sorted(seen.values(), key=natural)


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """A sort key under which job 10 comes after job 9."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.parts]


def load_run(folder: Path) -> Run:
    """One run.

    Raises:
      Unreadable: it did not end, or one of its files is missing, torn or of another schema.
    """
    summary = mapping(folder, "summary.json", json.loads)
    if summary.get("status") not in OUTCOMES:
        raise Unreadable(" ".join(f"{summary.get('status')}: {summary.get('error', 'no error is known')}".split()))
    ledger = mapping(folder, "ledger.json", json.loads)
    if ledger.get("schema") != SCHEMA:
        raise Unreadable(f"ledger.json: schema {ledger.get('schema')}, not {SCHEMA}")
    config = mapping(folder, "config.yaml", parse_yaml)
    rows = read_rows(folder / "metrics.jsonl")
    run = Run(folder, dict(flat(config)), summary, ledger, rows, command_line(folder))
    if not run.evaluations:
        raise Unreadable("metrics.jsonl: no evaluation")
    for name, needed, there in (
        ("summary.json", SUMMARY, summary.keys()),
        ("ledger.json", LEDGER, ledger.keys()),
        ("metrics.jsonl", ROW, set.intersection(*map(set, run.evaluations))),
    ):
        if missing := needed - there:
            raise Unreadable(f"{name}: no {', '.join(sorted(missing))}")
    return run


def command_line(folder: Path) -> list[str] | None:
    """The words that run it again, folders of plugins among them, from what Hydra keeps."""
    if not (folder / ".hydra/overrides.yaml").exists():
        return None
    given = []
    if (folder / ".hydra/hydra.yaml").exists():
        try:
            given = flags(mapping(folder, ".hydra/hydra.yaml", parse_yaml))
        except (KeyError, TypeError):
            raise Unreadable(".hydra/hydra.yaml: not as Hydra writes it") from None
    return [*given, *parse_yaml(text(folder / ".hydra/overrides.yaml"))]


def mapping(folder: Path, name: str, parse: Any) -> dict[str, Any]:
    """The content of a file that has to hold a mapping."""
    try:
        content = parse(text(folder / name))
    except (ValueError, yaml.YAMLError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"{name}: cannot be parsed") from None
    if not isinstance(content, dict):
        raise Unreadable(f"{name}: no mapping")
    return content


def text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Unreadable(f"no {path.name}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path.name}: {error}") from None


def parse_yaml(content: str) -> Any:
    return yaml.load(content, Loader)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, and evenly spaced lines between; the others are not parsed, which takes the time.

    Raises:
      Unreadable: there is no such file, its last line is torn, or one that was read is no row.
    """
    try:
        content = path.read_bytes()
    except OSError:
        raise Unreadable(f"no {path.name}") from None
    if not content.endswith(b"\n"):
        raise Unreadable(f"{path.name}: the last line is torn")
    lines = content.splitlines()
    every = max(1, len(lines) // BETWEEN)
    rows = []
    for number, line in enumerate(lines):
        if number % every == 0 or EVALUATED in line or number == len(lines) - 1:
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise Unreadable(f"{path.name}: line {number + 1} is no row of metrics")
            rows.append(row)
    return rows


def flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a config with their dotted keys."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
