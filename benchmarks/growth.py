"""Growth of a learner step: its seconds, and its operations, against one size at a time.

GRPO on two-digit addition, 64 problems in groups of 8, completions of 4 tokens, three layers of width 64; one of these
sizes is changed. Completions do not end early. Simulated devices share this machine's cores: their seconds say what
cutting a step into parts costs. Exponents are least-squares slopes between logarithms, over the upper half of a row.

    python -m benchmarks.growth
"""

import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from benchmarks.peers import Work, plan_of
from benchmarks.side import Side
from rlbench.devices import keep_freed_memory

BASE = {"problems": 64, "group": 8, "tokens": 4, "width": 64, "layers": 3}
SIZES = {
    "problems": (8, 32, 128, 512, 1024),
    "group": (1, 4, 16, 64, 128),
    "tokens": (4, 16, 64, 128, 256),
    "width": (8, 32, 128, 512, 800),
    "layers": (1, 4, 16, 64),
}
DEVICES = (1, 2, 4, 8)
REPEATS = 5


def measured(**sizes: int) -> tuple[float, float]:
    """Seconds and operations of a step, medians of a few."""
    sizes = BASE | sizes
    work = Work(sizes["problems"], sizes["group"], sizes["tokens"], sizes["width"])
    plan = plan_of(work, f"model.layers={sizes['layers']}", devices=jax.devices())
    side = Side(plan, optax.adamw(1e-5))
    for _ in range(2):
        side.step()
    side.flops()
    seconds = [sum(side.step()) for _ in range(REPEATS)]
    plan.verifier.close()
    return float(np.median(seconds)), side.flops() / REPEATS


def slope(x: Any, y: Any) -> float:
    """The exponent of y in x, over the upper half."""
    half = len(x) // 2
    return float(np.polyfit(np.log(x[half:]), np.log(y[half:]), 1)[0])


def on_devices(count: int) -> tuple[float, float]:
    """The base's step on so many simulated devices, in a process of its own."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    command = [sys.executable, "-m", "benchmarks.growth", "--base"]
    done = subprocess.run(command, env=os.environ | {"XLA_FLAGS": flags}, check=True, capture_output=True, text=True)
    seconds, flops = map(float, done.stdout.split())
    return seconds, flops


def main() -> None:
    keep_freed_memory()
    if "--base" in sys.argv[1:]:
        print(*measured())
        return
    table = Table(title=f"a learner step, medians of {REPEATS}, on {jax.devices()[0].device_kind}")
    for name in ("size", "from", "to", "seconds", "exponent of seconds", "of operations", "µs a rollout"):
        table.add_column(name, justify="right")
    rows = {name: (sizes, [measured(**{name: size}) for size in sizes]) for name, sizes in SIZES.items()}
    rows["devices"] = DEVICES, [on_devices(count) for count in DEVICES]
    for name, (sizes, points) in rows.items():
        seconds, flops = zip(*points, strict=True)
        changed = [BASE | {name: size} for size in sizes]
        per = [1e6 * took / (one["problems"] * one["group"]) for took, one in zip(seconds, changed, strict=True)]
        table.add_row(
            *(name, str(sizes[0]), str(sizes[-1]), " ".join(f"{x:.3f}" for x in seconds)),
            *(f"{slope(sizes, values):.2f}" for values in (seconds, flops)),
            " ".join(f"{x:.0f}" for x in per),
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
