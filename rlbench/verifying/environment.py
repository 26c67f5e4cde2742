"""Steps of a task as a stream: completions go in as they are finished, steps come out as they are judged."""

import contextlib
import heapq
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from itertools import count, repeat
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from ..accounting.account import Verification
from ..contract.task import answers_of, blocks, steps_of
from ..interrupts import BEAT, UNINTERRUPTED, Stopped
from ..types import PendingStep, Program, Status, Step, Task, TooManyFailures, Verdict
from .delay import AT_ONCE, Delay
from .payment import broken, payable, plain
from .pool import identity
from .steps import ATOMS, Fault, Steps, TooManyStuck, own
from .watchdog import SHOWN, About


class Submitted(NamedTuple):
    """A completion that waits for its step."""

    ticket: int
    given: tuple[Any, str]  # the state that it was given in, and the completion
    prompt: str  # of its problem, for messages


class Judged(NamedTuple):
    """An answer of the task that was made on another thread, or a verdict that its program got."""

    one: Submitted
    pending: PendingStep | None  # of a verdict
    outcome: Any  # a Step, PendingStep or Fault; or the verdict
    cpu_seconds: float


class SubmitProgramFn(Protocol):
    """Function that has a program run."""

    def __call__(self, program: Program, /) -> Future[Verdict]:
        """The verdict to come."""


