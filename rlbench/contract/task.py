"""Returns of a task's methods, held to their types and bounds wherever the core takes them in."""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from ..types import LABEL, Bounds, PendingStep, PluginError, Problem, Program, SolvableTask, Status, Step, Task
from .sources import Source, expect_of

STATUSES = tuple(Status)
METHODS = ("problem", "step", "solution")
SIZES = {"prompt": 1, "completion": 1, "turns": 1, "observation": 0}  # of bounds: the least that each may be


def source_of(task: Task) -> Source:
    """Places of a task's methods."""
    return Source(type(task), {name: getattr(type(task), name, None) for name in METHODS})


def check_bounds(task: Task) -> None:
    """Holds a task to bounds from which shapes can be known.

    Raises:
      PluginError: they are not.
    """
    bounds = task.bounds
    with source_of(task).blamed("bounds"):
        expect_of(bounds, isinstance(bounds, Bounds), "bounds", "bounds to be a Bounds")
        letters = bounds.alphabet
        fine = isinstance(letters, Collection) and letters and all(map(is_character, letters))
        expect_of(letters, fine, "bounds", "bounds.alphabet to be a set of characters")
        for name, least in SIZES.items():
            size = getattr(bounds, name)
            expect_of(size, isinstance(size, int) and size >= least, "bounds", f"bounds.{name} of at least {least}")
        fine = bounds.turns == 1 or bounds.observation > 0
        expect_of(bounds.observation, fine, "bounds", f"bounds.observation of at least 1 for {bounds.turns} turns")


def is_character(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 1


def blocks(task: Task) -> bool:
    """True if a task says that its steps wait for something, such as a server; then they are made side by side."""
    return bool(getattr(task, "blocking", False))


def problem_of(task: Task, seed: int, split: str) -> Problem:
    """A problem of a task, within the task's bounds.

    Raises:
      PluginError: it is none, or its prompt is out of bounds, or making it raised.
    """
    (problem,) = problems_of(task, [seed], split)
    return problem


def problems_of(task: Task, seeds: Sequence[int], split: str) -> list[Problem]:
    """Problems of a task, each as of `problem_of`."""
    made, bounds = [], task.bounds
    with source_of(task).blamed("problem"):
        for seed in seeds:
            problem = task.problem(seed, split)
            expect_of(problem, isinstance(problem, Problem), "problem", "a Problem(prompt, state)")
            prompt = problem.prompt
            if not (type(prompt) is str and 0 < len(prompt) <= bounds.prompt and bounds.alphabet.issuperset(prompt)):
                check_text(bounds, "problem", f"a prompt of {split} {seed}", prompt, bounds.prompt)
            made.append(problem)
    return made


def has_solutions(task: Task) -> bool:
    """True if a task has reference solutions."""
    return callable(getattr(task, "solution", None))


@contextlib.contextmanager
def opened(task: Task) -> Iterator[None]:
    """A block in which the task has the resources that it opens, if it does, and after which they are closed."""
    getattr(task, "open", nothing)()
    try:
        yield
    finally:
        getattr(task, "close", nothing)()


def nothing() -> None:
    pass


def solution_of(task: Task, state: Any) -> str:
    """The reference solution of a task to a state, within the task's bounds.

    Raises:
      PluginError: it is no text, or out of bounds, or making it raised.
    """
    with source_of(task).blamed("solution"):
        completion = cast(SolvableTask, task).solution(state)
        check_text(task.bounds, "solution", "a completion", completion, task.bounds.completion)
    return completion


def answers_of(task: Task, answers: list[Any]) -> list[Step | PendingStep]:
    """Answers of a task to completions: each a Step or a PendingStep.

    Raises:
      PluginError: one is neither.
    """
    with source_of(task).blamed("step"):
        for answer in answers:
            expect_of(answer, isinstance(answer, Step | PendingStep), "step", "a Step or a PendingStep")
            if isinstance(answer, PendingStep):
                program = answer.program
                expect_of(program, isinstance(program, Program), "step", "a PendingStep of a Program")
    return answers


def steps_of(task: Task, steps: list[Any]) -> list[Step]:
    """Answers of a task once programs were run: Steps, of observations within the task's bounds.

    Raises:
      PluginError: one is not.
    """
    bounds = task.bounds
    with source_of(task).blamed("step"):
        for step in steps:
            expect_of(step, isinstance(step, Step), "step", "a Step of a verdict")
            expect_of(step.reward, is_real(step.reward), "step", "reward to be a number")
            expect_of(step.cpu_seconds, is_real(step.cpu_seconds), "step", "cpu_seconds to be a number")
            expect_of(step.status, step.status in STATUSES, "step", "status to be a Status")
            expect_of(step.detail, isinstance(step.detail, str), "step", "detail to be a text")
            expect_of(step.solved, step.solved in (None, True, False), "step", "solved to be None, True or False")
            expect_of(step.labels, are_labels(step.labels), "step", "labels to be a tuple of texts of a-z, 0-9 and _")
            if step.status == Status.OPEN and bounds.turns > 1:  # nobody reads what follows the only turn
                check_text(bounds, "step", "an observation of an open step", step.observation, bounds.observation)
    return steps


def is_real(value: Any) -> bool:
    """True of a number of Python or NumPy, not of an array."""
    return isinstance(value, int | float) or (getattr(value, "shape", None) == () and value.dtype.kind in "fiub")


def are_labels(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(label, str) and LABEL.fullmatch(label) for label in value)


def check_text(bounds: Bounds, about: str, what: str, text: Any, most: int) -> None:
    """Holds a text to a length and the alphabet."""
    expect_of(text, isinstance(text, str), about, f"{what} to be a text")
    if not 0 < len(text) <= most:
        raise PluginError(about, f"{what} of 1 to {most} characters, by its bounds", f"{len(text)}: {text!r:.80}")
    if strange := set(text).difference(bounds.alphabet):
        came = f"{''.join(sorted(strange))!r:.80} in {text!r:.80}"
        raise PluginError(about, f"{what} in the alphabet of its bounds", came)


def training_problems(task: Task, seed: int, first: int, count: int) -> list[tuple[int, Problem]]:
    """`count` training problems of a run with their numbers; runs of different seeds have no number in common."""
    numbers = range((seed << 32) + first, (seed << 32) + first + count)
    return [*zip(numbers, problems_of(task, numbers, "train"), strict=True)]
