"""Disturbance from outside is not a program's fault; and nothing that it does looks as if it came from there."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError

import psutil
import pytest

from rlbench.types import Call, Check, Program, Status
from rlbench.verifying import sandbox
from rlbench.verifying.pool import Pool, alone
from rlbench.verifying.sandbox import Limits, Patience, Sandbox
from tests.security.machine import needs_monty, needs_sandbox
from tests.security.test_backends import gone

SUM = (Call((2, 3), 5),)
CHECK = Check("def check(f): assert f(2, 3) == 5")
LIMITS = Limits(cpu_seconds=5.0, wall_seconds=60.0)
BUSY = "import time\ndef f(a, b):\n    while time.process_time() < {seconds}: pass\n    return a + b"
SLOW = "import time\ndef f(a, b):\n    time.sleep({seconds})\n    return a + b"
GREEDY = "x = bytearray(200 << 20)\nx[::4096] = b'1' * len(x[::4096])\n" + SLOW.format(seconds=60)

pytestmark = needs_sandbox


@pytest.fixture(scope="class")
def crowded():
    """One processor, with much else to do."""
    (core, *_) = os.sched_getaffinity(0)
    code = f"import os\nos.sched_setaffinity(0, [{core}])\nprint(1, flush=True)\nwhile True: pass"
    command = [sys.executable, "-I", "-S", "-c", code]
    # In sessions of their own: some kernels divide a processor by sessions.
    others = [subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) for _ in range(8)]
    for other in others:
        other.stdout.readline()
    yield core
    for other in others:
        other.kill()
        other.communicate()


@contextlib.contextmanager
def worker_on(core: int, limits: Limits, backend="fork"):
    """A worker whose programs run on one processor."""
    with alone(limits, Sandbox(backend)) as worker:
        worker.verify(Program("def f(a, b): return a + b", "f", SUM))
        psutil.Process(worker._process.pid).cpu_affinity([core])
        yield worker


def attempts(pool: Pool, program: Program, which: int | None, times: int, holding: int = 0):
    """A verdict, where a process is killed while it runs: the program's (0), its check's (1) or the worker (None).

    Args:
      holding: bytes that it has to hold before.
    """
    future = pool.submit(program)
    killed: set[int] = set()
    while not future.done() and len(killed) < times:
        with contextlib.suppress(IndexError, AttributeError, psutil.Error):
            fork_server = psutil.Process(pool._workers[0]._process.pid)
            children = sorted(fork_server.children(), key=lambda child: child.pid)
            victim = fork_server if which is None else children[which]
            if victim.pid in killed or not children:
                continue
            time.sleep(0.3)  # it has begun
            while victim.memory_info().rss < holding:
                time.sleep(0.01)
            victim.kill()
            killed.add(victim.pid)
        time.sleep(0.01)
    assert len(killed) == times
    return future.result()


class TestStarving:
    """Programs that wait for a processor."""

    @pytest.mark.parametrize("tests", [SUM, CHECK], ids=["calls", "a check"])
    def test_an_honest_program_has_its_time_when_it_comes(self, crowded, tests):
        """It takes nine times as long as on a machine of its own, and three times as long as it may."""
        with worker_on(crowded, LIMITS._replace(wall_seconds=0.4, patience=200.0)) as worker:
            verdict = worker.verify(Program(BUSY.format(seconds=0.15), "f", tests))
        assert verdict.status == Status.PASSED, verdict
        assert verdict.wall_seconds > 0.4

    def test_one_that_does_not_come_to_its_time_is_infrastructure(self, crowded):
        with (
            worker_on(crowded, LIMITS._replace(wall_seconds=0.3, patience=2.0)) as worker,
            pytest.raises(sandbox.InfrastructureError, match="no processor") as raised,
        ):
            worker.verify(Program(BUSY.format(seconds=3.0), "f", SUM))
        assert raised.value.again == Status.INFRASTRUCTURE

    def test_who_only_looks_like_it_is_out_of_time(self, crowded):
        """Giving way to others, again and again, does not make a victim."""
        acts = ["time.sleep(1e-6)", "time.sleep(0)", "os.sched_yield()", "time.sleep(60)", "pass"]
        with worker_on(crowded, LIMITS._replace(cpu_seconds=0.02, wall_seconds=0.5, patience=100.0)) as worker:
            programs = [Program(f"import os, time\ndef f(a, b):\n    while True: {act}", "f", SUM) for act in acts]
            programs.append(programs[0]._replace(tests=CHECK))
            assert [worker.verify(program).status for program in programs] == [Status.TIMEOUT] * 6

    @pytest.mark.parametrize("tests", [SUM, CHECK], ids=["calls", "a check"])
    def test_who_naps_to_the_end_of_all_patience_is_out_of_time(self, crowded, tests):
        source = "import time\nwhile True: time.sleep(1e-6)"
        with worker_on(crowded, LIMITS._replace(wall_seconds=0.2, patience=5.0)) as worker:
            assert worker.verify(Program(source, "f", tests)).status == Status.TIMEOUT

    @needs_monty
    def test_an_interpreter_has_its_time_when_it_comes(self, crowded):
        source = "def f(a, b):\n    for i in range(8_000_000): pass\n    return a + b"
        with worker_on(crowded, LIMITS._replace(wall_seconds=0.4, patience=200.0), "monty") as worker:
            verdict = worker.verify(Program(source, "f", SUM))
        assert verdict.status == Status.PASSED, verdict
        assert verdict.cpu_seconds < verdict.wall_seconds > 0.4


class TestKilled:
    """Programs that somebody kills, as the kernel does where memory is short."""

    @pytest.mark.parametrize(
        ("tests", "which"), [(SUM, 0), (CHECK, 0), (CHECK, 1), (SUM, None), (CHECK, None)],
        ids=["program", "program of a check", "check", "worker", "worker of a check"],
    )  # fmt: skip
    def test_once_is_tried_again_and_twice_is_infrastructure(self, tests, which):
        program = Program(SLOW.format(seconds=2), "f", tests)
        with Pool(LIMITS, workers=1) as pool:
            assert attempts(pool, program, which, 1).status == Status.PASSED
            lost = attempts(pool, program, which, 2)
            assert lost.status == Status.INFRASTRUCTURE and lost.detail.startswith("tried twice: "), lost
            assert pool.verify([program._replace(source="f = max")])[0].status == Status.WRONG, "on a new worker"

    def test_who_held_much_memory_both_times_is_out_of_it(self):
        """Or a program could make the machine short of memory, to be killed."""
        with Pool(LIMITS, workers=1) as pool:
            verdict = attempts(pool, Program(GREEDY, "f", SUM), 0, 2, holding=200 << 20)
        assert verdict.status == Status.MEMORY and "killed from outside" in verdict.detail

    def test_without_restrictions_a_program_may_have_killed_itself(self):
        source = "import os\ndef f(a, b): os.kill(os.getpid(), 9)"
        with Pool(LIMITS, workers=1, sandbox=Sandbox("unsafe")) as pool:
            assert pool.verify([Program(source, "f", SUM)])[0].status == Status.ERROR

    def test_who_overruns_its_processor_time_unseen_is_out_of_time(self):
        """The kernel kills it, too, where this does not come to it."""
        process = {"exit": -9, "outside": True, "cpu_seconds": 6.1, "held_bytes": 0}
        outcome = {"stopped": None, "program": process, "judge": None}
        assert sandbox.judge(outcome, sandbox.READY + b"\n", [""], LIMITS)[0] == Status.TIMEOUT


HOST = """
import signal, sys
from rlbench.types import *; from rlbench.verifying.pool import Pool; from rlbench.verifying.sandbox import *
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this was started with
source, backend, check, wall = sys.argv[1:]
with Pool(Limits(5.0, float(wall)), workers=1, sandbox=Sandbox(backend)) as pool:
    warm = Program("def f(a, b): return a + b", "f", (Call((2, 3), 5),))
    print(pool.verify([warm])[0].status, flush=True)
    tests = Check(check) if check else (Call((2, 3), "x" * 200_000),)
    print(pool.verify([Program(source, "f", tests)])[0].status, flush=True)
