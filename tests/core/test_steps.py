"""A task's own code that raises, hangs or changes what it was given: it costs a rollout, and no other's."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from rlbench.types import Call, PendingStep, Program, Status, Step, TooManyFailures
from rlbench.verifying import steps
from rlbench.verifying.steps import own
from tests.fakes import VERIFIER, Copy, verifier_of
from tests.security.machine import needs_sandbox

P, W, I = Status.PASSED, Status.WRONG, Status.INFRASTRUCTURE  # noqa: E741
AT_ONCE = {"step_seconds": 0.05}


class Untellable(SystemExit):
    def __str__(self):
        raise TypeError


class Raises(Copy):
    def step(self, state, completion):
        if completion == "b":
            raise ValueError("no such letter\nin any alphabet")
        if completion == "=":
            raise Untellable
        return super().step(state, completion)


def test_a_step_that_raises_breaks_its_own_rollout_and_says_why():
    said = [("a", completion) for completion in ("a", "b", "c", "=")]
    judged, took = VERIFIER.judge(Raises(), said, prompts=["a="] * 4)
    assert [step.status for step in judged] == [P, I, W, I] and took.calls == 4
    assert judged[1] == Step("a", None, 0.0, I, detail=judged[1].detail)
    assert judged[1].detail == "ValueError: no such letter (problem 'a=', completion 'b')"
    assert judged[3].detail.startswith("Untellable: its message can't be told")


class Unsettled(Copy):
    """Its programs are run, and what became of them cannot be told."""

    def step(self, state, completion):
        return PendingStep(Program("def f(): return 1", "f", (Call((), 1),)), lambda verdict: 1 / 0)


@needs_sandbox
def test_so_does_one_that_raises_after_its_program_was_run():
    ((step,), _) = VERIFIER.judge(Unsettled(), [("a", "a")])
    assert step.status == I and step.detail == "ZeroDivisionError: division by zero (completion 'a')"


class Hangs(Copy):
    """Hangs over "b", using as much of a processor as it gets, until it is released."""

    def __init__(self):
        self.released = threading.Event()
        self.threads = []

    def step(self, state, completion):
        self.threads.append(threading.get_ident())
        while completion == "b" and not self.released.is_set():
            pass
        return super().step(state, completion)


@pytest.fixture
def hanging():
    task = Hangs()
    yield task
    task.released.set()


def test_a_step_that_hangs_is_left_behind_and_its_time_is_counted(hanging):
    verifier = verifier_of(**AT_ONCE)
    judged, took = verifier.judge(hanging, [("a", completion) for completion in "abca"])
    assert [step.status for step in judged] == [P, I, W, P]
    assert "it took longer than 0.05 s and was left behind (completion 'b')" in judged[1].detail
    first, second, third, fourth = hanging.threads
    assert first == second != third == fourth
    used, end = took.cpu_seconds, time.monotonic() + 60
    while used < 0.2:  # of a processor that may be busy with other things
        used += verifier.judge(Copy(), [("a", "a")])[1].cpu_seconds
        assert time.monotonic() < end, "what it takes after it was left is counted, too"


def test_no_more_may_hang_at_once_than_so_many(hanging, monkeypatch):
    monkeypatch.setattr(steps, "STUCK", 1)
    with pytest.raises(TooManyFailures, match=r"steps of Hangs do not return: 2 calls hang, each for over 0\.05 s"):
        verifier_of(**AT_ONCE).judge(hanging, [("a", "b"), ("a", "b")])


def test_no_completion_costs_a_change_of_threads(hanging):
    """A batch is handed over whole, to the thread that took the last one."""
    verifier = verifier_of()
    for _ in range(3):
        verifier.judge(hanging, [("a", "a")] * 10)
    assert len(set(hanging.threads)) == 1 != threading.get_ident()


def test_processor_time_is_that_of_the_steps():
    class Busy(Copy):
        def step(self, state, completion):
            end = time.thread_time() + 0.02
            while time.thread_time() < end:
                pass
            return super().step(state, completion)

    took = VERIFIER.judge(Busy(), [("a", "a")] * 5)[1]
    assert 0.1 <= took.cpu_seconds < 0.2


def test_failures_end_a_run_above_a_fraction_of_the_latest_completions():
    def counted(verifier, *counts):
        for broken, fine in counts:
            verifier.tolerate([Step("", None, 0.0, I, detail="why")] * broken + [Step("", None, 0.0, P)] * fine)

    counted(verifier_of(max_failures=0.1), (10, 0), (0, 90), (0, 100), (10, 0))  # few are taken for a hundred
    with pytest.raises(TooManyFailures, match=r"max_failures=0\.1: 11 of the last 11 completions .*; the last: why"):
        counted(verifier_of(max_failures=0.1), (11, 0))
    counted(verifier_of(max_failures=0.1), *[(1, 9)] * 300)
    with pytest.raises(TooManyFailures, match="101 of the last 1000"):
        counted(verifier_of(max_failures=0.1), (0, 10_000), (101, 0))
    counted(verifier_of(max_failures=1.0), (2000, 0))
    with pytest.raises(TooManyFailures):
        counted(verifier_of(max_failures=0.0), (0, 1000), (1, 0))


class Consumes(Copy):
    """The answer is taken out of the state when it is compared."""

    def problem(self, seed, split):
        problem = super().problem(seed, split)
        return problem._replace(state=[problem.state])

    def step(self, state, completion):
        return super().step(state.pop(), completion)

    def solution(self, state):
        return state.pop()


def test_every_attempt_has_a_state_of_its_own():
    state = ["a"]
    judged, _ = VERIFIER.judge(Consumes(), [(state, "a"), (state, "a"), (state, "b")])
    assert [step.status for step in judged] == [P, P, W] and state == ["a"]
    assert [step.status for step in VERIFIER.play(Consumes(), [state, state])] == [P, P] and state == ["a"]


class Named(Step):
    """A named tuple that has a dict: something can be hung onto it."""


def test_a_state_that_nothing_can_change_is_not_copied():
    fixed = Step(("a", 1, None, frozenset({2.0})), "b", 0.0, Status.OPEN)
    assert own(fixed) is fixed
    for open_to_change in (["a"], (1, ["a"]), Step([], "b", 0.0, Status.OPEN), Named(1, "b", 0.0, Status.OPEN)):
        assert own(open_to_change) == open_to_change and own(open_to_change) is not open_to_change


HOLDS = """
import ctypes, signal, sys, time
from tests.fakes import Copy, verifier_of

