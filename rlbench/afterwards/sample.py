"""The command `rlbench-sample`: completions of a run's policy to prompts that are typed, with their verdicts.

    rlbench-sample RUN_FOLDER                    type a prompt; an empty line takes a held-out problem
    rlbench-sample RUN_FOLDER --completions 8    the greedy completion and 7 sampled ones
    echo '17+25=' | rlbench-sample RUN_FOLDER

A prompt of a problem of the task is judged as in training; the first problems of both splits are looked through for
it. Any other gets completions without verdicts. Ends with the input.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..acting.player import Player
from ..command_line import parser_of
from ..contract.task import opened, problem_of
from ..devices import keep_compilations
from ..help import explain, is_one_line
from ..parts import Parts
from ..types import ConfigError, Problem, Status, Step, Task
from .policy import plan_of, policy_of

SEARCHED = 20_000  # problems of each split


class Unjudged:
    """A task's bounds, and no verdict."""

    def __init__(self, task: Task):
        self.bounds, self.problem = task.bounds._replace(turns=1), task.problem

    def step(self, state: Any, completion: str) -> Step:
        return Step(state, None, 0.0, Status.OPEN, detail="no problem of the task: not judged")


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    try:
        sample(options.folder, options.words, options.completions, best=options.best)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not is_one_line(error):
            raise
        print(f"rlbench-sample: {' '.join(explain(error, options.words).split())}", file=sys.stderr)
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    arguments = parser_of("rlbench-sample", __doc__)
    arguments.add_argument("folder", type=Path, help="of a run")
    arguments.add_argument("words", nargs="*", help="overrides, as those of rlbench")
    arguments.add_argument("--completions", type=int, default=4, help="to each prompt, the first one greedy (4)")
    arguments.add_argument("--best", action="store_true", help="the checkpoint of the best held-out accuracy")
    return arguments


def sample(folder: Path, words: Sequence[str], count: int, *, best: bool) -> None:
    """Answers prompts of standard input until it ends."""
    plan = plan_of(folder, words)
    keep_compilations(plan.cache / "compilations")
    with contextlib.closing(plan.verifier), opened(plan.task):
        policy = policy_of(folder, plan, best=best)
        known, task, ids, drawn = Prompts(plan.task), plan.task, itertools.count(0, count), itertools.count()
        player = Parts(plan).evaluator
        for prompt in typed():
            seed, problem = known.find(prompt) if prompt else (one := next(drawn), problem_of(task, one, "heldout"))
            if not prompt:
                print(problem.prompt)
            if reason := unfit(player, problem.prompt):
                print(f"  {reason}")
                continue
            player.task = task if problem.state is not NOTHING else Unjudged(task)
            greedy = [True] + [False] * (count - 1)
            batch = player.play(policy.params, [(seed, problem)], count, first_id=next(ids), version=0, greedy=greedy)
            for kind, end in zip(greedy, batch.trajectories, strict=True):
                texts = " | ".join(map(repr, end.completions))
                verdict = end.detail or end.status if end.status == Status.OPEN else f"{end.status} {end.reward:g}"
                print(f"  {'greedy ' if kind else 'sampled'}  {texts:32}  {verdict}")


NOTHING = object()  # state of a prompt that is no problem of the task


class Prompts:
    """Problems of a task by their prompts."""

    def __init__(self, task: Task):
        self.task = task
        self._found: dict[str, tuple[int, Problem]] | None = None

    def find(self, prompt: str) -> tuple[int, Problem]:
        """The problem that a prompt is of, with its number; without a state where it is none of the first ones'."""
        if self._found is None:
            self._found = {}
            for split in ("heldout", "train"):
                for number in range(SEARCHED):
                    problem = problem_of(self.task, number, split)
                    self._found.setdefault(problem.prompt, (number, problem))
        return self._found.get(prompt, (0, Problem(prompt, NOTHING)))


def typed() -> Iterator[str]:
    """Lines of standard input; where somebody types, after a sign."""
    while True:
        try:
            yield input("prompt: " if sys.stdin.isatty() else "")
        except EOFError:
            return


def unfit(player: Player, prompt: str) -> str:
    """The reason why a prompt cannot be read, or nothing."""
    try:
        tokens = len(player.tokenizer.encode(prompt))
    except ConfigError as error:
        return str(error)
    most = player.limits.prompt
    return f"{tokens} tokens; the task's prompts have at most {most}" if tokens > most else ""


if __name__ == "__main__":
    main()
