"""Held-out accuracy against what was spent: of a run at a budget, of a group as a band."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..types import Phase
from .runs import Run
from .statistics import bootstrap_interval

POINTS = 60  # of a band


class Axis(NamedTuple):
    """A cost, as rows of metrics hold it: a total since the start."""

    word: str
    name: str  # of an axis in a figure, which has to fit a telephone
    unit: str
    of: Callable[[Mapping[str, Any]], float]

    @property
    def title(self) -> str:
        return f"{self.name} ({self.unit})"

    def amount(self, value: float) -> str:
        return f"{value:,.0f} {self.unit}" if value >= 1000 or value == int(value) else f"{value:,.4g} {self.unit}"


def training_flops(row: Mapping[str, Any]) -> float:
    """Executed operations without those of the warm start, which all share, and of evaluations, which only measure."""
    return row["flops"] - sum(row.get(f"flops/phase/{phase}", 0.0) for phase in (Phase.WARM_START, Phase.EVALUATION))


AXES = {
    "rollouts": Axis("rollouts", "sampled", "rollouts", lambda row: row["rollouts"]),
    "flops": Axis("FLOPs", "computed for training", "FLOPs", training_flops),
    "seconds": Axis("seconds", "wall time", "s", lambda row: row["wall_seconds"]),
    "cpu_seconds": Axis("CPU seconds", "verification", "CPU s", lambda row: row["verification/cpu_seconds"]),
}


class Points(NamedTuple):
    """A quantity of one run, as it was measured."""

    x: np.ndarray  # f64[k], rising
    y: np.ndarray  # f64[k]
    after: float | None  # the value beyond the last x; None where nothing is known there

    def at(self, x: np.ndarray) -> np.ndarray:
        """Interpolated between measurements, which is all that may be done: NaN outside them."""
        after = np.nan if self.after is None else self.after
        return np.interp(x, self.x, self.y, left=np.nan, right=after)

    @property
    def end(self) -> float:
        return float(self.x[-1]) if self.after is None else np.inf


def accuracy(run: Run, axis: Axis) -> Points:
    """Held-out accuracy in percent. A run that diverged has no policy any more: 0 after its last evaluation."""
    rows = run.evaluations
    x = np.array([axis.of(row) for row in rows], float)
    y = np.array([100 * row["eval/accuracy"] for row in rows], float)
    return Points(x, y, 0.0 if run.diverged else None)


def over_steps(run: Run, metric: str) -> Points:
    """A metric of learner steps, where the run has it."""
    rows = [row for row in run.rows if row.get(metric) is not None]
    x, y = ([row[name] for row in rows] for name in ("step", metric))
    return Points(np.array(x, float), np.array(y, float), None)


class Band(NamedTuple):
    """Mean and interval over seeds, on a common grid."""

    x: np.ndarray  # f64[k]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(seeds: Sequence[Points], level: float) -> Band | None:
    """The band of a group where all its seeds were measured; None where there is no such place."""
    seeds = [points for points in seeds if len(points.x)]
    if not seeds:
        return None
    first = max(float(points.x[0]) for points in seeds)
    last = min(points.end for points in seeds)
    if np.isinf(last):  # all diverged
        last = max(float(points.x[-1]) for points in seeds)
    if last <= first:
        return None
    x = np.linspace(first, last, POINTS)
    values = np.stack([points.at(x) for points in seeds], -1)  # f64[POINTS, seeds]
    low, high = bootstrap_interval(lambda drawn: drawn.mean(-1), [values], level=level)
    return Band(x, values.mean(-1), low, high)
