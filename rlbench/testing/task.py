"""Checks of a task: each check takes the task and what judges its completions, and raises where it breaks."""

import pickle
import re
import subprocess
import sys
from collections.abc import Hashable, Sequence
from inspect import getdoc
from typing import Any

from ..contract.task import has_solutions, opened, solution_of
from ..types import PendingStep, PluginError, Problem, Status, Step, Task, is_full
from ..verifying.steps import own
from ..verifying.verifier import Verifier
from .outcome import NotApplicable, Rule, expect

SPLITS = ("train", "heldout")
SAMPLE = (*range(97), 1 << 32, (7 << 32) + 1, 1 << 40)  # a run's own problems are numbered from its seed << 32
MANY = 500
GARBAGE = ("", "?", "0" * 40, " ", "\n", "the answer", "None", "1e9")
JUDGED = re.compile(r"\b(reward|pays|paid|judged|score[sd]?|points?|earns?)\b", re.IGNORECASE)

# Reads a pickled task and numbers of problems, and says what they ask: as another process sees them.
ELSEWHERE = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
task, seeds, splits = pickle.load(sys.stdin.buffer)
problems = [task.problem(seed, split) for split in splits for seed in seeds]
solution = getattr(task, "solution", lambda state: None)
sys.stdout.buffer.write(pickle.dumps([(one.prompt, solution(one.state), one.key) for one in problems]))
"""


def check_docstring(task: Task, verifier: Verifier) -> None:
    """Its docstring, or its file's, says what is asked and how it is judged."""
    texts = [getdoc(type(task)) or "", getattr(sys.modules[type(task).__module__], "__doc__", None) or ""]
    expect(any(texts), "maker", "a docstring of the task or of its file", "none")
    judged = JUDGED.search(" ".join(texts))
    expect(
        judged,
        "maker",
        "a docstring that says how a completion is judged",
        repr(max(texts, key=len).partition("\n")[0]),
    )


def check_solution(task: Task, verifier: Verifier) -> None:
    """Its own reference solutions are solved: they earn full reward, which is 1, or their last step says so."""
    if not has_solutions(task):
        raise NotApplicable("it has no reference solutions")
    for split in SPLITS:
        for seed, step in judged(task, verifier, states_of(task, split)):
            full = is_full(step.reward) if step.solved is None else step.solved
            fine = full and step.status == Status.PASSED
            expect(fine, "solution", f"reward 1 and {Status.PASSED} for solution of {split} {seed}", described(step))


def check_garbage(task: Task, verifier: Verifier) -> None:
    """Completions that answer nothing earn less than full reward, and break nothing."""
    for completion in GARBAGE:
        for seed, step in judged(task, verifier, states_of(task, "train"), completion):
            less = step.reward < 1 and not step.solved
            expect(less, "step", f"less than reward 1 for {completion!r} to train {seed}", described(step))


def check_determinism(task: Task, verifier: Verifier) -> None:
    """The same seed is the same problem, in another process too, and the same completion earns the same."""
    ours = asked(task)
    expect(asked(task) == ours, "problem", "the same problem for the same seed", "another at the second call")
    given = pickle.dumps(sys.path) + pickle.dumps((task, SAMPLE, SPLITS))
    run = subprocess.run([sys.executable, "-c", ELSEWHERE], input=given, capture_output=True)
    expect(run.returncode == 0, "problem", "the same problems in another process", last_line(run.stderr))
    for here, there in zip(ours, pickle.loads(run.stdout), strict=True):
        expect(here == there, "problem", f"{here} in another process", f"{there}: does it hash a text or order a set?")
    for completion in (None, "?") if has_solutions(task) else ("?",):
        states = states_of(task, "train")
        first = dict(judged(task, verifier, states, completion))
        for when, others in (("again", states_of(task, "train")), ("when its state is played again", states)):
            for seed, other in judged(task, verifier, others, completion):
                if one := first.get(seed):
                    same = (one.reward, one.status) == (other.reward, other.status)
                    expect(same, "step", f"{described(one)} {when} for train {seed}", described(other))


def asked(task: Task) -> list[tuple[str, str | None, Hashable]]:
    """Prompts, first reference solutions, if there are any, and keys of the sample."""
    problems = [task.problem(seed, split) for split in SPLITS for seed in SAMPLE]
    solution = getattr(task, "solution", lambda state: None)
    return [(problem.prompt, solution(problem.state), problem.key) for problem in problems]


def last_line(stderr: bytes) -> str:
    return (stderr.decode(errors="replace").strip().splitlines() or ["no word"])[-1]


