"""Judges completions: asks the task, and runs what has to be run."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

from ..accounting.account import Verification
from ..contract.task import answers_of, problem_of, solution_of, steps_of
from ..interrupts import Stopped
from ..types import (
    MOST,
    ConfigError,
    Count,
    Fraction,
    NonNegative,
    PendingStep,
    Positive,
    Status,
    Step,
    Task,
    TooManyFailures,
    is_full,
)
from .pool import Pool
from .probe import Backend, choose
from .sandbox import Limits, Sandbox
from .steps import Fault, Steps, TooManyStuck, own

REHEARSED = 128  # problems of each split
FEWEST, LATEST = 100, 1000  # completions that failures are a part of, at the least and at the most
SHOWN = 80  # characters of a text in a message
log = logging.getLogger(__name__)


class Verifying(NamedTuple):
    """Settings of programs' sandbox, and how long an environment takes that is slower than ours."""

    backend: Backend
    workers: Count | None  # None is one a core
    cpu_seconds: Positive  # of one program
    wall_seconds: Positive
    memory_mb: Count
    step_seconds: Positive  # of one step of a task
    max_failures: Fraction  # of completions, that may stay unjudged
    delay_seconds: NonNegative  # of a turn of training


def payable(task: Task, completion: str, step: Step) -> Step:
    """The step, if its reward is a number that can be learned from; else a failure of the task, not of the completion.

    No reward is NaN or infinite, or beyond MOST, where float32 would make it so.
    """
    if math.isfinite(step.reward) and abs(step.reward) <= MOST:
        return step
    detail = f"{type(task).__name__} paid {step.reward:g} for {completion!r}"
    return step._replace(reward=0.0, status=Status.INFRASTRUCTURE, detail=detail)


