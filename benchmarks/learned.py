"""Pages of what three algorithms learn from several starts: of the demo, and of booking.

`make results-demo` and `make results-booking` make the runs that it reads.
"""

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from rlbench.records import read_config, read_summary

ALGORITHMS = ("ppo", "grpo", "async_grpo")
NATIVE = "native"  # folder of the runs with all of the machine's instructions
LIBRARIES = ("jax", "flax", "optax", "numpy")


class Page(NamedTuple):
    """A setting that is learned."""

    title: str
    about: str
    seeds: dict[str, range]  # by the folder of runs, which says what is special about them


PAGES = {
    "demo": Page(
        "The demo, from eight seeds and three instruction sets",
        f"Two-digit addition, as `make demo` trains it: {', '.join(ALGORITHMS)}, seeds 0 to 7 with all of the "
        "machine's instructions, seeds 0 to 3 with AVX's and with SSE4.2's alone, which round differently, as "
        "another machine would.",
        {NATIVE: range(8), "AVX": range(4), "SSE4_2": range(4)},
    ),
    "booking": Page(
        "Booking, from several starts",
        "Tickets on a web site ([booking.md](../booking.md)), as `experiment=booking` trains it: "
        f"{', '.join(ALGORITHMS)}, seeds 0 to 2 without faults, seed 0 with SSE4.2's instructions alone, which round "
        "differently, as another machine would, and seeds 0 to 2 with up to two faults an episode, at their default "
        "rates.",
        {NATIVE: range(3), "SSE4_2": range(1), "faults": range(3)},
    ),
}

TEXT = """# {title}

{about} Accuracy is that of greedy completions of 256 distinct held-out problems.

{table}

"To {target:.2f}" are the learner steps until held-out accuracy was first seen at {target:.2f}; it is measured every
{every}. The three algorithms of a seed share a warm start. Made on {machine}.

    make results-{name}    # makes what is missing of the runs, in multirun/results-{name}, and writes this page

Versions: {versions}.
"""


def written(name: str, folder: Path) -> str:
    """The page."""
    page, evaluation = PAGES[name], read_config(folder / NATIVE / "0")["evaluation"]
    lines = [
        f"| algorithm | runs | seed | start | end | to {evaluation['target']:.2f} (steps) |",
        "|---|---|---|---|---|---|",
    ]
    ends: dict[str, list[float]] = {algorithm: [] for algorithm in ALGORITHMS}
    for special, seeds in page.seeds.items():
        found = {
            (s["algo"], s["seed"]): s
            for s in map(read_summary, sorted(path.parent for path in folder.glob(f"{special}/*/summary.json")))
        }
        for algorithm in ALGORITHMS:
            for seed in seeds:
                run = found.get((algorithm, seed))
                if run is None or run["status"] != "finished":
                    sys.exit(f"{folder / special}: no finished run of {algorithm} with seed {seed}")
                ends[algorithm].append(run["accuracy_after"])
                lines.append(row(algorithm, special, run))
    worst = "  \n".join(
        f"{algorithm}: {mean(values):.3f} on average, {min(values):.3f} at least" for algorithm, values in ends.items()
    )
    return TEXT.format(
        name=name,
        title=page.title,
        about=page.about,
        table="\n".join([worst, "", *lines]),
        machine=processor(),
        target=evaluation["target"],
        every=evaluation["every"],
        versions=", ".join(f"{name} {version(name)}" for name in LIBRARIES) + f", Python {platform.python_version()}",
    )


def row(algorithm: str, special: str, run: dict[str, Any]) -> str:
    reached = run["time_to_target"]
    cells = (
        algorithm,
        special,
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PAGES)
    parser.add_argument("folder", type=Path, help="holds a sweep's folder for each kind of runs")
    options = parser.parse_args()
    print(written(options.name, options.folder), end="")
