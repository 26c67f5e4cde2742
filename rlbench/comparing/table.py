"""The table of runs, from their summaries on disk."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table


def summaries(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """The summaries of all runs below the folders, in the order of their paths."""
    paths = [path for folder in folders for path in folder.rglob("summary.json")]
    return [json.loads(path.read_text()) for path in sorted(paths, key=natural)]


def natural(path: Path) -> list[tuple[bool, int, str]]:
    """A sort key under which job 10 comes after job 9."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in path.parts]


def results_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line a run: what it learned, and what that took. What is the same for all is in the title."""
    same = {name: rows[0][name] for name in ("task", "seed", "status") if len({row[name] for row in rows}) == 1}
    table = Table(
        title=", ".join(f"{name} {value}" for name, value in same.items()), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    columns = {
        "algorithm": lambda row: row["algo"],
        "task": lambda row: row["task"],
        "seed": lambda row: str(row["seed"]),
        "status": lambda row: row["status"],
        "accuracy\nbefore": lambda row: share(row["accuracy_before"]),
        "\nafter": lambda row: share(row["accuracy_after"]),
        "learner\nsteps": lambda row: f"{row['learner_steps']:,}",
        "\nrollouts": lambda row: f"{row['rollouts']:,}",
        "\ntokens": lambda row: f"{row['tokens']:,}",
        "wall\nseconds": lambda row: f"{row['wall_seconds']:.1f}",
        "peak\nMB": lambda row: f"{row['peak_memory_bytes'] / 1e6:,.1f}",
    }
    shown = {name: cell for name, cell in columns.items() if name not in same}
    for name in shown:
        table.add_column(name, justify="left" if name in ("algorithm", "task", "status") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for cell in shown.values()))
    return table


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def show_table(folders: Iterable[Path]) -> None:
    """Prints the table of all runs below the folders, if there are any."""
    rows = summaries(folders)
    if rows:
        Console().print(results_table(rows))
