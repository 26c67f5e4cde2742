"""The demo's table: three algorithms from sixteen starts, as a page. `make results-demo` makes the runs it reads."""

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from rlbench.records import read_config, read_summary

ALGORITHMS = ("ppo", "grpo", "async_grpo")
SEEDS = {"native": range(8), "AVX": range(4), "SSE4_2": range(4)}  # by instruction set, which is a folder's name

PAGE = """# The demo, from sixteen starts

Two-digit addition, as `make demo` trains it: {algorithms}, seeds 0 to 7 with all of the machine's instructions,
seeds 0 to 3 with AVX's and with SSE4.2's alone, which round differently, as another machine would. Accuracy is that of
greedy completions of 256 distinct held-out problems.

{table}

"To 0.90" are the learner steps until held-out accuracy was first seen at 0.90; the demo looks every {every}. The three
algorithms of a seed share a warm start. Made on {machine}.

    make results-demo    # makes what is missing of the runs, in multirun/results-demo, and writes this page

Versions: {versions}.
"""


def main(folder: Path) -> str:
    """The page."""
    lines = [
        "| algorithm | instructions | seed | start | end | to 0.90 (steps) |",
        "|---|---|---|---|---|---|",
    ]
    ends: dict[str, list[float]] = {algorithm: [] for algorithm in ALGORITHMS}
    for name, seeds in SEEDS.items():
        found = {
            (s["algo"], s["seed"]): s
            for s in map(read_summary, sorted(path.parent for path in folder.glob(f"{name}/*/summary.json")))
        }
        for algorithm in ALGORITHMS:
            for seed in seeds:
                run = found.get((algorithm, seed))
                if run is None or run["status"] != "finished":
                    sys.exit(f"{folder / name}: no finished run of {algorithm} with seed {seed}")
                ends[algorithm].append(run["accuracy_after"])
                lines.append(row(algorithm, name, run))
    worst = "  \n".join(
        f"{algorithm}: {mean(values):.3f} on average, {min(values):.3f} at least" for algorithm, values in ends.items()
    )
    names = ("jax", "flax", "optax", "numpy")
    return PAGE.format(
        algorithms=", ".join(ALGORITHMS),
        table="\n".join([worst, "", *lines]),
        machine=processor(),
        every=read_config(folder / "native" / "0")["evaluation"]["every"],
        versions=", ".join(f"{name} {version(name)}" for name in names) + f", Python {platform.python_version()}",
    )


def row(algorithm: str, instructions: str, run: dict[str, Any]) -> str:
    reached = run["time_to_target"]
    cells = (
        algorithm,
        instructions,
        run["seed"],
        f"{run['accuracy_before']:.3f}",
        f"{run['accuracy_after']:.3f}",
        reached["step"] if reached else "-",
    )
    return f"| {' | '.join(map(str, cells))} |"


def processor() -> str:
    """The processor's name, as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    return f"{len(names)} cores of {names[0].split(':')[1].strip()}" if names else platform.processor()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds a sweep's folder for each instruction set")
    print(main(parser.parse_args().folder), end="")
