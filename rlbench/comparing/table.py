"""The tables of runs, from their summaries and ledgers on disk: what they learned, and what that cost."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..types import Fate, Phase
from .runs import found


def reports(folders: Iterable[Path]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Summary and ledger of all runs below the folders, in the order of their paths; no ledger if it never started."""
    summaries = [(folder, read(folder / "summary.json")) for folder in found(folders)]
    return [(summary, read(folder / "ledger.json")) for folder, summary in summaries if summary]


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def results_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line a run: what it learned, and what that took. What is the same for all is in the title."""
    same = {name: rows[0][name] for name in ("task", "seed", "status") if len({row[name] for row in rows}) == 1}
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
    title = ", ".join(f"{name} {value}" for name, value in same.items())
    return table_of(title, {name: cell for name, cell in columns.items() if name not in same}, rows)


def costs_table(runs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Table:
    """One line a run: where its operations, bytes, rollouts and seconds went."""
    differing = [name for name in ("algo", "task", "seed") if len({summary[name] for summary, _ in runs}) > 1]

    def phases(*names: str) -> Callable[[Any], str]:
        def total(run: Any) -> str:
            executed = run[1]["compute"]["executed"]["by_phase"]
            return f"{sum(executed.get(name, 0.0) for name in names) / 1e12:.2f}"

        return total

    def waste(run: Any) -> str:
        executed = run[1]["compute"]["executed"]
        wasted = executed["padding"] + sum(flops for fate, flops in executed["by_fate"].items() if fate != Fate.TRAINED)
        return f"{wasted / max(executed['total'] - executed['overhead'], 1.0):.1%}"

    columns = {
        "algorithm": lambda run: " ".join(str(run[0][name]) for name in differing or ["algo"]),
        "TFLOPs\nsample": phases(Phase.PREFILL, Phase.DECODE),
        "\nscore": phases(Phase.SCORE),
        "\ntrain": phases(Phase.FORWARD, Phase.BACKWARD, Phase.OPTIMIZER),
        "\nwasted": waste,
        "nets\nMB": lambda run: f"{networks(run[1]['memory']) / 1e6:,.2f}",
        "beside\npolicy": lambda run: f"{networks(run[1]['memory'], but='policy') / 1e6:,.2f}",
        "zero\nadv.": lambda run: f"{fraction(run[1]['rollouts'], Fate.ZERO_ADVANTAGE):.1%}",
        "\nidle": lambda run: f"{run[1]['time']['idle_fraction']:.1%}",
        "verify\nCPU s": lambda run: f"{run[1]['verification']['cpu_seconds']:.2f}",
    }
    return table_of("what it cost", columns, runs)


def networks(memory: Mapping[str, Any], but: str = "") -> int:
    """Bytes of all networks, with their gradients and optimizer states, but for one."""
    return sum(sum(parts.values()) for name, parts in memory["components"].items() if name != but)


def fraction(rollouts: Mapping[str, Any], fate: Fate) -> float:
    return rollouts["by_fate"][fate] / max(rollouts["generated"], 1)


LEFT = {"algorithm", "task", "status", "settings", "key", "folder", "reason"}  # columns of words


def table_of(title: str, columns: Mapping[str, Callable[[Any], str]], rows: Iterable[Any]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    return table


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def show_tables(folders: Iterable[Path]) -> None:
    """Prints the tables of all runs below the folders, if there are any."""
    runs = reports(folders)
    if runs:
        Console().print(results_table([summary for summary, _ in runs]))
    if ledgers := [(summary, ledger) for summary, ledger in runs if ledger]:
        Console().print(costs_table(ledgers))
