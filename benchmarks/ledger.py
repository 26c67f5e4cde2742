"""The ledger's cost: its share of a learner step of the demo, for each of the three algorithms.

Every entry point of the accounting is timed while the steps run, on both threads, with what it waits
for the other one. (Runs with and without it differ by less than two equal runs do, so that their ratio
would say nothing.)

    python benchmarks/ledger.py [steps]
"""

import functools
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from rlbench.accounting.account import Account
from rlbench.accounting.ledger import Ledger
from rlbench.accounting.memory import MemoryMeter
from rlbench.accounting.timeline import Timeline
from rlbench.acting.episode import Episodes
from rlbench.experiment import Experiment
from rlbench.plan import make_plan

ENTRIES = [
    *((Ledger, name) for name in ("acted", "judged", "settled", "learned", "row")),
    *((Account, name) for name in ("ran", "passed", "judged", "take")),
    (MemoryMeter, "observe"),
    (Timeline, "switch"),
    (Timeline, "seconds"),
    *((Episodes, name) for name in ("passes", "tally")),
]


class Stopwatch(threading.local):
    """Seconds that each thread spent within timed functions; of nested ones the outermost counts."""

    everybodys: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self.depth = 0

    def time(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self.depth += 1
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.everybodys.append(time.perf_counter() - began)

        setattr(owner, name, timed)

    def lap(self) -> float:
        """Seconds of all threads since the last lap."""
        seconds, count = 0.0, len(self.everybodys)
        for _ in range(count):
            seconds += self.everybodys.pop(0)
        return seconds


def measure(algo: str, steps: int, watch: Stopwatch) -> tuple[float, float]:
    """Medians of a step's seconds and of the accounting's share of it."""
    words = ["experiment=demo", f"algo={algo}", "tracker=none", "warm_start.steps=0", f"steps={steps}"]
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        plan = make_plan(compose("config", words), {"algo": algo, "task": "arithmetic"})
    lengths, shares = [], []

    class Timed(Experiment):
        last = 0.0

        def _learned(self, *about: Any) -> None:
            super()._learned(*about)
            now, spent = time.perf_counter(), watch.lap()
            if self.state.version > 3:
                lengths.append(now - self.last)
                shares.append(spent / (now - self.last))
            self.last = now

    with tempfile.TemporaryDirectory() as folder:
        experiment = Timed(plan, Path(folder))
        experiment.go()
        experiment.finish()
    return float(np.median(lengths)), float(np.median(shares))


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    watch = Stopwatch()
    for entry in ENTRIES:
        watch.time(*entry)
    table = Table(title=f"the ledger's share of a step, of {steps}", title_justify="left")
    for name in ("algorithm", "step", "ledger", "share"):
        table.add_column(name, justify="right")
    for algo in ("ppo", "grpo", "async_grpo"):
        length, share = measure(algo, steps, watch)
        table.add_row(algo, f"{length * 1e3:.0f} ms", f"{length * share * 1e3:.2f} ms", f"{share:.2%}")
    Console().print(table)


if __name__ == "__main__":
    main()
