"""The sandbox: no attack passes, no honest right program fails, and nothing is left behind."""

import functools
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from rlbench.types import Call, Check, ConfigError, Program, Status
from rlbench.verifying import probe, sandbox
from rlbench.verifying.confine import landlock_version
from rlbench.verifying.pool import Pool, alone, identity
from rlbench.verifying.sandbox import Limits, Sandbox, Worker
from tests.security.attacks import ATTACKS, runnable
from tests.security.machine import needs_sandbox
from tests.security.programs import HONEST

LIMITS = Limits(cpu_seconds=1.0, wall_seconds=3.0)
SUM = (Call((2, 3), 5), Call((10, 20), 30))
RIGHT = Program("def f(a, b):\n    return a + b", "f", SUM)


@pytest.fixture(scope="module")
def pool():
    with Pool(LIMITS) as pool:
        yield pool


@needs_sandbox
@pytest.mark.parametrize("family", ATTACKS)
def test_no_attack_passes(pool, family):
    programs = {name: Program(source, "f", SUM) for name, source in runnable(family).items()}
    verdicts = dict(zip(programs, pool.verify(list(programs.values())), strict=True))
    assert {name: v for name, v in verdicts.items() if v.status == Status.PASSED} == {}
    broke = {name: v for name, v in verdicts.items() if v.status == Status.INFRASTRUCTURE}
    assert broke == {}, "an attack that breaks the judge would cost no reward"


def test_the_corpus_is_as_large_as_it_says():
    assert sum(map(len, ATTACKS.values())) >= 150 and len(HONEST) >= 25


@needs_sandbox
def test_attacks_get_through_where_nothing_holds_them():
    """Without restrictions most of the ways out are open: that they fail within is the sandbox's doing."""
    ways = ["files/reads", "files/lists", "processes/forks", "network/a socket", "network/a local socket"]
    ways += ["evading the filter/executable memory", "reading tests and the parent/its own command line"]
    if platform.machine() == "x86_64":
        ways += ["evading the filter/memory as a file", "evading the filter/openat"]
    with Pool(LIMITS, sandbox=Sandbox("unsafe")) as loose:
        for way in ways:
            family, name = way.split("/", 1)
            source = ATTACKS[family][name]
            assert loose.verify([Program(source, "f", SUM)])[0].status == Status.PASSED or "fork" in name, way


@needs_sandbox
@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_are_judged_by_what_they_return(pool, name):
    source, entry, tests, right = HONEST[name]
    (verdict,) = pool.verify([Program(source, entry, tuple(Call(*test) for test in tests))])
    assert (verdict.status == Status.PASSED) == right, verdict
    assert verdict.status in (Status.PASSED, Status.WRONG, Status.ERROR)


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("def f(a, b): return a + b", Status.PASSED),
        ("def f(a, b): return a - b", Status.WRONG),
        ("def f(a, b): return a / 0", Status.ERROR),
        ("def f(a, b):\n    while True: pass", Status.TIMEOUT),
        ("import time\ndef f(a, b): time.sleep(30)", Status.TIMEOUT),
        ("def f(a, b): return bytearray(1 << 30)", Status.MEMORY),
    ],
)
def test_statuses(pool, source, status):
    (verdict,) = pool.verify([Program(source, "f", SUM)])
    assert verdict.status == status, verdict
    if "sleep" in source:
        assert verdict.cpu_seconds < 0.5 and verdict.wall_seconds == pytest.approx(3.0, abs=0.5)
    elif status == Status.TIMEOUT:
        assert verdict.cpu_seconds == pytest.approx(1.0, abs=0.3)


@needs_sandbox
def test_the_sandbox_attacks_itself_and_refuses_where_it_is_not_tight(monkeypatch):
    assert probe.holes() == []
    monkeypatch.setitem(probe.ATTACKS, "adds up", "def f(): return True")
    with pytest.raises(ConfigError, match="a program that adds up gets through"):
        probe.choose("auto")


@needs_sandbox
def test_the_fork_server_is_small_and_alone():
    """It has one thread, and neither JAX nor anything else of ours."""
    worker = Worker(LIMITS)
    worker.verify(RIGHT)
    process = psutil.Process(worker._process.pid)
    assert process.num_threads() == 1
    assert not [m.path for m in process.memory_maps() if "jax" in m.path or "numpy" in m.path]
    seen = Program(
        "import sys\ndef f(): return [m for m in sys.modules if m.startswith(('jax', 'rlbench'))]", "f", (Call((), []),)
    )
    assert worker.verify(seen).status == Status.PASSED
    worker.close()


