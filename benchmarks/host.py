"""The cost of Python: microseconds a rollout of a run whose network is so small that arithmetic costs next to nothing.

A run as the command line makes it, with ledger, metrics and files, against a plain loop in JAX (benchmarks/step.py):
one layer of width 8, two-digit addition, 512 rollouts a step. The first steps are left out.

    python -m benchmarks.host [steps]
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from benchmarks.step import plain_step
from rlbench import experiment
from rlbench.plan import Plan, make_plan

TINY = ["model=nano", "model.layers=1", "model.width=8", "model.heads=1", "model.hidden=24"]
BARE = ["warm_start.steps=0", "evaluation.every=100000", "evaluation.problems=8", "tracker=none", "algo.kl_coef=0.04"]
WARM_UP = 10


class Moment(NamedTuple):
    """Seconds so far when a learner step ended."""

    step: float  # of rlbench
    plain: float  # of the plain loop
    host: float  # of Python on both threads, waiting apart
    judging: float  # of it
    learner: float  # of it, on the learner's thread


def plan_of(group: int, steps: int) -> Plan:
    words = ["algo=grpo", f"algo.group_size={group}", f"steps={WARM_UP + steps}", "batch.rollouts=512", *TINY, *BARE]
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", words)
    return make_plan(config, {"algo": "grpo", "task": "arithmetic"}, jax.devices()[:1])


def moments(plan: Plan) -> np.ndarray:
    """A run's steps, after each of which the plain loop takes one: seconds [steps, columns of Moment]."""
    plain, seen = plain_step(plan), [Moment(time.perf_counter(), 0.0, 0.0, 0.0, 0.0)]

    class InTurn(experiment.Experiment):
        def _learned(self, *event: Any) -> None:
            super()._learned(*event)
            threads, before = self.parts.timeline.seconds(), seen[-1].plain
            actor, learner = threads["actor"], threads["learner"]
            own = learner["host"] - before
            now = time.perf_counter()
            took = sum(plain(len(seen)))
            judging = actor["verifying"]
            seen.append(Moment(now - before, before + took, actor["host"] + judging + own, judging, own))

    original, experiment.Experiment = experiment.Experiment, InTurn  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as folder:
            experiment.run(plan, Path(folder))
    finally:
        experiment.Experiment = original  # type: ignore[misc]
    return np.diff(np.array(seen), axis=0)[WARM_UP:]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    table = Table(title=f"microseconds a rollout, medians of {steps} steps of 512, in turn")
    for name in ("group", "Python", "of it judging", "of it learner", "step", "plain loop's step", "ratio"):
        table.add_column(name, justify="right")
    for group in (8, 1):
        plan = plan_of(group, steps)
        seconds = moments(plan)
        ratio = np.median(seconds[:, 0] / seconds[:, 1])
        step, plain, host, judging, learner = 1e6 / plan.rollouts * np.median(seconds, axis=0)
        table.add_row(str(group), *(f"{x:.1f}" for x in (host, judging, learner, step, plain)), f"{ratio:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
