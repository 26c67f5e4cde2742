"""The verifier: the order of answers, what is run once, what is counted, and what is refused."""

import contextlib
import json

import psutil
import pytest

from rlbench.experiment import run
from rlbench.tracking.terminal import Terminal
from rlbench.types import Bounds, Call, ConfigError, PendingStep, Problem, Program, Status, Step
from tests.fakes import VERIFIER, Copy, verifier_of
from tests.security.machine import needs_sandbox


class Runs(Copy):
    """Completions are run; but "c" is judged at once, and the tests of "b" cannot be told."""

    def step(self, state, completion):
        if completion == "c":
            return super().step(state, completion)
        tests = (Call((), object() if completion == "b" else "a"),)
        return PendingStep.last(Program(f"def f():\n return {completion!r}", "f", tests), completion)


@needs_sandbox
def test_answers_come_in_the_order_of_completions_whoever_gives_them():
    said = [("c", completion) for completion in ("a", "c", "ab", "b", "c", "a")]
    steps, took = VERIFIER.judge(Runs(), said)
    P, W, I = Status.PASSED, Status.WRONG, Status.INFRASTRUCTURE  # noqa: E741
    assert [step.status for step in steps] == [P, P, W, I, P, P]
    assert [step.state for step in steps] == ["a", "c", "ab", "b", "c", "a"]
    assert (took.calls, took.programs, took.repeated) == (6, 3, 1)
    assert steps[0].cpu_seconds > 0 and steps[5].cpu_seconds == 0
    assert took.cpu_seconds > steps[0].cpu_seconds + steps[2].cpu_seconds
    assert 0 < took.queue_seconds < 3 * took.wall_seconds


def test_no_sandbox_is_started_for_a_task_that_runs_nothing():
    verifier = verifier_of()
    steps, took = verifier.judge(Copy(), [("a", "a"), ("a", "b")])
    assert [step.reward for step in steps] == [1.0, 0.0]
    assert (took.calls, took.programs, took.repeated, verifier.sandbox) == (2, 0, 0, None)


class PaysNobody(Copy):
    def step(self, state, completion):
        return Step(state, None, 0.0, Status.WRONG)


class Honest(Copy):
    """One that cannot judge every third of its problems, and says so."""

    def step(self, state, completion):
        step = super().step(state, completion)
        return Step(state, None, 0.0, Status.INFRASTRUCTURE, detail="no service") if state == "c" else step


def test_one_that_cannot_judge_some_is_accepted_up_to_a_fraction():
    verifier_of(max_failures=0.34).rehearse(Honest())
    with pytest.raises(ConfigError, match=r"84 of 256 .* more than verifier.max_failures=0\.32; .* 'ccc=': no service"):
        verifier_of(max_failures=0.32).rehearse(Honest())


class EndsLate(Copy):
    """Two turns, the second of which is never asked for where the first was wrong."""

    bounds = Bounds(alphabet=frozenset("abc="), prompt=4, completion=1, turns=2, observation=2)

    def step(self, state, completion):
        if state == "=":
            return Step(state, "a=", 0.5, Status.PASSED)
        if completion != state:
            return Step(state, None, 0.0, Status.WRONG)
        return Step("=", "a=", 0.5, Status.OPEN)


def test_a_task_is_played_to_its_end():
    states = ["a", "b", "a"]
    assert [(step.reward, step.status) for step in VERIFIER.play(EndsLate(), states)] == [(1.0, Status.PASSED)] * 3
    assert [step.reward for step in VERIFIER.play(EndsLate(), states, "a")] == [1.0, 0.0, 1.0]


def test_a_task_that_pays_nobody_is_refused_before_a_run():
    with pytest.raises(ConfigError, match=r"PaysNobody: its own reference solution to 'a=' earned 0 \(wrong\)"):
        VERIFIER.rehearse(PaysNobody())
    VERIFIER.rehearse(EndsLate())


class Broken(Copy):
    """A reference solution that the sandbox loses."""

    def problem(self, seed, split):
        return Problem("a=", "b")

    def step(self, state, completion):
        return Runs().step(state, completion)


@needs_sandbox
def test_so_is_one_whose_verifier_breaks():
    verifier = verifier_of(max_failures=0.1)
    why = r"256 of 256 of its own reference solutions could not be judged, .* be told"
    with contextlib.closing(verifier), pytest.raises(ConfigError, match=why):
        verifier.rehearse(Broken())


@needs_sandbox
@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_run_counts_what_was_run_and_stamps_where(plan_of, tmp_path, runner):
    plan = plan_of("grpo", f"runner={runner}", task="code")
    summary = run(plan, tmp_path)
    took = json.loads((tmp_path / "ledger.json").read_text())["verification"]
    assert took["programs"] + took["repeated"] == took["calls"] == summary["rollouts"]
    assert took["cpu_seconds"] > 0.001 * took["programs"]
    assert took["queue_seconds"] > 0
    assert took["of_evaluation"]["programs"] > 0
    assert summary["sandbox"] == "fork"
    assert not sandboxes_of_this_process()


def sandboxes_of_this_process() -> list[psutil.Process]:
    """But for the one that the tests share."""
    shared = {worker._process.pid for worker in VERIFIER._pool._workers if worker._process} if VERIFIER._pool else set()
    return [
        child
        for child in psutil.Process().children()
        if "fork_server.py" in str(child.cmdline()) and child.pid not in shared
    ]


@needs_sandbox
def test_a_run_that_fails_at_its_start_or_end_leaves_no_sandbox(plan_of, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    for what in ("__init__", "finish"):
        plan = plan_of("grpo", "steps=1", task="code")
        assert sandboxes_of_this_process(), "reference solutions were rehearsed there"
        with monkeypatch.context() as patched:
            patched.setattr(f"rlbench.experiment.Experiment.{what}", fail)
            with pytest.raises(OSError, match="disk full"):
                run(plan, tmp_path)
        assert not sandboxes_of_this_process(), what


@needs_sandbox
def test_a_plan_that_is_refused_leaves_no_sandbox(plan_of, monkeypatch):
    monkeypatch.setattr("rlbench.tasks.code.Code.solution", lambda self, state: "x")
    with pytest.raises(ConfigError, match="its own reference solution"):
        plan_of("grpo", task="code")
    assert not sandboxes_of_this_process()


@needs_sandbox
def test_a_closed_verifier_starts_again():
    verifier = verifier_of()
    for _ in range(2):
        steps, _ = verifier.judge(Runs(), [("a", "a")])
        assert steps[0].status == Status.PASSED
        verifier.close()


@needs_sandbox
def test_an_unsafe_sandbox_is_stamped(plan_of, tmp_path):
    assert run(plan_of("grpo", "verifier.backend=unsafe", "steps=1", task="code"), tmp_path)["sandbox"] == "unsafe"


def test_the_terminal_says_which_it_was(capsys):
    Terminal().finish({"sandbox": "monty"}, None)
    assert "sandbox monty" in capsys.readouterr().out


def test_arithmetic_has_none(plan_of, tmp_path):
    assert run(plan_of("grpo", "steps=1"), tmp_path)["sandbox"] is None


@needs_sandbox
def test_a_sandbox_that_is_not_safe_refuses_the_run_before_it_starts(plan_of, monkeypatch):
    monkeypatch.setattr("rlbench.verifying.probe.holes", lambda sandbox: ["a program that forks gets through"])
    with pytest.raises(ConfigError, match=r"verifier\.backend=auto: fork is not safe here \(a program that forks"):
        plan_of("grpo", task="code")
