"""Judges replies: asks the task, and runs what has to be run."""

import math
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..accounting.account import Verification
from ..contract.tasks import answers_of, gold_of, problem_of, steps_of
from ..types import MOST, ConfigError, Count, NonNegative, Positive, Status, Step, Task, Trial
from .pool import Pool
from .probe import Backend, choose
from .sandbox import Limits, Sandbox

REHEARSED = 128  # problems of each split


class Verifying(NamedTuple):
    """How programs are run, and how long an environment takes that is slower than ours."""

    backend: Backend
    workers: Count | None  # None is one a core
    cpu_seconds: Positive  # of one program
    wall_seconds: Positive
    memory_mb: Count
    delay_seconds: NonNegative  # of a turn of training


def payable(task: Task, reply: str, step: Step) -> Step:
    """The step, if its reward is a number that can be learned from; else a failure of the task, not of the reply.

    No reward is NaN or infinite, or beyond MOST, where float32 would make it so.
    """
    if math.isfinite(step.reward) and abs(step.reward) <= MOST:
        return step
    detail = f"{type(task).__name__} paid {step.reward:g} for {reply!r}"
    return step._replace(reward=0.0, status=Status.INFRASTRUCTURE, detail=detail)


class Verifier:
    """Judges the replies of a run. The sandbox is chosen and started at the first program, once for all."""

    def __init__(self, settings: Verifying):
        self.settings = settings
        self.sandbox: Sandbox | None = None  # once there is one
        self._pool: Pool | None = None
        self._starting = threading.Lock()

    def judge(self, task: Task, said: Sequence[tuple[Any, str]], delay: float = 0.0) -> tuple[list[Step], Verification]:
        """The task's answers to replies, each with the state it was given in, and what they took.

        Args:
          delay: seconds that all answers are late, once for all: nobody's reply waits for another's.
        """
        wall, cpu = time.perf_counter(), time.thread_time()
        answers = answers_of(task, [task.step(state, reply) for state, reply in said])
        trials = [answer for answer in answers if isinstance(answer, Trial)]
        verdicts = self._started().verify([trial.program for trial in trials]) if trials else []
        settled = iter([trial.settle(verdict) for trial, verdict in zip(trials, verdicts, strict=True)])
        known = steps_of(task, [next(settled) if isinstance(answer, Trial) else answer for answer in answers])
        steps = [payable(task, reply, step) for step, (_, reply) in zip(known, said, strict=True)]
        if said:
            time.sleep(delay)
        own = time.thread_time() - cpu
        return steps, Verification(
            calls=len(steps),
            programs=sum(not verdict.repeated for verdict in verdicts),
            repeated=sum(verdict.repeated for verdict in verdicts),
            cpu_seconds=own + sum(s.cpu_seconds for s in steps) + sum(v.around_seconds for v in verdicts),
            wall_seconds=time.perf_counter() - wall,
            queue_seconds=sum(verdict.queue_seconds for verdict in verdicts),
            timeouts=sum(step.status == Status.TIMEOUT for step in steps),
        )

    def play(self, task: Task, states: Sequence[Any], reply: str | None = None) -> list[Step]:
        """Plays conversations with the same reply at every turn, or gold ones: last steps, with all of the reward."""
        played = [Step(state, "", 0.0, Status.OPEN) for state in states]
        for _ in range(task.bounds.turns):
            going = [i for i, step in enumerate(played) if step.asks is not None]
            said = [(s, gold_of(task, s) if reply is None else reply) for s in (played[i].state for i in going)]
            for i, step in zip(going, self.judge(task, said)[0], strict=True):
                played[i] = step._replace(reward=played[i].reward + step.reward)
        return played

    def rehearse(self, task: Task) -> None:
        """Plays gold replies to problems of both splits, before anything is spent on a task that does not pay them.

        Raises:
          ConfigError: they do not earn full reward, or the sandbox that they need is not safe here.
        """
        problems = [problem_of(task, seed, split) for split in ("train", "heldout") for seed in range(REHEARSED)]
        for problem, step in zip(problems, self.play(task, [problem.state for problem in problems]), strict=True):
            if abs(step.reward - 1) > 1e-6:
                why = ", ".join(filter(None, (step.status, step.detail)))
                what = f"its own gold reply to {problem.prompt[-80:]!r} earned {step.reward:g} ({why})"
                raise ConfigError("task", type(task).__name__, what)

    def close(self) -> None:
        """Ends the sandbox, if there is one. The next program starts it again."""
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
