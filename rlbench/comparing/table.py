"""The tables of runs, from their summaries and ledgers on disk: what they learned, and what that cost."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os.path import lexists
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from ..records import Unreadable, line, printable, read_ledger, read_summary
from ..types import Fate, Phase
from .runs import Skipped, found


class Reports(NamedTuple):
    """Outcomes of runs, read from their folders."""

    runs: list[tuple[dict[str, Any], dict[str, Any] | None]]  # summary and ledger; no ledger if it never started
    unread: list[Skipped]


def reports(folders: Iterable[Path]) -> Reports:
    """All runs below the folders, in the order of their paths."""
    places, unread = found(folders)
    runs = []
    for folder in places:
        try:
            runs.append((read_summary(folder), read_ledger(folder) if lexists(folder / "ledger.json") else None))
        except Unreadable as error:
            unread.append(Skipped(folder, str(error)))
    return Reports(runs, unread)


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
        "not\npolicy": lambda run: f"{not_policy(run[1]['memory']) / 1e6:,.2f}",
        "zero\nadv.": lambda run: f"{fraction(run[1]['rollouts'], Fate.ZERO_ADVANTAGE):.1%}",
        "\nidle": lambda run: f"{run[1]['time']['idle_fraction']:.1%}",
        "verify\nCPU s": lambda run: f"{run[1]['verification']['cpu_seconds']:.2f}",
    }
    return table_of("what it cost", columns, runs)


def networks(memory: Mapping[str, Any]) -> int:
    """Bytes of all networks, with their gradients and optimizer states."""
    return sum(sum(parts.values()) for parts in memory["components"].values())


def not_policy(memory: Mapping[str, Any]) -> int:
    """Bytes of all networks but the one that samples."""
    return networks(memory) - sum(memory["components"][memory["sampling_network"]].values())


def fraction(rollouts: Mapping[str, Any], fate: Fate) -> float:
    return rollouts["by_fate"][fate] / max(rollouts["generated"], 1)


LEFT = {"algorithm", "task", "status", "settings", "key", "folder", "reason"}  # columns of words
LONG = {"folder", "reason"}  # of which no word is left out, however narrow the terminal


def table_of(title: str, columns: Mapping[str, Callable[[Any], str]], rows: Iterable[Any]) -> Table:
    """A table of texts as they are: what looks like rich's markup, in a name or an error, is none."""
    table = Table(title=Text(title, style="table.title"), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        side: JustifyMethod = "left" if name in LEFT else "right"
        table.add_column(Text(name), justify=side, no_wrap=name not in LONG, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row)) for cell in columns.values()))
    return table


def skipped_table(skipped: Sequence[Skipped]) -> Table:
    columns = {"folder": lambda one: printable(one.folder), "reason": lambda one: line(one.reason)}
    return table_of("left out", columns, skipped)


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def show_tables(folders: Iterable[Path]) -> None:
    """Prints the tables of all runs below the folders, if there are any."""
    runs, unread = reports(folders)
    console = Console()
    if runs:
        console.print(results_table([summary for summary, _ in runs]))
    if ledgers := [(summary, ledger) for summary, ledger in runs if ledger]:
        console.print(costs_table(ledgers))
    if unread:
        console.print(skipped_table(unread))
