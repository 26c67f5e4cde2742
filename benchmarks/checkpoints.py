"""The cost of checkpoints in the demo's GRPO, and of going on from one.

Of every 20 learner steps the first 10 are taken while a checkpoint is written, the others are not: what the first take
longer is the price of a checkpoint. A run of the demo has three.

    python -m benchmarks.checkpoints [pairs]
"""

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from rlbench import experiment, run_state
from rlbench.plan import Plan, make_plan

BLOCK = 10  # learner steps
WORDS = ["experiment=demo", "algo=grpo", "evaluation.every=100000", "tracker=none"]
DEMO_STEPS, DEMO_EVERY = 300, 100


def plan_of(steps: int) -> Plan:
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", [*WORDS, f"steps={steps}", f"checkpoint.every={2 * BLOCK}"])
    return make_plan(config, {"algo": "grpo", "task": "arithmetic"}, jax.devices()[:1])


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    moments = [time.perf_counter()]
    waited: list[float] = []  # seconds that the learner stood still for a checkpoint
    resumed: list[float] = []

    class Timed(experiment.Experiment):
        def _learned(self, *event: Any) -> None:
            super()._learned(*event)
            moments.append(time.perf_counter())

        def _resumed(self, *saved: Any) -> Any:
            try:
                return super()._resumed(*saved)
            finally:
                resumed.append(time.perf_counter() - began)

    class TimedSaver(run_state.Saver):
        def after(self, *state: Any, **ends: Any) -> None:
            before, owed = time.perf_counter(), self.checkpoints.busy
            super().after(*state, **ends)
            if self.checkpoints.busy and not owed:
                waited.append(time.perf_counter() - before)

    experiment.Experiment, experiment.Saver = Timed, TimedSaver  # type: ignore[misc]
    steps = 2 * BLOCK * (pairs + 1) + 1
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        experiment.run(plan_of(steps), Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("checkpoints/step-*/**/*") if path.is_file())
        kept = len([*Path(folder).glob("checkpoints/step-*")])
        plan, began = plan_of(steps), time.perf_counter()
        experiment.run(plan, Path(folder))
    took = [after - before for before, after in itertools.pairwise(moments[1:])]
    blocks = [sum(took[first : first + BLOCK]) for first in range(2 * BLOCK - 1, steps - BLOCK, BLOCK)]
    price = statistics.median(a - b for a, b in zip(blocks[::2], blocks[1::2], strict=False))
    step = statistics.median(took)
    table = Table("", "", show_header=False)
    table.add_row("a learner step", f"{step:.3f} s")
    table.add_row("a checkpoint: the learner waits", f"{1000 * statistics.median(waited):.0f} ms")
    table.add_row(f"a checkpoint: {BLOCK} steps take longer by", f"{1000 * price:.0f} ms")
    share = price * (DEMO_STEPS / DEMO_EVERY) / (step * DEMO_STEPS)
    table.add_row("of the steps of a run of the demo", f"{100 * share:.1f} %")
    table.add_row("on the disk", f"{size / kept / 1e6:.1f} MB")
    table.add_row("going on from one takes longer than starting by", f"{resumed[0]:.1f} s")
    Console().print(table)


if __name__ == "__main__":
    main()
