"""Sandboxes besides the fork server's restrictions: bubblewrap around it, and Monty where there is no kernel to ask."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from rlbench.types import Call, Check, ConfigError, Program, Status, Verdict
from rlbench.verifying import probe
from rlbench.verifying.pool import Pool, alone
from rlbench.verifying.sandbox import Limits, Sandbox, Worker
from tests.security.attacks import ATTACKS
from tests.security.machine import WRAPPER, needs_bubblewrap, needs_monty, needs_sandbox
from tests.security.programs import HONEST

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=3.0)
SUM = (Call((2, 3), 5), Call((10, 20), 30))
RIGHT = Program("def f(a, b):\n    return a + b", "f", SUM)
MONTY = Sandbox("monty")
LOOPS = RIGHT._replace(source="def f(a, b):\n    while True: pass")


@pytest.fixture(scope="module")
def pool():
    with Pool(LIMITS, sandbox=MONTY) as pool:
        yield pool


def returns(source: str, *expected) -> Program:
    return Program(f"def f():\n    return {source}" if "def f" not in source else source, "f", (Call((), *expected),))


def inside(worker: Worker) -> list[psutil.Process]:
    """A worker's process, and what it started."""
    process = psutil.Process(worker._process.pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs([p for p in processes if p.is_running() and p.status() != "zombie"], timeout=5)[1]


def broken_bubblewrap(tmp_path, monkeypatch, script: str) -> None:
    """A bwrap, first on the path, that does something else."""
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)


class TestChoice:
    """`probe.choose`."""

    @needs_sandbox
    @needs_monty
    @pytest.mark.parametrize("backend", ["fork", "monty"])
    def test_what_is_asked_for_is_probed_and_logged(self, backend, caplog):
        caplog.set_level(logging.INFO)
        sandbox = probe.choose(backend)
        assert sandbox.backend == backend and sandbox.wrapper == WRAPPER
        assert f"sandbox: {backend}, " in caplog.text and "bubblewrap" in sandbox.why

    @needs_sandbox
    def test_fork_is_taken_where_it_holds(self):
        assert probe.choose("auto").backend == "fork"

    @needs_monty
    def test_monty_is_taken_where_fork_does_not_hold(self, monkeypatch, caplog):
        holes = probe.holes
        monkeypatch.setattr(probe, "holes", lambda s: ["it leaks"] if s.backend == "fork" else holes(s))
        sandbox = probe.choose("auto")
        assert sandbox.backend == "monty" and "fork is not safe here (it leaks)" in sandbox.why
        assert [record.levelname for record in caplog.records if "sandbox: monty, " in record.message] == ["WARNING"]

    @needs_sandbox
    @pytest.mark.parametrize("who", ["worker", "child"])
    def test_one_that_is_killed_while_it_is_probed_is_tried_again(self, monkeypatch, who):
        """An out-of-memory killer's work is no hole, and no reason for another backend."""
        ask, victims = Worker._ask, [None]

        def once(self, request, most):
            if self._process and victims:
                victims.pop()
                if who == "worker":
                    self._process.kill()
                else:
                    outcome, said = ask(self, request, most)
                    outcome["program"] |= {"exit": -signal.SIGKILL, "outside": True}
                    return outcome, said
            return ask(self, request, most)

        monkeypatch.setattr(Worker, "_ask", once)
        monkeypatch.setenv("PATH", "")
        assert probe.choose("auto").backend == "fork" and not victims

    @needs_sandbox
    def test_a_probe_that_cannot_be_judged_is_no_proof(self, monkeypatch):
        judged = probe.tried
        lost = Verdict(Status.INFRASTRUCTURE, detail="tried twice")
        monkeypatch.setattr(probe, "tried", lambda w, p: lost if "fork" in p.source else judged(w, p))
        assert probe.holes() == ["a program that forks: tried twice"]

    def test_it_refuses_where_nothing_holds_and_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None)
        for backend in ("auto", "monty"):
            monkeypatch.setattr(probe, "ATTACKS", {"adds up": "def f(): return True"})
            with pytest.raises(ConfigError, match=r"not installed\) and wants pip install rlbench\[monty\]"):
                probe.choose(backend)

    def test_unsafe_is_only_for_who_asks(self, monkeypatch, caplog):
        monkeypatch.setattr(probe, "holes", lambda sandbox: ["it leaks"])
        assert probe.choose("unsafe").backend == "unsafe" and "unsafe" in caplog.text
        for backend in ("auto", "fork", "monty"):
            with pytest.raises(ConfigError, match="it leaks"):
                probe.choose(backend)

    @needs_sandbox
    def test_without_bubblewrap_the_restrictions_are_enough(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        sandbox = probe.choose("fork")
        assert sandbox.wrapper == () and "not installed" in sandbox.why

    @needs_sandbox
    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("echo no name spaces today >&2; exit 1", "no name spaces today"),
            ('case "$*" in *fork_s*) exit 1;; esac; while [ "$1" != -I ]; do python=$1; shift; done; exec $python "$@"',
             "the worker ended"),
        ],
        ids=["at all", "around a fork server"],
    )  # fmt: skip
    def test_bubblewrap_that_does_not_work_is_not_used(self, tmp_path, monkeypatch, script, why):
        broken_bubblewrap(tmp_path, monkeypatch, script)
        sandbox = probe.choose("fork")
        assert sandbox.wrapper == () and why in sandbox.why


