"""Progress on the terminal: a bar where somebody watches, a line at every evaluation where nobody does."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..accounting.tables import ledger_tables


class Terminal:
    """Shows reward, accuracy and rollouts per second, held-out accuracy once it is known, and at the end the ledger."""

    PATIENCE = 5.0  # seconds between notes where nobody watches

    def __init__(self) -> None:
        self.console = Console()
        self.progress = Progress(
            TextColumn("{task.description:>12}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[news]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bar = self.progress.add_task("", total=None, news="")
        self.accuracy = ""
        self.noted = 0.0  # when a note was printed

    def begin(self, folder: Path) -> None:
        pass

    def log(self, row: dict[str, Any]) -> None:
        self.progress.start()
        if "eval/accuracy" in row:
            self.accuracy = f"held-out {share(row['eval/accuracy'])}"
        news = self.accuracy
        if "reward" in row:
            news = (
                f"reward {share(row['reward'])}  accuracy {share(row['accuracy'])}  "
                f"{row['rollouts_per_second']:,.0f} rollouts/s  {self.accuracy}"
            )
        self.progress.update(self.bar, description=row["algo"], completed=row["step"], total=row["steps"], news=news)
        if not self.console.is_terminal and "eval/accuracy" in row:
            self.console.print(f"{row['algo']} {row['step']}/{row['steps']}  {news}", soft_wrap=True)

    def trajectories(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        pass

    def note(self, text: str) -> None:
        self.progress.start()
        self.progress.update(self.bar, news=text)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.noted > self.PATIENCE:
            self.noted = now
            self.console.print(text, soft_wrap=True)

    def finish(self, summary: dict[str, Any] | None, ledger: dict[str, Any] | None) -> None:
        self.progress.stop()
        if ledger:
            for table in ledger_tables(ledger):
                self.console.print(table)
        if summary and summary.get("sandbox"):
            self.console.print(f"programs ran in the sandbox {summary['sandbox']}", soft_wrap=True)
        if summary and summary.get("time_to_target"):
            self.console.print(time_to_target(summary["time_to_target"]), soft_wrap=True)


def time_to_target(reached: dict[str, Any]) -> str:
    """A line on when held-out accuracy reached the target."""
    parts = f"compilation {reached['compilation_seconds']:.1f}, warm start {reached['warm_start_seconds']:.1f}"
    took = f"{reached['seconds']:.1f} s, of which {parts} (evaluation aside)"
    return f"held-out accuracy {reached['accuracy']:.2f} after {took}"


def share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
