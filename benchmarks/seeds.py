"""The time of many seeds of the demo's GRPO in one process, against that of a process each.

Everything is cold: each side starts with an empty cache, and makes its own warm starts. On a CPU the other side runs
two processes at a time, on an accelerator one after the other. The sides take turns, if they are run more than once.

Then a program for all seeds at once, their weights stacked along a leading axis (vmap), against a call for each: an
optimizer update of the learner, and a chunk of sampling.

    python -m benchmarks.seeds [seeds [steps [pairs]]]
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from benchmarks.side import Side
from rlbench.devices import CompiledFunction
from rlbench.plan import make_plan

TOGETHER = ["hydra/launcher=seeds"]
APART = {"cpu": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]}  # by platform; elsewhere one after the other


class Swept(NamedTuple):
    """A sweep that was made."""

    seconds: float
    cpu_seconds: float
    accuracies: list[float]  # at the end, by seed
    process_peak: int  # bytes of the device, the most of a process


def sweep(launcher: list[str], seeds: int, steps: int) -> Swept:
    with tempfile.TemporaryDirectory() as folder:
        words = [f"seed=range({seeds})", f"steps={steps}", f"cache={folder}/cache", f"hydra.sweep.dir={folder}/runs"]
        command = [sys.executable, "-m", "rlbench.cli", "-m", "experiment=demo", "algo=grpo", *launcher, *words]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        runs = [Path(folder, "runs", str(number)) for number in range(seeds)]
        summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
        ledgers = [json.loads((run / "ledger.json").read_text()) for run in runs]
        return Swept(
            seconds,
            after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            [summary["accuracy_after"] for summary in summaries],
            max(ledger["memory"]["process_peak"] for ledger in ledgers),
        )


class Called(NamedTuple):
    """A program and what it was called with."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def calls() -> dict[str, Called]:
    """An update and a chunk of sampling of the demo's GRPO, as they come."""
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", ["experiment=demo", "algo=grpo", "tracker=none", "acting.chunk=4"])
    side = Side(make_plan(config, {"algo": "grpo", "task": "arithmetic"}, jax.devices()[:1]), optax.adam(1e-3))
    seen: dict[str, Called] = {}
    whole = CompiledFunction.__call__

    def noted(self: CompiledFunction, *arguments: Any) -> Any:
        if self.name in ("update", "sample"):
            seen[self.name] = Called(self._jitted.__wrapped__, jax.device_get(arguments))
        return whole(self, *arguments)

    CompiledFunction.__call__ = noted  # type: ignore[method-assign]
    try:
        side.step()
    finally:
        CompiledFunction.__call__ = whole  # type: ignore[method-assign]
        side.plan.verifier.close()
    return seen


def leading_axis(called: Called, seeds: int, times: int = 9) -> tuple[float, float]:
    """Seconds of a program for all seeds at once, and of a call for each."""
    one, many = jax.jit(called.function), jax.jit(jax.vmap(called.function))
    each = [jax.device_put(called.arguments) for _ in range(seeds)]
    stacked = jax.tree.map(lambda x: jnp.stack([x] * seeds), called.arguments)
    took: list[tuple[float, float]] = []
    for _ in range(times + 2):
        began = time.perf_counter()
        jax.block_until_ready(many(*stacked))
        middle = time.perf_counter()
        for arguments in each:
            jax.block_until_ready(one(*arguments))
        took.append((middle - began, time.perf_counter() - middle))
    together, apart = zip(*took[2:], strict=True)
    return statistics.median(together), statistics.median(apart)


def main() -> None:
    seeds, steps, pairs = [*map(int, sys.argv[1:4]), *(16, 300, 1)[len(sys.argv) - 1 :]]
    apart = APART.get(jax.default_backend(), ["hydra/launcher=process"])
    made = [(sweep(TOGETHER, seeds, steps), sweep(apart, seeds, steps)) for _ in range(pairs)]
    table = Table("", "one process", " ".join(apart), "ratio", title=f"{seeds} seeds of the demo's GRPO, {steps} steps")
    for name in ("seconds", "cpu_seconds", "process_peak"):
        ours, theirs = (statistics.median(getattr(pair[side], name) for pair in made) for side in (0, 1))
        ratio = statistics.median(getattr(a, name) / getattr(b, name) for a, b in made)
        table.add_row(name, f"{ours:,.1f}", f"{theirs:,.1f}", f"{ratio:.2f}")
    Console().print(table)
    programs = Table("", "one program", "a call each", "ratio", title=f"{seeds} seeds, seconds")
    for name, called in calls().items():
        ours, theirs = leading_axis(called, seeds)
        programs.add_row(name, f"{ours:.4f}", f"{theirs:.4f}", f"{ours / theirs:.2f}")
    Console().print(programs)
    differ = sum(a != b for one, other in made for a, b in zip(one.accuracies, other.accuracies, strict=True))
    print(f"{differ} of {pairs * seeds} seeds ended with another accuracy")


if __name__ == "__main__":
    main()