class Environment:
    """Judges completions to one task, for one caller.

    Steps of a task that blocks are made side by side on threads; those of any other in the caller's own time, all that
    are submitted at once in one go. Programs are run in the sandbox, each as soon as a worker is free. Identical ones
    are run once.

    Args:
      steps: makes the calls.
      threads: for steps that block.
      run: has a program run.
      delay: by which steps come later.
      stop: ends waiting, once it is set.
    """

    def __init__(
        self,
        task: Task,
        steps: Steps,
        threads: Executor,
        run: SubmitProgramFn,
        delay: Delay = AT_ONCE,
        stop: threading.Event | None = None,
    ):
        self.task, self.delay = task, delay
        self._steps, self._threads, self._run = steps, threads, run
        self._stop, self._over = stop, threading.Event()
        self._blocks = blocks(task)
        self._arrived: SimpleQueue[Judged | None] = SimpleQueue()
        self._woken = False
        self._ready: list[tuple[int, Step]] = []  # tickets and steps that are due
        self._late: list[tuple[float, int, int, Step]] = []  # a heap of others: when one is due, order, ticket, step
        self._order = count()
        self._programs: dict[str, Future[Verdict]] = {}
        self._verification = Verification()
        self.waiting = 0  # completions whose steps were not taken yet

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()  # nobody waits for what is still under way

    def submit(self, tickets: Sequence[int], given: Sequence[tuple[Any, str]], prompts: Sequence[str] = ()) -> None:
        """Has completions judged, each with the state it was given in.

        Args:
          tickets: what the caller knows each by.
          prompts: of their problems, for messages.

        Raises:
          TooManyFailures: more steps hang than may.
          Stopped: `stop` was set.
        """
        with self._metered():
            self.waiting += len(given)
            asked = [*map(Submitted, tickets, given, prompts or repeat(""))]
            if self._blocks:
                for one in asked:
                    self._threads.submit(self._step_elsewhere, one)
                return
            answers = self._make(self._step, given, asked)
            if plain(answers):
                self._ended(tickets, answers)
            else:
                self._answered(asked, answers)

    def take(self, wait: bool) -> list[tuple[int, Step]]:
        """Tickets and steps of completions that are judged and were not taken yet.

        Args:
          wait: until there is one at least, if any is to come, or `wake` is called.

        Raises:
          TooManyFailures: more steps hang than may.
          Stopped: `stop` was set.
        """
        with self._metered():
            while True:
                self._settle()
                ready, self._ready = self._ready, []
                while self._late and self._late[0][0] <= time.monotonic():
                    _, _, ticket, step = heapq.heappop(self._late)
                    ready.append((ticket, step))
                self.waiting -= len(ready)
                if ready or not wait or not self.waiting or self._woken:
                    self._woken = False
                    return ready
                self._pause()

    def wake(self) -> None:
        """Ends the waiting of `take`, now or when it waits next. From any thread."""
        self._arrived.put(None)

    def state(self) -> dict[str, Any]:
        """Steps that have come and were not taken. All else has to be submitted again."""
        with self._metered():
            self._settle()
        now, judged = time.monotonic(), {key: verdict for key, verdict in self._programs.items() if verdict.done()}
        return {
            "ready": self._ready,
            "late": [(due - now, order, ticket, step) for due, order, ticket, step in self._late],
            "verdicts": {key: verdict.result() for key, verdict in judged.items() if not verdict.exception()},
            "verification": self._verification,
        }

    def restore(self, state: Mapping[str, Any]) -> set[int]:
        """Goes on from there, in another process. Returns the tickets that need not be submitted again."""
        now = time.monotonic()
        self._ready, self._verification = list(state["ready"]), state["verification"]
        self._late = [(now + due, order, ticket, step) for due, order, ticket, step in state["late"]]
        self._order = count(1 + max((order for _, order, _, _ in self._late), default=-1))
        for key, verdict in state["verdicts"].items():
            self._programs[key] = Future()
            self._programs[key].set_result(verdict)
        self.waiting = len(self._ready) + len(self._late)
        return {ticket for ticket, _ in self._ready} | {ticket for _, _, ticket, _ in self._late}

    def forget(self) -> None:
        """Has programs that are identical to earlier ones run again."""
        self._programs = {key: verdict for key, verdict in self._programs.items() if not verdict.done()}

    def spent(self) -> Verification:
        """Cost of everything since this was asked last."""
        spent, self._verification = self._verification, Verification()
        return spent

    def _pause(self) -> None:
        """Waits for something to arrive or to be due, and not long."""
        if self._stop and self._stop.is_set():
            raise Stopped
        UNINTERRUPTED.heed()
        until = min(self._late[0][0] - time.monotonic(), BEAT) if self._late else BEAT
        try:
            arrived = self._arrived.get(timeout=max(until, 0.0))
        except Empty:
            return
        self._arrived.put(arrived)

    def _step_elsewhere(self, one: Submitted) -> None:
        """On a thread: one step, by itself."""
        if self._over.is_set():
            return
        try:
            (answer,), spent = self._steps.make(self._step, [one.given], [about(one)], self._over)
        except BaseException as error:  # the caller's to raise
            answer, spent = error, 0.0
        self._arrived.put(Judged(one, None, answer, spent))

    def _answered(self, asked: Sequence[Submitted], answers: Sequence[Any]) -> None:
        """Takes the task's answers to completions: steps, faults, or programs that have to be run first."""
        over = []
        for one, answer in zip(asked, answers, strict=True):
            if type(answer) is Step or isinstance(answer, Fault):
                over.append((one, answer))
                continue
            (answer,) = answers_of(self.task, [answer])
            if isinstance(answer, PendingStep):
                key = identity(answer.program)
                if first := key not in self._programs:
                    self._programs[key] = self._run(answer.program)
                self._programs[key].add_done_callback(partial(self._verdict_came, one, answer, first))
            else:
                over.append((one, answer))
        self._finished(over)

    def _verdict_came(self, one: Submitted, pending: PendingStep, first: bool, verdict: Future[Verdict]) -> None:
        """On any thread."""
        try:
            outcome: Any = verdict.result() if first else repeated(verdict.result())
        except BaseException as error:  # the caller's to raise
            outcome = error
        self._arrived.put(Judged(one, pending, outcome, 0.0))

    def _settle(self) -> None:
        """Takes in what arrived from other threads."""
        arrived: list[Judged] = []
        while not self._arrived.empty():
            if not (judged := self._arrived.get()):
                self._woken = True
                continue
            if isinstance(judged.outcome, BaseException):
                raise self._explained(judged.outcome)
            arrived.append(judged)
        if not arrived:
            return
        answered = [judged for judged in arrived if not judged.pending]
        self._answered([judged.one for judged in answered], [judged.outcome for judged in answered])
        settling = [(judged.one, judged.pending, judged.outcome) for judged in arrived if judged.pending]
        ends = self._make(
            lambda pending, verdict: pending.settle(verdict),
            [pair[1:] for pair in settling],
            [pair[0] for pair in settling],
        )
        self._finished([(one, end) for (one, _, _), end in zip(settling, ends, strict=True)])
        verdicts: list[Verdict] = [verdict for _, _, verdict in settling]
        self._spend(
            programs=sum(not verdict.repeated for verdict in verdicts),
            repeated=sum(verdict.repeated for verdict in verdicts),
            cpu_seconds=sum([*(v.around_seconds for v in verdicts), *(judged.cpu_seconds for judged in arrived)]),
            queue_seconds=sum(verdict.queue_seconds for verdict in verdicts),
        )

    def _finished(self, ends: Sequence[tuple[Submitted, Any]]) -> None:
        """Enters the ends of completions' judgement, steps or faults."""
        steps_of(self.task, [end for _, end in ends if not isinstance(end, Fault)])
        steps = [
            broken(end, one.given[0]) if isinstance(end, Fault) else payable(self.task, one.given[1], end)
            for one, end in ends
        ]
        self._ended([one.ticket for one, _ in ends], steps)

    def _ended(self, tickets: Sequence[int], steps: Sequence[Step]) -> None:
        """Completions are judged; their steps are due once the delay is over."""
        if self.delay == AT_ONCE:
            self._ready += zip(tickets, steps, strict=True)
        else:
            now = time.monotonic()
            for ticket, step in zip(tickets, steps, strict=True):
                heapq.heappush(self._late, (now + self.delay.of(ticket), next(self._order), ticket, step))
        self._spend(
            calls=len(steps),
            cpu_seconds=sum(step.cpu_seconds for step in steps),
            timeouts=[step.status for step in steps].count(Status.TIMEOUT),
        )

    def _step(self, state: Any, completion: str) -> Any:
        """The task's answer, given a state of its own, which it may change."""
        return self.task.step(state if type(state) in ATOMS else own(state), completion)

    def _make(
        self, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], asked: Sequence[Submitted]
    ) -> list[Any]:
        try:
            results, spent = self._steps.make(function, arguments, [*map(about, asked)], self._stop)
        except TooManyStuck as stuck:
            raise self._explained(stuck) from None
        self._spend(cpu_seconds=spent)
        return results

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, TooManyStuck):
            return TooManyFailures(f"steps of {type(self.task).__name__} do not return: {error}")
        return error

    def _spend(self, **costs: float) -> None:
        self._verification = self._verification.plus(Verification(**costs))  # type: ignore[arg-type]

    @contextlib.contextmanager
    def _metered(self) -> Iterator[None]:
        """A block in which the caller's thread judges, or waits for it."""
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self._spend(wall_seconds=time.perf_counter() - wall, cpu_seconds=time.thread_time() - cpu)


def about(one: Submitted) -> About:
    """The subject of its step, for messages."""
    return one.given[1][:SHOWN], one.prompt[-SHOWN:]


def repeated(verdict: Verdict) -> Verdict:
    """The verdict, for another program that is identical: it cost nothing."""
    return verdict._replace(repeated=True, cpu_seconds=0.0, around_seconds=0.0, wall_seconds=0.0, queue_seconds=0.0)
