"""One number of a run, from its files on disk: what a search over settings makes large or small."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..plugins import nearest
from ..records import read_ledger, read_rows, read_summary
from ..types import ConfigError
from .curves import training_flops
from .runs import flat

KEY = "hydra.sweeper.objective"
AT_BUDGET = re.compile(r"accuracy_at_(?P<amount>\d+(\.\d+)?(e[+-]?\d+)?)_(?P<axis>.+)")


def measure(folder: Path, objective: str) -> float | None:
    """A number of summary.json or ledger.json by its dotted name, or held-out accuracy at a matched cost.

    Args:
      objective: accuracy_after, price.per_point.flops, ...; or accuracy_at_AMOUNT_AXIS, where the axis is a column of
        metrics.jsonl, as in accuracy_at_1e12_flops (without warm start and evaluation) and accuracy_at_30_wall_seconds.

    Returns:
      None where the run has no such number: nothing was gained that could have a price, or the run ended before the
      cost was reached.

    Raises:
      ConfigError: no run has it.
      Unreadable: a file of the run is damaged.
    """
    if match := AT_BUDGET.fullmatch(objective):
        return accuracy_at(read_rows(folder), match["axis"], float(match["amount"]))
    ledger = read_ledger(folder) if (folder / "ledger.json").exists() else {}  # a run that never started has none
    leaves = dict(flat(ledger)) | dict(flat(read_summary(folder)))
    numbers = {name: value for name, value in leaves.items() if value is None or type(value) in (int, float)}
    if objective not in numbers:
        raise ConfigError(KEY, objective, f"no number of summary.json or ledger.json{nearest(objective, numbers)}")
    return numbers[objective]


def accuracy_at(rows: Sequence[Mapping[str, Any]], axis: str, amount: float) -> float | None:
    """Held-out accuracy when so much was spent, on the line between the evaluations before and after."""
    if type(rows[0].get(axis)) not in (int, float):
        raise ConfigError(KEY, f"accuracy_at_{amount:g}_{axis}", f"no column of metrics.jsonl{nearest(axis, rows[0])}")
    cost = training_flops if axis == "flops" else itemgetter(axis)
    points = [(cost(row), row["eval/accuracy"]) for row in rows if row.get("eval/accuracy") is not None]
    for (spent, accuracy), (then, later) in pairwise(points):
        if spent <= amount <= then:
            return accuracy + (later - accuracy) * (amount - spent) / max(then - spent, 1e-9)
    return None