def mine() -> tuple[int, int]:
    """Child processes and open descriptors of this process."""
    this = psutil.Process()
    return len(this.children(recursive=True)), this.num_fds()


@needs_sandbox
def test_a_hundred_killed_workers_leave_nothing_behind():
    before, others = mine(), set(psutil.Process().children())
    with Pool(LIMITS, workers=2) as pool:
        assert pool.verify([RIGHT])[0].status == Status.PASSED
        for round in range(50):
            for worker in set(psutil.Process().children()) - others:
                worker.send_signal(signal.SIGKILL)
            programs = [Program(f"def f(a, b): return a + b  # {round} {i}", "f", SUM) for i in range(4)]
            assert {v.status for v in pool.verify(programs)} == {Status.PASSED}, "tried again on a new worker"
    assert mine() == before


@pytest.mark.slow
@needs_sandbox
def test_ten_thousand_programs_leave_nothing_behind():
    before, others = mine(), set(psutil.Process().children())
    with Pool(LIMITS) as pool:
        programs = [Program(f"def f(a, b): return a + b + {i % 7}", "f", SUM) for i in range(10_000)]
        programs = [p._replace(source=f"{p.source}  # {i}") for i, p in enumerate(programs)]
        verdicts = pool.verify(programs)
        workers = set(psutil.Process().children()) - others
        assert all(not worker.children() and worker.num_fds() <= 8 for worker in workers), "no zombies, no descriptors"
    statuses = [Status.PASSED if i % 7 == 0 else Status.WRONG for i in range(10_000)]
    assert [v.status for v in verdicts] == statuses
    assert mine() == before


FIND_LOCALS = """
import sys, os
frame = sys._getframe()
while frame:
    for value in list(frame.f_locals.values()):
        if isinstance(value, bytes) and b'"test"' in value:
            os.write(3, value.split(b'\\n', 1)[1])
            os._exit(0)
    frame = frame.f_back
"""
FIND_MEMORY = """
import ctypes, gc, os, re
libc = ctypes.CDLL(None)
libc.syscall.restype = libc.sbrk.restype = ctypes.c_ssize_t
sigaction = {"x86_64": 13, "aarch64": 134}[os.uname().machine]

def pages(start, step, count):
    for page in range(start, start + step * count, step):
        if libc.syscall(sigaction, 10, ctypes.c_void_p(page), None, 8):
            return  # it cannot be read
        yield ctypes.string_at(page, 4096)

found = {}
arenas = {id(o) >> 18 << 18 for o in gc.get_objects()}
places = [(arena, 4096, 64) for arena in arenas] + [((libc.sbrk(0) & -4096) - 4096, -4096, 20000)]
for place in places:
    for page in pages(*place):
        found |= dict(re.findall(rb'{"test": ([01]), "value": (\\["int", "[0-9a-f]+"\\])}', page))
if len(found) == 2:
    for test, value in sorted(found.items()):
        os.write(3, b'{"test": %s, "value": %s}\\n' % (test, value))
    os.write(3, b'{"end": 2}\\n')
os._exit(0)
"""


@needs_sandbox
@pytest.mark.parametrize("thief", [FIND_LOCALS, FIND_MEMORY], ids=["variables", "freed memory"])
def test_nothing_of_a_program_is_left_for_the_next_to_find(thief):
    """A right program, and then one that looks for its answers in what it inherits."""
    with Pool(LIMITS, workers=1) as pool:
        for round in range(3):
            right, stolen = pool.verify([RIGHT._replace(source=f"{RIGHT.source}  # {round}"), Program(thief, "f", SUM)])
            assert right.status == Status.PASSED
            assert stolen.status != Status.PASSED, stolen


