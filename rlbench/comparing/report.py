"""A comparison as tables, which the terminal, the page and Markdown show alike."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from ..accounting.tables import ledger_tables
from .groups import Comparison, Group, differing, is_seed, shown
from .more_seeds import commands_of
from .pairwise import Judgement, Standing
from .runs import Skipped
from .table import table_of


class Part(NamedTuple):
    """One comparison and what was found."""

    comparison: Comparison
    judgement: Judgement


class Report(NamedTuple):
    """Everything that a comparison says."""

    folders: list[str]
    parts: list[Part]
    skipped: list[Skipped]
    notes: list[str]  # of what is not compared with what, though it might seem so


def standings_table(part: Part, costs: bool = True) -> Table:
    """One line a group: where it stood at the budget, what its settings were chosen from, and what its runs cost."""
    found = part.judgement
    columns = {
        "algorithm": lambda one: one.group.label,
        "settings": lambda one: one.group.tuning,
        "seeds": lambda one: seeds(one),
        "IQM\n%": lambda one: number(one.iqm),
        f"{1 - found.level:.0%}\ninterval": lambda one: interval(one.low, one.high),
    }
    if costs:
        columns |= {
            "wall\nseconds": lambda one: f"{average(one.group, 'wall_seconds'):,.1f}",
            "\nTFLOPs": lambda one: f"{average(one.group, 'flops') / 1e12:,.3g}",
            "peak\nMB": lambda one: f"{average(one.group, 'peak_memory_bytes') / 1e6:,.1f}",
        }
    title = f"{part.comparison.title}: held-out accuracy at {found.axis.amount(found.budget)}"
    return table_of(title, columns, found.standings)


def seeds(one: Standing) -> str:
    words = [str(len(one.scores))]
    if one.diverged:
        words.append(f"{one.diverged} diverged, as 0")
    if one.left_out:
        words.append(f"{one.left_out} not measured there")
    return ", ".join(words)


def tests_table(part: Part) -> Table:
    """One line a pair."""

    def p(value: float | None) -> str:
        return "-" if value is None else f"{value:.2g}"

    columns: dict[str, Any] = {
        "algorithm": lambda one: f"{one.ours} - {one.theirs}",
        "seeds": lambda one: f"{one.seeds[0]}, {one.seeds[1]}",
        "means differ\nby points": lambda one: f"{one.difference:+.1f}",
        "P\n(better)": lambda one: f"{one.improvement:.2f}",
        f"{1 - part.judgement.level:.0%}\ninterval": lambda one: interval(one.low, one.high, 2),
        "p\nalone": lambda one: p(one.p),
        "p\nHolm": lambda one: p(one.corrected),
    }
    return table_of(f"{part.comparison.title}: pairs", columns, part.judgement.tests)


def differences_table(comparison: Comparison) -> Table | None:
    """The keys of the configs that differ between groups, and their values; None where none does."""
    configs = [group.runs[0].config for group in comparison.groups]
    keys = [key for key in differing(configs) if not is_seed(key)]
    if not keys:
        return None

    def cell(config: Mapping[str, Any]) -> Any:
        return lambda key: shown(config, key)

    columns: dict[str, Any] = {"key": lambda key: key}
    columns |= {group.label: cell(config) for group, config in zip(comparison.groups, configs)}
    return table_of("what differs in the configs", columns, keys)


def group_ledger(group: Group) -> dict[str, Any]:
    """The mean of the ledgers of a group's seeds."""
    return mean_of([run.ledger for run in group.runs])


def group_tables(group: Group) -> list[Table]:
    """The ledger's tables of a group: means over its seeds."""
    return ledger_tables(group_ledger(group))


def mean_of(values: Sequence[Any]) -> Any:
    """Number by number the mean of ledgers; what is no number is the first's. A part that one lacks is 0 there."""
    first = next((value for value in values if value is not None), None)
    if isinstance(first, dict):
        parts = [value for value in values if isinstance(value, dict)]
        return {name: mean_of([part.get(name) for part in parts]) for name in dict.fromkeys(itertools.chain(*parts))}
    if isinstance(first, bool) or not isinstance(first, int | float):
        return first
    numbers = [value for value in values if isinstance(value, int | float)]
    mean = sum(numbers) / len(values)
    return round(mean) if all(isinstance(value, int) for value in numbers) else mean


def average(group: Group, name: str) -> float:
    return float(np.mean([run.summary[name] for run in group.runs]))


def number(value: float, digits: int = 1) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def interval(low: float, high: float, digits: int = 1) -> str:
    return "-" if math.isnan(low) else f"{number(low, digits)} to {number(high, digits)}"


def verdicts(judgement: Judgement) -> list[tuple[str, list[str]]]:
    """Every test in words, and the commands that run the seeds that it still needs."""
    return [
        (f"{one.words}." if one.winner else f"{one.ours} and {one.theirs}: {one.words}.", commands_of(judgement, one))
        for one in judgement.tests
    ]