class Holds(Copy):
    def step(self, state, completion):
        print("it holds", flush=True)
        time.sleep(float(sys.argv[2]))  # meanwhile the main thread sees Ctrl-C, and leaves
        ctypes.PyDLL(None).sleep(1000)  # without letting go of Python's lock

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
verifier = verifier_of(step_seconds=float(sys.argv[1]))
try:
    verifier.judge(Holds(), [("a", "c")], prompts=["a="])
except KeyboardInterrupt:
    pass
time.sleep(1000)  # it goes on with something else
"""


@pytest.mark.parametrize(
    ("seconds", "late", "why"),
    [
        ("0.5", "0", "verifier.step_seconds=0.5"),
        ("0.5", "1.5", "verifier.step_seconds=0.5"),
        ("600", "0", "Ctrl-C came"),
        ("600", "0.5", "Ctrl-C came"),
    ],
)
def test_a_step_that_holds_pythons_lock_is_ended_with_the_process(seconds, late, why):
    """Only another process can, where no Python runs: after the time of a step, or within 2 seconds of Ctrl-C.

    It may take the lock when it was left behind already.
    """
    command = [sys.executable, "-c", HOLDS, seconds, late]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout and run.stdout.readline() == b"it holds\n"
    if why == "Ctrl-C came":
        run.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = run.communicate(timeout=60)
    # 1.5 seconds on a machine that has nothing else to do.
    assert time.monotonic() - began < 10
    assert run.returncode == -9
    (line,) = said.decode().strip().splitlines()
    assert "a step of the task has held Python's lock" in line and why in line
    assert line.endswith("the run was ended: problem 'a=', completion 'c'")