@needs_sandbox
def test_what_a_child_writes_never_breaks_the_host(pool):
    """Anything at all, at every place of a line."""
    odd = [
        "[]",
        "{}",
        "[[], 5]",
        "[{}, []]",
        "null",
        "1e999",
        "NaN",
        "9" * 5000,
        '"\\ud800"',
        "[" * 3000 + "]" * 3000,
        "-0",
    ]
    places = ["%s", '{"test": %s}', '{"test": 0, "value": %s}', '{"test": 0, "value": [%s, 5]}', '{"end": %s}']
    places += ['{"test": 0, "value": ["list", [%s]]}', '{"test": 0, "value": ["dict", [%s]]}', '{"error": %s}']
    places += ['{"test": 0, "value": ["float", %s]}', '{"test": 0, "value": ["complex", %s]}', '{"broken": %s}']
    programs = [
        Program(f"import os\nos.write(3, {(place % value + chr(10)).encode()!r})\nos._exit(0)", "f", SUM)
        for place in places
        for value in odd
    ]
    verdicts = pool.verify(programs)
    assert {v.status for v in verdicts} <= {Status.ERROR, Status.WRONG}
    for verdict in verdicts:
        verdict.detail.encode()


@needs_sandbox
def test_many_lines_cost_the_host_nothing(pool):
    began = time.thread_time()
    (verdict,) = pool.verify([Program("import os\nos.write(3, b'{}\\n' * 300000)\nos._exit(0)", "f", SUM)])
    assert verdict.status == Status.ERROR and time.thread_time() - began < 0.2


@needs_sandbox
def test_right_answers_fit_however_long(pool):
    long = Program("def f(n): return list(range(n))", "f", (Call((150_000,), list(range(150_000))),))
    digits = Program("def f(n): return 3 ** n", "f", (Call((20_000,), 3**20_000),))
    assert [v.status for v in pool.verify([long, digits])] == [Status.PASSED] * 2


LOOKS = """
import sys
def f():
    frame, seen = sys._getframe(), []
    while frame := frame.f_back:
        for value in list(frame.f_locals.values()):
            if isinstance(value, dict) and "output_bytes" in value:
                seen.append(sorted(value.items()))
    raise ValueError(seen)
"""


@needs_sandbox
@pytest.mark.parametrize("checked", [False, True], ids=["calls", "a check"])
def test_how_long_the_answer_is_can_not_be_known(pool, checked):
    """The limits that a program finds are the same, whatever is expected."""
    expected = ["x" * length for length in (1, 900_000)]
    tests = [Check(f"def check(f): assert f() == {e!r}") if checked else (Call((), e),) for e in expected]
    short, long = pool.verify([Program(LOOKS, "f", test) for test in tests])
    assert "output_bytes" in short.detail and short.detail == long.detail


@needs_sandbox
def test_long_answers_that_a_check_spells_out_fit(pool):
    text = "x" * 600_000
    (verdict,) = pool.verify(
        [Program("def f(): return 'x' * 600000", "f", Check(f"def check(f): assert f() == {text!r}"))]
    )
    assert verdict.status == Status.PASSED, verdict


@needs_sandbox
def test_a_word_too_late_to_stop_a_program_is_not_taken_for_the_next():
    """The host has enough of what a program said that is through already."""
    full = Program("import os\nos.write(3, b'x' * 60000)\nos._exit(0)", "f", SUM)
    with alone(LIMITS._replace(output_bytes=1000)) as worker:
        verdicts = [worker.verify(program) for program in [full, RIGHT] * 30]
    assert [verdict.status for verdict in verdicts] == [Status.ERROR, Status.PASSED] * 30


@needs_sandbox
@pytest.mark.parametrize("source", [RIGHT.source, ""])
def test_a_program_without_tests_does_not_pass(pool, source):
    (verdict,) = pool.verify([Program(source, "f", ())])
    assert verdict.status == Status.INFRASTRUCTURE and "there are none" in verdict.detail


@needs_sandbox
@pytest.mark.parametrize("call", [Call((2, 3), float("nan")), Call((2, 3), object()), Call((2, range(3)), 5)])
def test_a_test_that_nobody_can_pass_is_not_the_programs_fault(pool, call):
    (verdict,) = pool.verify([RIGHT._replace(tests=(call,))])
    assert verdict.status == Status.INFRASTRUCTURE and "cannot be told" in verdict.detail


@needs_sandbox
def test_many_descriptors_of_the_host_are_no_matter():
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with Pool(LIMITS, workers=1) as pool:
            assert pool.verify([RIGHT])[0].status == Status.PASSED
    finally:
        for file in files:
            os.close(file)


