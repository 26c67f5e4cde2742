"""Runs that decide between PPO, GRPO and async-GRPO: the same search for each, then seeds that no search used.

Every algorithm gets as many trials in a space of the same size, each on the same tuning seeds. The best settings of
each then run with fresh seeds, one run after the other, so that their seconds are those of the machine alone. Made
again, it makes what is missing.

    python -m benchmarks.verdicts arithmetic FOLDER [further words of every command]
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

ALGORITHMS = ("ppo", "grpo", "async_grpo")
SPACE = ["optimizer.learning_rate=tag(log, interval(5e-4, 8e-3))", "batch.minibatches=1,2,4"]
TRIALS, TUNING_SEEDS, SEEDS = 8, "[100,101]", "range(16)"
OBJECTIVE = "accuracy_after"


def rlbench(*words: str, check: bool = True) -> None:
    """A sweep.

    Args:
      check: ends all where a job fails.
    """
    print("rlbench", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], check=check)


def search(algorithm: str, base: list[str], folder: Path) -> list[str]:
    """Words of the best settings that were found."""
    sweeper = ["hydra/sweeper=optuna", "hydra/launcher=seeds", f"hydra.sweeper.objective={OBJECTIVE}"]
    sweeper += [f"hydra.sweeper.n_trials={TRIALS}", f"hydra.sweeper.seeds={TUNING_SEEDS}"]
    words = [*base, f"algo={algorithm}", *sweeper, *SPACE, f"hydra.sweep.dir={folder}"]
    rlbench("-m", *words, check=False)  # a trial may diverge: it has no value
    found = json.loads((folder / "search.json").read_text())
    if not found["best"]:
        sys.exit(f"no trial of {algorithm} has a value")
    known = sum(trial[OBJECTIVE] is not None for trial in found["trials"])
    return [*found["best"]["settings"], f"trials={known}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("arithmetic", "code"))
    parser.add_argument("folder", type=Path)
    options, further = parser.parse_known_args()
    base = [f"experiment=verdict_{options.task}", *further]
    for algorithm in ALGORITHMS:
        best = search(algorithm, base, options.folder / "search" / algorithm)
        verdict = options.folder / "verdict" / algorithm
        rlbench("-m", *base, f"algo={algorithm}", *best, f"seed={SEEDS}", f"hydra.sweep.dir={verdict}")


if __name__ == "__main__":
    main()
