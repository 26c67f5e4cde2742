"""Judges completions: asks the task, and runs what has to be run."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from typing import Any, NamedTuple

from ..accounting.account import Verification
from ..checkpoint import Stateful
from ..contract.task import has_solutions, problem_of, solution_of
from ..types import (
    ConfigError,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Program,
    Status,
    Step,
    Task,
    TooManyFailures,
    Verdict,
    is_full,
)
from .delay import AT_ONCE, Delay
from .environment import Environment
from .pool import Pool
from .probe import Backend, choose
from .sandbox import Limits, Sandbox
from .steps import Steps, own
from .watchdog import SHOWN

REHEARSED = 128  # problems of each split
FEWEST, LATEST = 100, 1000  # completions that failures are a part of, at the least and at the most
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
    delay_seconds: NonNegative  # of a turn of training, on average
    delay_sigma: NonNegative  # of its logarithm

    @property
    def delay(self) -> Delay:
        """Seconds that an environment takes that is slower than ours."""
        return Delay(self.delay_seconds, self.delay_sigma)


class Verifier(Stateful):
    """Judges the completions of a run. The sandbox is chosen and started at the first program, once for all.

    A step of the task that raises, or takes too long, broke: its status is INFRASTRUCTURE, the reason in its detail.

    Args:
      environment_workers: steps that are made at once, of a task that blocks.
    """

    STATE = ("_broke",)

    def __init__(self, settings: Verifying, environment_workers: int):
        self.settings, self.environment_workers = settings, environment_workers
        self.sandbox: Sandbox | None = None  # once there is one
        self._pool: Pool | None = None
        self._starting = threading.Lock()
        self._counting = threading.Lock()
        self._steps = Steps(settings.step_seconds)
        self._threads = self._new_threads()
        self._broke: deque[bool] = deque(maxlen=LATEST)  # of the latest completions, which were not judged

    def environment(self, task: Task, delay: Delay = AT_ONCE, stop: threading.Event | None = None) -> Environment:
        """A stream of completions to a task in, of their steps out.

        Args:
          delay: by which steps come later.
          stop: ends waiting, once it is set.
        """
        return Environment(task, self._steps, self._threads, self._run, delay, stop)

    def judge(
        self, task: Task, given: Sequence[tuple[Any, str]], prompts: Sequence[str] = ()
    ) -> tuple[list[Step], Verification]:
        """The task's answers to completions, each with the state it was given in, and what they took.

        Args:
          prompts: of the completions, for messages.

        Raises:
          TooManyFailures: more steps hang than may.
        """
        steps: dict[int, Step] = {}
        with self.environment(task) as environment:
            environment.submit(range(len(given)), given, prompts)
            while environment.waiting:
                steps.update(environment.take(wait=True))
        return [steps[number] for number in range(len(given))], environment.spent()

    def play(self, task: Task, states: Sequence[Any], completion: str | None = None) -> list[Step]:
        """Plays episodes with one completion a turn, or the solutions: last steps, with all of the reward."""
        played = [Step(state, "", 0.0, Status.OPEN) for state in states]
        for _ in range(task.bounds.turns):
            going = [i for i, step in enumerate(played) if step.next_observation is not None]
            given = [
                (s, solution_of(task, own(s)) if completion is None else completion)
                for s in (played[i].state for i in going)
            ]
            for i, step in zip(going, self.judge(task, given)[0], strict=True):
                played[i] = step._replace(reward=played[i].reward + step.reward)
        return played

    def tolerate(self, steps: Sequence[Step]) -> None:
        """Counts what broke among the latest completions of a run.

        Raises:
          TooManyFailures: it is more than settings.max_failures of them.
        """
        statuses = [step.status for step in steps]
        with self._counting:
            if Status.INFRASTRUCTURE not in statuses:
                self._broke.extend(repeat(False, len(steps)))
                return
            broke = [step for step in steps if step.status == Status.INFRASTRUCTURE]
            first = not any(self._broke)
            self._broke.extend(status == Status.INFRASTRUCTURE for status in statuses)
            failures, of = sum(self._broke), len(self._broke)
        if first:
            log.warning("a completion could not be judged, and its rollout is masked: %s", broke[0].detail)
        if failures > (most := self.settings.max_failures) * max(of, FEWEST):
            what = f"{failures} of the last {of} completions could not be judged"
            raise TooManyFailures(f"verifier.max_failures={most:g}: {what}; the last: {broke[-1].detail}")

    def rehearse(self, task: Task) -> None:
        """Plays reference solutions of both splits, before anything is spent on a task that does not pay them.

        Nothing to play where it has none.

        Raises:
          ConfigError: they are not solved, more than settings.max_failures of them can't be judged, or the
            sandbox that they need is not safe here.
        """
        if not has_solutions(task):
            return
        problems = [problem_of(task, seed, split) for split in ("train", "heldout") for seed in range(REHEARSED)]
        broke = []
        for problem, step in zip(problems, self.play(task, [problem.state for problem in problems]), strict=True):
            if step.status == Status.INFRASTRUCTURE:
                broke.append(f"that to {problem.prompt[-SHOWN:]!r}: {step.detail}")
            elif not (is_full(step.reward) if step.solved is None else step.solved):
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
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._threads = self._new_threads()
        self._steps.close()
        with self._starting:
            if self._pool:
                self._pool.close()
            self._pool = None

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.environment_workers, thread_name_prefix="environment")

    def _run(self, program: Program) -> Future[Verdict]:
        return self._started().submit(program)

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