def assert_it_passes(code: str) -> None:
    """In a process of its own, which prints a status."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "passed", done.stderr


@needs_sandbox
def test_interrupts_of_the_host_reach_no_program():
    """Ctrl-C goes to the whole group of a terminal's processes."""
    code = (
        "import os, signal, threading\n"
        "from rlbench.types import *; from rlbench.verifying.sandbox import *\n"
        "os.setpgrp(); signal.signal(signal.SIGINT, lambda *_: None)\n"
        "threading.Timer(1.0, lambda: os.killpg(0, signal.SIGINT)).start()\n"
        "slow = Program('import time\\ndef f():\\n    time.sleep(2)\\n    return 1', 'f', (Call((), 1),))\n"
        "worker = Worker(Limits()); print(worker.verify(slow).status); worker.close()"
    )
    assert_it_passes(code)


@needs_sandbox
def test_what_the_host_was_started_with_is_no_matter():
    """Ignored SIGCHLD, and limits below ours."""
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from rlbench.types import *; from rlbench.verifying.sandbox import *\n"
        "worker = Worker(Limits(cpu_seconds=100.0))\n"
        "print(worker.verify(Program('def f(): return 1', 'f', (Call((), 1),))).status); worker.close()"
    )
    assert_it_passes(code)


@needs_sandbox
def test_a_program_with_other_numbers_is_another(pool):
    other = RIGHT._replace(tests=(Call((2, 3), 5.0),))
    assert identity(other) != identity(RIGHT)
    right, floats = pool.verify([RIGHT, other])
    assert right.status == Status.PASSED
    assert floats.status == Status.WRONG, "5 is not 5.0, though Python has them equal"


@needs_sandbox
@pytest.mark.skipif(os.geteuid() != 0, reason="these tests do not run as root: everything here works without")
def test_it_works_without_root(monkeypatch):
    """As nobody, with an interpreter and a copy of the files that nobody may read."""
    nobody = 65534
    pythons = [python for python in ("/usr/bin/python3", sys.executable) if runs_as(nobody, python)]
    if not pythons:
        pytest.skip("no Python 3.11 or newer that nobody may run")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for file in Path(probe.__file__).parent.glob("*.py"):
            shutil.copy(file, folder)
        start = functools.partial(subprocess.Popen, user=nobody, group=nobody, extra_groups=[])
        monkeypatch.setattr(sandbox.subprocess, "Popen", start)
        monkeypatch.setattr(sandbox, "FORK_SERVER", Path(folder) / "fork_server.py")
        monkeypatch.setattr(sys, "executable", pythons[0])
        assert probe.holes() == []
        if pythons[0] == "/usr/bin/python3":
            for name in ("prefix", "base_prefix"):
                monkeypatch.setattr(sys, name, "/usr")
            monkeypatch.setattr(probe, "__file__", f"{folder}/probe.py")
            monkeypatch.setattr(probe.subprocess, "run", functools.partial(subprocess.run, user=nobody))
            if wrapper := probe.bubblewrap()[0]:
                assert probe.holes(Sandbox("fork", wrapper)) == []


def runs_as(user: int, python: str) -> bool:
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    try:
        return subprocess.run([python, "-I", "-c", code], user=user, capture_output=True).returncode == 0
    except OSError:
        return False


@needs_sandbox
def test_landlock_alone_keeps_files_away():
    """The second wall stands without the first."""
    if not landlock_version():
        pytest.skip("this kernel has no Landlock")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import confine\n"
        "confine.prctl(38, 1); confine.libc.syscall(confine.RESTRICT_SELF, confine.no_rights(), 0)\n"
        "try: open('/etc/passwd')\nexcept PermissionError: print('kept away')"
    )
    folder = Path(probe.__file__).parent
    done = subprocess.run([sys.executable, "-I", "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.strip() == "kept away", done.stderr


@needs_sandbox
def test_a_program_costs_little():
    """In processor time, which a busy machine does not change much; the benchmark shows programs a second."""
    with Pool(LIMITS, workers=1) as pool:
        verdicts = pool.verify([Program(f"def f(a, b): return a + b  # {i}", "f", SUM) for i in range(100)])
    assert sum(verdict.cpu_seconds for verdict in verdicts) / 100 < 0.01
