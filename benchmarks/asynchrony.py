"""The worth of asynchrony: rollouts a second of `sync`, `async` and `inflight` beside a slow environment.

    python -m benchmarks.asynchrony [steps]

GRPO on `task=code`. The environment takes as long for a completion as a synchronous step works, acting and learning:
the most that a lead of one step can then win is a factor of 2. Once it takes the same for all, once log-normal with
sigma 1. Last, what a key-value cache that mixes versions of the weights does to log-probabilities, and what it costs
to read the text again instead.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from rlbench.experiment import Experiment
from rlbench.models.likelihood import token_logp
from rlbench.plan import make_plan
from rlbench.running.loop import Learned

WARM_UP = 5  # steps until the queues are as full as they get


class Run(NamedTuple):
    """One run, as far as it was steady."""

    rollouts_per_second: float
    work: float  # seconds of acting and learning a step, by the median
    waiting: float  # part of the wall time in which devices waited for verification or rollouts
    dropped: float  # part of the rollouts
    gaps: np.ndarray  # of log-probabilities: what was recorded, and one forward pass of the token's own version


def run(steps: int, *words: str, versions: bool = False) -> Run:
    """Trains from the cached warm start, without evaluations.

    Args:
      versions: whether weights are kept, to look at log-probabilities.
    """
    settings = ["experiment=code", "algo=grpo", "tracker=none", f"steps={steps}", "evaluation.every=100000"]
    settings += ["evaluation.problems=2", "evaluation.samples=1", "evaluation.pass_at=[1]"]
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        plan = make_plan(compose("config", [*settings, *words]), {"algo": "grpo", "task": "code"})
    ends: list[float] = []
    work: list[float] = []
    gaps: list[np.ndarray] = []

    weights: list[Any] = []

    class Timed(Experiment):
        def _learned(self, ledger: Any, event: Learned) -> None:
            if versions:
                weights.append(self.state.trainable["policy"])
                gaps.append(gap(plan.model, weights, event.acted.batch.rollouts))
            super()._learned(ledger, event)
            ends.append(time.perf_counter())
            work.append(event.acted.seconds + event.seconds)

    with tempfile.TemporaryDirectory() as folder:
        experiment = Timed(plan, Path(folder))
        try:
            experiment.go()
        finally:
            experiment.finish()
            plan.verifier.close()
    assert experiment.ledger
    seconds = experiment.parts.timeline.seconds()["devices"]
    waits = sum(value for state, value in seconds.items() if state in ("waiting_for_verification", "waiting_for_drain"))
    counts = experiment.ledger.counts()["rollouts"]
    rate = plan.rollouts * (len(ends) - 1 - WARM_UP) / (ends[-1] - ends[WARM_UP])
    waiting, dropped = waits / sum(seconds.values()), counts["by_fate"]["stale"] / counts["generated"]
    return Run(rate, statistics.median(work[WARM_UP:]), waiting, dropped, np.concatenate(gaps or [np.zeros(0)]))


def gap(model: Any, weights: list[Any], rollouts: Any) -> np.ndarray:
    """Differences of log-probabilities of tokens whose rows had older weights before."""
    first = np.where(rollouts.mask, rollouts.version, 1 << 30).min(axis=1, keepdims=True)
    mixed = rollouts.mask & (rollouts.version > first)
    exact = np.zeros(rollouts.logp.shape, np.float32)
    for version in np.unique(rollouts.version[mixed]):
        logp = np.asarray(token_logp(model, weights[version], jax.tree.map(jnp.asarray, rollouts)))
        exact = np.where(rollouts.version == version, logp, exact)
    return np.abs(exact - rollouts.logp)[mixed]


def compared(title: str, runners: Sequence[str], steps: int, *words: str) -> Table:
    """Runs under several runners, each against the first."""
    table = Table(title=title, title_justify="left")
    for column in ("runner", "rollouts/s", f"times {runners[0]}", "devices wait", "dropped"):
        table.add_column(column, justify="left" if column == "runner" else "right")
    first = 0.0
    for runner in runners:
        one = run(steps, f"runner={runner}", *words)
        first = first or one.rollouts_per_second
        rate = one.rollouts_per_second
        table.add_row(runner, f"{rate:.0f}", f"{rate / first:.2f}", f"{one.waiting:.0%}", f"{one.dropped:.1%}")
    return table


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    console = Console()
    work = run(steps).work
    slow = f"verifier.delay_seconds={work:.3f}"
    console.print(f"a synchronous step works for {work:.3f} s: so long the environment takes for a completion")
    console.print(compared("the same for all", ("sync", "async", "inflight"), steps, slow))
    tail = compared("log-normal, sigma 1", ("async", "inflight"), steps, slow, "verifier.delay_sigma=1")
    console.print(tail)  # a synchronous step waits for the slowest of 512: some 13 times the mean
    table = Table(
        title="a cache of mixed versions: inflight, max_staleness 2, 8 slots, 2 tokens a chunk", title_justify="left"
    )
    for column in ("recompute_cache", "rollouts/s", "tokens after a swap", "mean gap of logp", "largest"):
        table.add_column(column, justify="right")
    for again in ("false", "true"):
        words = ["runner=inflight", "runner.max_staleness=2", "acting.chunk=2", "acting.slots=8"]
        words.append(f"runner.recompute_cache={again}")
        rate, looked = run(steps, *words).rollouts_per_second, run(steps, *words, versions=True).gaps
        mean, most = (f"{of(looked):.2g}" if len(looked) else "-" for of in (np.mean, np.max))
        table.add_row(again, f"{rate:.0f}", f"{len(looked)}", mean, most)
    console.print(table)


if __name__ == "__main__":
    main()