@needs_bubblewrap
@needs_sandbox
class TestBubblewrap:
    """The second wall."""

    WRAPPED = Sandbox("fork", WRAPPER)

    def test_the_sandbox_in_it_is_tight(self):
        assert probe.holes(self.WRAPPED) == []

    def test_it_keeps_programs_away_by_itself(self):
        """Without restrictions within: they see nobody, reach nothing, and change nothing."""
        with Pool(LIMITS, workers=1, sandbox=Sandbox("unsafe", WRAPPER)) as pool:
            with tempfile.NamedTemporaryFile(dir="/tmp") as secret:
                seen = returns(
                    "import os\ndef f():\n"
                    "    pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]\n"
                    f"    return len(pids) < 10 and os.getpid() < 100 and not os.path.exists({secret.name!r})",
                    True,
                )
                assert pool.verify([seen])[0].status == Status.PASSED
            for act in ("open('/rlbench-attack', 'w')", "os.mkdir('/etc/rlbench-attack')"):
                (verdict,) = pool.verify([returns(f"import os\ndef f():\n    {act}\n    return 1", 1)])
                assert verdict.status == Status.ERROR and "Read-only" in verdict.detail, verdict
            (faces,) = pool.verify([returns("import socket\ndef f():\n    return socket.if_nameindex()", [(1, "lo")])])
            assert faces.status == Status.PASSED or "socket" in faces.detail, faces

    def test_deadlines_hold(self):
        with Pool(LIMITS, workers=1, sandbox=self.WRAPPED) as pool:
            (busy,) = pool.verify([LOOPS])
            (asleep,) = pool.verify([returns("import time\ndef f(): time.sleep(30)", None)])
            (gigabyte,) = pool.verify([returns("bytearray(1 << 30)", None)])
        assert (busy.status, busy.detail) == (Status.TIMEOUT, "cpu time") and 0.7 < busy.cpu_seconds < 1.4
        assert (asleep.status, asleep.detail) == (Status.TIMEOUT, "wall time") and asleep.cpu_seconds < 0.5
        assert gigabyte.status == Status.MEMORY

    def test_a_program_that_was_killed_is_not_infrastructure(self):
        with Pool(LIMITS, workers=1, sandbox=self.WRAPPED) as pool:
            (verdict,) = pool.verify([returns("import os\ndef f(): os.kill(os.getpid(), 9)", None)])
        assert verdict.status == Status.ERROR

    @pytest.mark.parametrize("program", [RIGHT, LOOPS], ids=["idle", "busy"])
    def test_nothing_outlives_the_worker(self, program):
        worker = Worker(LIMITS, self.WRAPPED)
        worker.verify(RIGHT)
        with Pool(LIMITS, workers=1, sandbox=self.WRAPPED) as pool:
            future = pool.submit(program)
            time.sleep(0.7)
            processes = [p for w in [worker, *pool._workers] for p in inside(w)]
            assert len(processes) >= 5, "each with bwrap, the first process within, and the fork server"
            for owner in (worker, *pool._workers):
                os.kill(owner._process.pid, signal.SIGKILL)
            assert gone(processes)
            assert future.result().status == (Status.PASSED if program is RIGHT else Status.TIMEOUT), "on a new worker"
        worker.close()

    def test_nothing_outlives_the_host(self):
        code = (
            "import sys, time; from rlbench.types import *; from rlbench.verifying.sandbox import *\n"
            "worker = Worker(Limits(), Sandbox('fork', tuple(sys.argv[1:])))\n"
            "worker.verify(Program('def f(): return 1', 'f', (Call((), 1),)))\nprint('up', flush=True); time.sleep(60)"
        )
        host = subprocess.Popen([sys.executable, "-c", code, *WRAPPER], stdout=subprocess.PIPE, text=True)
        assert host.stdout and host.stdout.readline() == "up\n"
        processes = psutil.Process(host.pid).children(recursive=True)
        assert processes
        host.kill()
        host.communicate()
        assert gone(processes)