def check_picklable(task: Task, verifier: Verifier) -> None:
    """The task and a problem's state survive pickling: reference solutions to the copies pass."""
    twin: Task = copied("maker", task)
    states = [copied("problem", task.problem(seed, "train")).state for seed in SAMPLE]
    if not has_solutions(task):
        return
    for seed, step in judged(twin, verifier, states):
        expect(step.status == Status.PASSED, "problem", f"solution of train {seed}, pickled, to pass", described(step))


def copied(about: str, value: Any) -> Any:
    """The value, pickled and back."""
    try:
        return pickle.loads(pickle.dumps(value))
    except Exception as error:
        what = "a state" if isinstance(value, Problem) else "a task"
        expect(False, about, f"{what} that can be pickled", f"{type(error).__name__}: {error}")


def check_splits(task: Task, verifier: Verifier) -> None:
    """No training problem is held out, in these words or others, among those drawn."""
    drawn = [[task.problem(seed, split) for seed in range(MANY)] for split in SPLITS]
    for name in ("prompt", "identity"):
        train, heldout = ({getattr(problem, name): None for problem in problems} for problems in drawn)
        both = [value for value in train if value in heldout]
        what = "problem" if name == "prompt" else "problem's key"
        expect(not both, "problem", f"no {what} in both splits, of {MANY} each", f"{len(both)}, such as {both[:1]}")


def check_bounds(task: Task, verifier: Verifier) -> None:
    """Prompts, reference solutions and observations stay within the lengths and the alphabet that the task declares."""
    bounds = task.bounds

    def within(text: str, most: int, what: str) -> None:
        expect(0 < len(text) <= most, "bounds", f"{what} of 1 to {most} characters", f"{len(text)}: {text!r}")
        strange = "".join(sorted(set(text) - bounds.alphabet))
        expect(not strange, "bounds", f"{what} in the alphabet that bounds declare", f"{strange!r} in {text!r}")

    for split in SPLITS:
        going = [task.problem(seed, split) for seed in SAMPLE]
        for problem in going:
            within(problem.prompt, bounds.prompt, "a prompt")
        states = [problem.state for problem in going]
        if not has_solutions(task):
            continue
        for turn in range(bounds.turns):
            answers = [(state, solution_of(task, own(state))) for state in states]
            for _, completion in answers:
                within(completion, bounds.completion, "a reference solution")
            with opened(task):
                steps, _ = verifier.judge(task, answers)
            questions = [(step.state, step.next_observation) for step in steps if step.next_observation is not None]
            over = not questions or turn + 1 < bounds.turns
            expect(over, "bounds", f"reference solutions that end it in {bounds.turns} turns", "another question")
            for _, next_observation in questions:
                within(next_observation, bounds.observation, "an observation")
            states = [state for state, _ in questions]


def states_of(task: Task, split: str) -> list[Any]:
    return [task.problem(seed, split).state for seed in SAMPLE]


class Witness:
    """A task, and the first error that a step of its raised."""

    def __init__(self, task: Task):
        self.task = task
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def step(self, state: Any, completion: str) -> Step | PendingStep:
        try:
            return self.task.step(state, completion)
        except Exception as error:
            self.error = self.error or error
            raise


def judged(
    task: Task, verifier: Verifier, states: Sequence[Any], completion: str | None = None
) -> list[tuple[int, Step]]:
    """The last steps of episodes about the sample's problems, with their seeds, but for those that broke.

    Raises:
      Exception: what a step raised.
      PluginError: more of them broke than a run would put up with.
    """
    witness = Witness(task)
    with opened(task):
        played = verifier.play(witness, states, completion)
    if witness.error:
        raise witness.error
    broke = [step for step in played if step.status == Status.INFRASTRUCTURE]
    if len(broke) > (most := verifier.settings.max_failures) * len(played):
        what = "reference solutions" if completion is None else f"completions {completion!r}"
        allowed = f"at most {most:g} (verifier.max_failures) of {len(played)} {what} that cannot be judged"
        raise PluginError("step", allowed, f"{len(broke)}, the first of them {described(broke[0])}")
    return [(seed, step) for seed, step in zip(SAMPLE, played, strict=True) if step.status != Status.INFRASTRUCTURE]


def described(step: Step) -> str:
    return f"{step.reward:g} ({', '.join(filter(None, (step.status, step.detail)))})"


TASK_CHECKS: dict[str, Rule] = {
    "docstring": Rule(check_docstring, "maker"),
    "solution": Rule(check_solution, "solution"),
    "garbage": Rule(check_garbage, "step"),
    "determinism": Rule(check_determinism, "problem"),
    "picklable": Rule(check_picklable, "problem"),
    "splits": Rule(check_splits, "problem"),
    "bounds": Rule(check_bounds, "bounds"),
}