class Verifier:
    """Judges the completions of a run. The sandbox is chosen and started at the first program, once for all.

    A step of the task that raises, or takes too long, broke: its status is INFRASTRUCTURE, the reason in its detail.
    """

    def __init__(self, settings: Verifying):
        self.settings = settings
        self.sandbox: Sandbox | None = None  # once there is one
        self._pool: Pool | None = None
        self._starting = threading.Lock()
        self._counting = threading.Lock()
        self._steps = Steps(settings.step_seconds)
        self._broke: deque[bool] = deque(maxlen=LATEST)  # of the latest completions, which were not judged

    def judge(
        self,
        task: Task,
        said: Sequence[tuple[Any, str]],
        delay: float = 0.0,
        *,
        prompts: Sequence[str] = (),
        stop: threading.Event | None = None,
    ) -> tuple[list[Step], Verification]:
        """The task's answers to completions, each with the state it was given in, and what they took.

        Args:
          delay: seconds that all answers are late, once for all: nobody's completion waits for another's.
          prompts: of the completions, for messages.
          stop: ends it early, once it is set.

        Raises:
          TooManyFailures: more steps hang than may.
          Stopped: it was set.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            about = [described(completion, prompt) for (_, completion), prompt in zip(said, prompts or repeat(""))]
            answers, of_steps = self._steps.make([partial(answer, task, *one) for one in said], about, stop)
            answers_of(task, [one for one in answers if not isinstance(one, Fault)])
            pending = [one for one in answers if isinstance(one, PendingStep)]
            verdicts = self._started().verify([step.program for step in pending]) if pending else []
            calls = [partial(step.settle, verdict) for step, verdict in zip(pending, verdicts, strict=True)]
            asked = [text for text, one in zip(about, answers, strict=True) if isinstance(one, PendingStep)]
            ends, of_ends = self._steps.make(calls, asked, stop) if calls else ([], 0.0)
        except TooManyStuck as stuck:
            raise TooManyFailures(f"steps of {type(task).__name__} do not return: {stuck}") from None
        settling = iter(ends)
        outcomes = [next(settling) if isinstance(one, PendingStep) else one for one in answers]
        steps_of(task, [outcome for outcome in outcomes if not isinstance(outcome, Fault)])
        steps = [
            broken(outcome, state) if isinstance(outcome, Fault) else payable(task, completion, outcome)
            for outcome, (state, completion) in zip(outcomes, said, strict=True)
        ]
        if said and delay and (stop or threading.Event()).wait(delay):
            raise Stopped
        here = time.thread_time() - cpu
        return steps, Verification(
            calls=len(steps),
            programs=sum(not verdict.repeated for verdict in verdicts),
            repeated=sum(verdict.repeated for verdict in verdicts),
            cpu_seconds=sum(
                [here, of_steps, of_ends, *(s.cpu_seconds for s in steps), *(v.around_seconds for v in verdicts)]
            ),
            wall_seconds=time.perf_counter() - wall,
            queue_seconds=sum(verdict.queue_seconds for verdict in verdicts),
            timeouts=sum(step.status == Status.TIMEOUT for step in steps),
        )

    def play(self, task: Task, states: Sequence[Any], completion: str | None = None) -> list[Step]:
        """Plays episodes with one completion a turn, or the solutions: last steps, with all of the reward."""
        played = [Step(state, "", 0.0, Status.OPEN) for state in states]
        for _ in range(task.bounds.turns):
            going = [i for i, step in enumerate(played) if step.next_observation is not None]
            said = [
                (s, solution_of(task, own(s)) if completion is None else completion)
                for s in (played[i].state for i in going)
            ]
            for i, step in zip(going, self.judge(task, said)[0], strict=True):
                played[i] = step._replace(reward=played[i].reward + step.reward)
        return played

    def tolerate(self, steps: Sequence[Step]) -> None:
        """Counts what broke among the latest completions of a run.

        Raises:
          TooManyFailures: it is more than settings.max_failures of them.
        """
        broke = [step for step in steps if step.status == Status.INFRASTRUCTURE]
        with self._counting:
            first = broke and not any(self._broke)
            self._broke.extend(step.status == Status.INFRASTRUCTURE for step in steps)
            failures, of = sum(self._broke), len(self._broke)
        if first:
            log.warning("a completion could not be judged, and its rollout is masked: %s", broke[0].detail)
        if broke and failures > (most := self.settings.max_failures) * max(of, FEWEST):
            what = f"{failures} of the last {of} completions could not be judged"
            raise TooManyFailures(f"verifier.max_failures={most:g}: {what}; the last: {broke[-1].detail}")

    def rehearse(self, task: Task) -> None:
        """Plays reference solutions of both splits, before anything is spent on a task that does not pay them.

        Raises:
          ConfigError: they do not earn full reward, more than settings.max_failures of them can't be judged, or the
            sandbox that they need is not safe here.
        """
        problems = [problem_of(task, seed, split) for split in ("train", "heldout") for seed in range(REHEARSED)]
        broke = []
        for problem, step in zip(problems, self.play(task, [problem.state for problem in problems]), strict=True):
            if step.status == Status.INFRASTRUCTURE:
                broke.append(f"that to {problem.prompt[-SHOWN:]!r}: {step.detail}")
            elif not is_full(step.reward):
                why = ", ".join(filter(None, (step.status, step.detail)))
                what = f"its own reference solution to {problem.prompt[-SHOWN:]!r} earned {step.reward:g} ({why})"
                raise ConfigError("task", type(task).__name__, what)
        if broke:
            what = f"{len(broke)} of {len(problems)} of its own reference solutions could not be judged"
            if len(broke) > (most := self.settings.max_failures) * len(problems):
                what += f", more than verifier.max_failures={most:g}"
                raise ConfigError("task", type(task).__name__, f"{what}; the first is {broke[0]}")
            log.warning("task=%s: %s; the first is %s", type(task).__name__, what, broke[0])

    def close(self) -> None:
        """Ends the sandbox, if there is one, and idle threads. The next program starts it again."""
        self._steps.close()
        with self._starting:
            if self._pool:
                self._pool.close()
            self._pool = None

    def _started(self) -> Pool:
        with self._starting:
            if not self._pool:
                settings = self.settings
                limits = Limits(settings.cpu_seconds, settings.wall_seconds, settings.memory_mb << 20)
                try:
                    self.sandbox = self.sandbox or choose(settings.backend)
                except ConfigError as error:
                    raise error.below("verifier") from None
                self._pool = Pool(limits, workers=settings.workers, sandbox=self.sandbox)
            return self._pool


def answer(task: Task, state: Any, completion: str) -> Any:
    """The task's answer, given a state of its own, which it may change."""
    return task.step(own(state), completion)


def described(completion: str, prompt: str) -> str:
    """A completion, and the problem that it is of, for messages."""
    completion = f"completion {completion[:SHOWN]!r}"
    return f"problem {prompt[-SHOWN:]!r}, {completion}" if prompt else completion


def broken(fault: Fault, state: Any) -> Step:
    """The end of an episode whose step broke."""
    return Step(state, None, 0.0, Status.INFRASTRUCTURE, detail=f"{fault.reason} ({fault.about})")