@needs_monty
class TestMonty:
    """The interpreter in Rust."""

    HARMLESS = ("a pattern",)  # its patterns do not explode, and it adds up

    @pytest.mark.parametrize("family", ATTACKS)
    def test_no_attack_passes(self, pool, family):
        names = [name for name in ATTACKS[family] if name not in self.HARMLESS]
        verdicts = pool.verify([Program(ATTACKS[family][name], "f", SUM) for name in names])
        won = {name: v for name, v in zip(names, verdicts) if v.status in (Status.PASSED, Status.INFRASTRUCTURE)}
        assert won == {}

    def test_the_sandbox_attacks_itself(self):
        assert probe.holes(MONTY) == []

    def test_honest_programs_are_right_or_unsupported(self, pool):
        programs = [Program(source, f, tuple(Call(*test) for test in tests)) for source, f, tests, _ in HONEST.values()]
        verdicts = dict(zip(HONEST, pool.verify(programs), strict=True))
        right = {name: v for name, v in verdicts.items() if HONEST[name][3]}
        wrong = {name: v for name, v in verdicts.items() if not HONEST[name][3]}
        assert {n: v for n, v in right.items() if v.status not in (Status.PASSED, Status.UNSUPPORTED)} == {}
        assert sum(v.status == Status.PASSED for v in right.values()) >= 24
        assert {n: v for n, v in wrong.items() if v.status not in (Status.WRONG, Status.ERROR)} == {}

    @pytest.mark.parametrize(
        ("source", "status"),
        [
            ("import pickle\ndef f(): return 1", Status.UNSUPPORTED),
            ("from functools import singledispatch\ndef f(): return 1", Status.UNSUPPORTED),
            ("class A(int): pass\ndef f(): return 1", Status.UNSUPPORTED),
            ("def f():\n    yield 1", Status.UNSUPPORTED),
            ("def f(): return input()", Status.UNSUPPORTED),
            ("def f(): return 'a'.maketrans('a', 'b')", Status.UNSUPPORTED),
            ("def f(): return '\\ud800'", Status.UNSUPPORTED),
            ("import numpy\ndef f(): return 1", Status.ERROR),
            ("def f(:", Status.ERROR),
            ("def f(): return ''.nothing", Status.ERROR),
            ("def f(): return nothing", Status.ERROR),
            ("def f(): raise NotImplementedError", Status.ERROR),
            ("def f(): raise TimeoutError('feed time limit exceeded')", Status.ERROR),
            ("def f(): return 'x' * (1 << 30)", Status.MEMORY),
            ("def f():\n    while True: print('x' * 10_000)", Status.TIMEOUT),
            ("import time\ndef f(): time.sleep(30)", Status.TIMEOUT),
        ],
    )
    def test_statuses(self, pool, source, status):
        (verdict,) = pool.verify([returns(source, 1)])
        assert verdict.status == status, verdict
        if "sleep" in source:
            assert verdict.cpu_seconds < 0.5 and verdict.wall_seconds == pytest.approx(3.0, abs=0.7)

    def test_processor_time_is_the_interpreters(self, pool):
        busy, loops = pool.verify([returns("sum(i * i for i in range(1_000_000))", 333332833333500000), LOOPS])
        assert busy.status == Status.PASSED and busy.cpu_seconds > 0.03
        assert loops.detail == "cpu time" and 0.9 < loops.cpu_seconds < 1.4

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("from collections import deque\ndef f(): return deque([1])", [1]),
            ("from collections import namedtuple\ndef f(): return [namedtuple('P', 'x')(1)]", [(1,)]),
            ("{1: 2}.keys()", "dict_keys([1])"),
            ("range(3)", "range(0, 3)"),
            ("iter([1])", "<list_iterator object>"),
            ("len", "<built-in function len>"),
            ("def f(): return str(f) and f", "<function 'f' at 0x10>"),
            ("from decimal import Decimal\ndef f(): return Decimal(5)", 5),
            ("class P:\n    def __init__(s): s.x = 1\ndef f(): return P()", {"x": 1}),
            ("1 == 1", 1),
            ("1", True),
            ("5.0", 5),
            ("[1]", (1,)),
        ],
    )
    def test_values_are_compared_exactly(self, pool, value, expected):
        """Of what leaves the interpreter much would be converted to something plain."""
        (verdict,) = pool.verify([returns(value, expected)])
        assert verdict.status in (Status.WRONG, Status.UNSUPPORTED), verdict

    @pytest.mark.parametrize(
        "answer", ["7", "(None,)", "('int', 1)", "(None, x)", "[None, 1]", "(None, 'x' * (250 << 20))"]
    )
    def test_a_program_that_tells_its_types_itself_earns_nothing(self, pool, answer):
        source = (
            f"x = [0] * 100\nfor _ in range(9): x = [x] * 100\ndef __answer__(v): return {answer}\ndef f(): return 1"
        )
        (verdict,) = pool.verify([returns(source, 1)])
        if answer != "[None, 1]":  # which says what it could have returned
            assert verdict.status in (Status.WRONG, Status.ERROR, Status.TIMEOUT, Status.MEMORY), verdict

    def test_a_built_in_function_is_not_the_programs(self, pool):
        (verdict,) = pool.verify([Program("", "sorted", (Call(([],), []),))])
        assert verdict.status == Status.ERROR
        (verdict,) = pool.verify([Program("def f(): return 1", "f() or g", (Call((), 1),))])
        assert verdict.status == Status.ERROR

    def test_shadowed_names_do_not_matter(self, pool):
        source = "type = list = len = int = ValueError = None\n__arguments__ = 5\ndef f(a, b): return a + b"
        (verdict,) = pool.verify([Program(source.replace("__arguments__ = 5\n", ""), "f", SUM)])
        assert verdict.status == Status.PASSED
        (verdict,) = pool.verify([Program(source, "f", SUM)])
        assert verdict.status == Status.ERROR

    def test_arguments_that_it_cannot_hold_are_not_the_programs_fault(self, pool):
        (verdict,) = pool.verify([Program("def f(x): return x", "f", (Call(("\ud800",), 1),))])
        assert verdict.status == Status.INFRASTRUCTURE

    def test_nothing_is_left_for_the_next(self):
        with Pool(LIMITS, workers=1, sandbox=MONTY) as pool:
            pool.verify([RIGHT._replace(source=f"secret = 5\n{RIGHT.source}")])
            (verdict,) = pool.verify([returns("secret", 5)])
        assert verdict.status == Status.ERROR

    def killed(self, which: int, by: int = signal.SIGKILL) -> tuple[Status, str]:
        """The outcome of a program when a process dies under it: the worker's own, its child, or the interpreter."""
        with Pool(LIMITS._replace(cpu_seconds=2.0), workers=1, sandbox=MONTY) as pool:
            pool.verify([RIGHT])
            future = pool.submit(LOOPS)
            time.sleep(0.5)
            processes = inside(pool._workers[0])
            assert len(processes) == 3
            processes[which].send_signal(by)
            verdict = future.result()
            pool._workers[0].close()
            assert gone(processes)
            assert pool.verify([RIGHT])[0].status == Status.PASSED
        return verdict.status, verdict.detail

    @pytest.mark.parametrize("which", [0, 1, 2], ids=["worker", "child", "interpreter"])
    def test_what_is_killed_from_outside_is_tried_again(self, which):
        assert self.killed(which)[0] == Status.TIMEOUT

    def test_an_interpreter_that_crashes_is_the_programs_fault(self):
        status, detail = self.killed(2, signal.SIGABRT)
        assert status == Status.ERROR and "interpreter died" in detail

    @needs_bubblewrap
    def test_it_works_in_bubblewrap(self):
        with alone(LIMITS._replace(cpu_seconds=0.3), Sandbox("monty", WRAPPER)) as worker:
            assert worker.verify(RIGHT).status == Status.PASSED
            assert worker.verify(LOOPS).detail == "cpu time"
            processes = inside(worker)
        assert gone(processes)


@needs_monty
def test_a_check_is_not_montys_to_run():
    """It may be any Python."""
    with Pool(LIMITS, workers=1, sandbox=MONTY) as pool:
        verdict = pool.verify([Program("def f(): return 1", "f", Check("def check(f):\n    assert f() == 1"))])[0]
    assert verdict.status == Status.INFRASTRUCTURE and "backend fork" in verdict.detail