"""


@contextlib.contextmanager
def host(source: str, backend: str = "fork", check: str = "", wall: float = 60.0):
    """A process that runs a program, once it does, and all that it started."""
    command = [sys.executable, "-c", HOST, source, backend, check, str(wall)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout.readline() == "passed\n"
            there, started = psutil.Process(process.pid), []
            while len(started) < 2 + bool(check) + (backend == "monty"):  # the worker, and what runs a program
                started = there.children(recursive=True)
                time.sleep(0.01)
            time.sleep(0.2)
            yield process, started
        finally:
            process.kill()


class TestHost:
    """Disturbs the host."""

    RUNS = pytest.mark.parametrize(
        ("backend", "check", "source"),
        [
            ("fork", "", SLOW.format(seconds=60)),
            ("fork", CHECK.source, SLOW.format(seconds=60)),
            ("unsafe", "", SLOW.format(seconds=60)),
            pytest.param("monty", "", SLOW.format(seconds=60), marks=needs_monty),
            pytest.param("monty", "", "def f(a, b):\n    while True: pass", marks=needs_monty),
        ],
        ids=["fork", "fork, a check", "unsafe", "monty, asleep", "monty, busy"],
    )

    @RUNS
    def test_nothing_outlives_it(self, backend, check, source):
        with host(source, backend, check) as (process, started):
            process.kill()
            assert gone(started)

    @RUNS
    def test_ctrl_c_does_not_wait_for_programs(self, backend, check, source):
        with host(source, backend, check) as (process, started):
            process.send_signal(signal.SIGINT)
            process.wait(30)
            assert gone(started)

    def test_a_host_that_stands_still_costs_no_program_its_time(self):
        """The answer is longer than the pipe to a host that does not read for longer than a program may take."""
        with host("import time\ndef f(a, b):\n    time.sleep(1)\n    return 'x' * 200_000", wall=3.0) as (process, _):
            process.send_signal(signal.SIGSTOP)
            time.sleep(5)
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "passed\n"

    def test_time_in_which_it_stood_still_is_not_waited(self, monkeypatch):
        """A clock that leaps, as after a stop."""
        leaps = iter(range(0, 100_000, 1000))
        monkeypatch.setattr(sandbox.time, "monotonic", lambda: next(leaps))
        monkeypatch.setattr(Patience, "STEP", 0.01)
        reading, writing = os.pipe()
        timer = threading.Timer(0.1, os.write, (writing, b"x"))
        timer.start()
        with open(reading, "rb", buffering=0) as pipe:
            Patience(10.0).wait_for(pipe, select.POLLIN)
            assert pipe.read(1) == b"x"
            with pytest.raises(TimeoutError):
                Patience(0.05).wait_for(pipe, select.POLLIN)
        os.close(writing)


def test_closing_a_pool_ends_what_runs():
    with Pool(LIMITS, workers=1) as pool:
        running, waiting = (pool.submit(Program(SLOW.format(seconds=n), "f", SUM)) for n in (59, 60))
        while not (pool._workers and pool._workers[0].greeting):
            time.sleep(0.01)
        started = [psutil.Process(pool._workers[0]._process.pid)]
        pool.close()
        assert running.done() and waiting.done() and gone(started)
        for future in (running, waiting):
            with pytest.raises(CancelledError):
                future.result()
