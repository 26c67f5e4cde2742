"""The sandbox: no attack passes, no honest right program fails, and nothing is left behind."""

import ctypes
import functools
import json
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

from rlbench.types import ConfigError, Status
from rlbench.verifying import probe, sandbox
from rlbench.verifying.codec import Unencodable, canonical, decode, encode, same
from rlbench.verifying.confine import DENY, KILL, NUMBERS, allowlist, landlock_version
from rlbench.verifying.pool import Pool
from rlbench.verifying.sandbox import Call, Limits, Program, Worker
from tests.security.attacks import ATTACKS, syscall
from tests.security.programs import HONEST


def kernel_filters() -> bool:
    """Whether this is Linux on a known machine, and its kernel filters system calls (seccomp(2), GET_ACTION_AVAIL)."""
    if sys.platform != "linux" or platform.machine() not in NUMBERS:
        return False
    action, number = ctypes.c_uint32(KILL), {"x86_64": 317, "aarch64": 277}[platform.machine()]
    return ctypes.CDLL(None).syscall(number, 2, 0, ctypes.byref(action)) == 0


needs_sandbox = pytest.mark.skipif(
    not kernel_filters(), reason="the sandbox wants Linux on x86_64 or aarch64, with seccomp filters"
)
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
    programs = {
        name: Program(source, "f", SUM)
        for name, source in ATTACKS[family].items()
        if platform.machine() == "x86_64" or "syscall(" not in source  # numbers differ from machine to machine
    }
    verdicts = dict(zip(programs, pool.verify(list(programs.values())), strict=True))
    assert {name: v for name, v in verdicts.items() if v.status == Status.PASSED} == {}
    broke = {name: v for name, v in verdicts.items() if v.status == Status.INFRASTRUCTURE}
    assert broke == {}, "an attack that breaks the judge would cost no reward"


def test_the_corpus_is_as_large_as_it_says():
    assert sum(map(len, ATTACKS.values())) >= 150 and len(HONEST) >= 25


@needs_sandbox
def test_attacks_get_through_where_nothing_holds_them():
    """Without chains most of the ways out are open: that they fail within is the sandbox's doing."""
    ways = ["files/reads", "files/lists", "processes/forks", "network/a socket", "network/a local socket"]
    ways += ["evading the filter/executable memory", "reading tests and the parent/its own command line"]
    if platform.machine() == "x86_64":
        ways += ["evading the filter/memory as a file", "evading the filter/openat"]
    with Pool(LIMITS, confined=False) as loose:
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
    assert probe.confined("auto") is True and probe.confined("unsafe") is False
    monkeypatch.setitem(probe.ATTACKS, "adds up", "def f(): return True")
    with pytest.raises(ConfigError, match="a program that adds up gets through"):
        probe.confined("auto")


@needs_sandbox
def test_the_zygote_is_small_and_alone():
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
    before = mine()
    with Pool(LIMITS, workers=2) as pool:
        assert pool.verify([RIGHT])[0].status == Status.PASSED
        for round in range(50):
            for worker in psutil.Process().children():
                worker.send_signal(signal.SIGKILL)
            programs = [Program(f"def f(a, b): return a + b  # {round} {i}", "f", SUM) for i in range(4)]
            assert {v.status for v in pool.verify(programs)} == {Status.PASSED}, "tried again on a new worker"
    assert mine() == before


@pytest.mark.slow
@needs_sandbox
def test_ten_thousand_programs_leave_nothing_behind():
    before = mine()
    with Pool(LIMITS) as pool:
        programs = [Program(f"def f(a, b): return a + b + {i % 7}", "f", SUM) for i in range(10_000)]
        programs = [p._replace(source=f"{p.source}  # {i}") for i, p in enumerate(programs)]
        verdicts = pool.verify(programs)
        workers = psutil.Process().children()
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


@needs_sandbox
def test_interrupts_of_the_host_reach_no_program():
    """Ctrl-C goes to the whole group of a terminal's processes."""
    code = (
        "import os, signal, threading\n"
        "from rlbench.verifying.sandbox import *\n"
        "os.setpgrp(); signal.signal(signal.SIGINT, lambda *_: None)\n"
        "threading.Timer(1.0, lambda: os.killpg(0, signal.SIGINT)).start()\n"
        "slow = Program('import time\\ndef f():\\n    time.sleep(2)\\n    return 1', 'f', (Call((), 1),))\n"
        "worker = Worker(Limits()); print(worker.verify(slow).status); worker.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "passed", done.stderr


@needs_sandbox
def test_what_the_host_was_started_with_is_no_matter():
    """Ignored SIGCHLD, and limits below ours."""
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))\n"
        "from rlbench.verifying.sandbox import *\n"
        "worker = Worker(Limits(cpu_seconds=100.0))\n"
        "print(worker.verify(Program('def f(): return 1', 'f', (Call((), 1),))).status); worker.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "passed", done.stderr


@needs_sandbox
def test_identical_programs_run_once(pool):
    other = RIGHT._replace(tests=(Call((2, 3), 5.0),))
    first, again, floats = pool.verify([RIGHT, RIGHT, other])
    assert not first.repeated and again.repeated and again.cpu_seconds == 0
    assert floats.status == Status.WRONG, "5 is not 5.0, though Python has them equal"


@needs_sandbox
def test_a_worker_that_dies_twice_is_infrastructure(pool, monkeypatch):
    from rlbench.verifying.sandbox import WorkerDied

    def dies(self, program):
        raise WorkerDied("again")

    monkeypatch.setattr(Worker, "verify", dies)
    (verdict,) = pool.verify([RIGHT])
    assert verdict.status == Status.INFRASTRUCTURE and "twice" in verdict.detail


def interpret(program, machine_word: int, number: int, arguments=(0,) * 6) -> int:
    """What a filter of classic BPF answers to a system call."""
    data = [number, machine_word, 0, 0]
    for argument in arguments:
        data += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    at, word = 0, 0
    while True:
        code, yes, no, constant = program[at]
        at += 1
        if code == 0x20:
            word = data[constant // 4]
        elif code == 0x06:
            return constant
        else:
            taken = {0x15: word == constant, 0x35: word >= constant, 0x45: bool(word & constant)}[code]
            at += yes if taken else no


@pytest.mark.parametrize("machine", NUMBERS)
class TestFilter:
    """The allowlist of each machine, interpreted."""

    WORDS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # noqa: RUF012
    FORBIDDEN = {  # noqa: RUF012
        "x86_64": {"open": 2, "openat": 257, "openat2": 437, "socket": 41, "clone": 56, "clone3": 435, "fork": 57}
        | {"vfork": 58, "execve": 59, "ptrace": 101, "memfd_create": 319, "io_uring_setup": 425, "fcntl": 72}
        | {"setrlimit": 160, "seccomp": 317, "prctl": 157, "tkill": 200, "pidfd_open": 434, "pkey_mprotect": 329},
        "aarch64": {"openat": 56, "openat2": 437, "socket": 198, "clone": 220, "clone3": 435, "execve": 221}
        | {"ptrace": 117, "memfd_create": 279, "io_uring_setup": 425, "fcntl": 25, "setrlimit": 164, "seccomp": 277}
        | {"prctl": 167, "tkill": 130, "pidfd_open": 434, "pkey_mprotect": 288, "execveat": 281},
    }

    def ask(self, machine, number, *arguments):
        padded = (*arguments, *[0] * (6 - len(arguments)))
        return interpret(allowlist(machine, 4321), self.WORDS[machine], number, padded)

    def test_what_opens_starts_or_connects_is_denied(self, machine):
        assert {name: n for name, n in self.FORBIDDEN[machine].items() if self.ask(machine, n) != DENY} == {}

    def test_what_python_needs_is_allowed(self, machine):
        for name in ("read", "write", "futex", "brk", "munmap", "exit_group", "rt_sigreturn", "getrandom"):
            assert self.ask(machine, NUMBERS[machine][name]) == 0x7FFF0000, name

    def test_memory_may_not_be_executable(self, machine):
        for name in ("mmap", "mprotect"):
            number = NUMBERS[machine][name]
            assert self.ask(machine, number, 0, 4096, 3) == 0x7FFF0000
            assert {self.ask(machine, number, 0, 4096, p) for p in (4, 5, 7, 7 | 1 << 33)} == {DENY}

    def test_signals_are_for_itself(self, machine):
        for name in ("kill", "tgkill"):
            number = NUMBERS[machine][name]
            assert self.ask(machine, number, 4321, 9) == 0x7FFF0000
            assert {self.ask(machine, number, pid, 9) for pid in (0, 1, 4320, 2**32 - 1)} == {DENY}

    def test_clocks_are_its_own(self, machine):
        number = NUMBERS[machine]["clock_gettime"]
        assert {self.ask(machine, number, clock) for clock in (0, 1, 2, 3, 7, 11)} == {0x7FFF0000}
        assert {self.ask(machine, number, (~pid << 3 | 2) & 0xFFFFFFFF) for pid in (1, 4320)} == {DENY}

    def test_limits_may_be_looked_at(self, machine):
        number = NUMBERS[machine]["prlimit64"]
        assert self.ask(machine, number, 0, 7, 0, 1234) == 0x7FFF0000
        assert {self.ask(machine, number, *a) for a in ((1, 7, 0), (0, 7, 1), (0, 7, 1 << 32))} == {DENY}

    def test_another_interface_is_death(self, machine):
        other = self.WORDS["aarch64" if machine == "x86_64" else "x86_64"]
        assert interpret(allowlist(machine, 1), other, 0) == KILL
        if machine == "x86_64":
            assert self.ask(machine, 0x40000000 + 1) == KILL


VALUES = [
    None, True, False, 0, 1, -1, 2**200, 0.0, 1.5, float("inf"), 1j, "", "ß🎉\ud800\x00", b"\x00", [], (),
    [1, [2, (3,)]], {1: "a", "b": [2]}, set(), {1, 2}, frozenset({1}), {(1, 2): {3: frozenset({4})}},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_come_back_exactly(value):
    tree = json.loads(json.dumps(encode(value)))
    back = decode(tree)
    assert back == value and type(back) is type(value)
    assert same(tree, canonical(encode(value)))
    others = [other for other in VALUES if other is not value]
    assert not [other for other in others if same(tree, canonical(encode(other)))], "equal to itself alone"


def test_what_is_equal_to_nothing():
    for value in (float("nan"), complex(0, float("nan")), [float("nan")], object(), type("I", (int,), {})(3)):
        with pytest.raises(Unencodable):
            canonical(encode(value))
        assert not same(encode(value), json.dumps(encode(value)))


def test_order_matters_only_where_there_is_one():
    assert same(encode({1: 2, 3: 4}), canonical(encode({3: 4, 1: 2})))
    tag, items = encode(set(range(100)))
    assert canonical([tag, items]) == canonical([tag, items[::-1]])
    assert not same(encode([1, 2]), canonical(encode([2, 1])))
    assert same(encode(-0.0), canonical(encode(0.0)))


def test_what_is_too_deep_or_too_large_is_refused():
    deep: list = []
    for _ in range(100):
        deep = [deep]
    loop: list = []
    loop.append(loop)
    for value in (deep, loop, "x" * 2_000_000, 1 << 100_000, list(range(1_000_001))):
        with pytest.raises(Unencodable):
            encode(value)


class TestCommand:
    """`rlbench-verify`."""

    def verify(self, text: str, *options: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "rlbench.verifying.command", *options]
        return subprocess.run(command, input=text, capture_output=True, text=True)

    def line(self, name, source, expected=5):
        tests = [{"args": [2, 3], "expected": expected}]
        return json.dumps({"id": name, "source": source, "entry_point": "f", "tests": tests})

    @needs_sandbox
    def test_verdicts_come_in_order(self):
        slow = "import time\ndef f(a, b):\n    time.sleep(0.3)\n    return a + b"
        lines = [self.line("slow", slow), "", self.line(2, "def f(a, b): return a + b"), self.line(None, "f = 1")]
        done = self.verify("\n".join(lines))
        rows = [json.loads(row) for row in done.stdout.splitlines()]
        assert [(row["id"], row["status"]) for row in rows] == [("slow", "passed"), (2, "passed"), (None, "error")]
        assert all(set(row) == {"id", "status", "cpu_seconds", "wall_seconds", "detail"} for row in rows)
        assert rows[0]["wall_seconds"] >= 0.3 > rows[0]["cpu_seconds"]
        assert done.returncode == 0, done.stderr

    @needs_sandbox
    def test_a_line_that_is_no_program_is_told_and_the_others_judged(self, tmp_path):
        path = tmp_path / "programs.jsonl"
        path.write_text(f"nonsense\n{self.line(1, 'def f(a, b): return 5')}\n" + '{"id": 2, "tests": []}\n')
        done = self.verify("", str(path), "--workers", "1", "--cpu-seconds", "1", "--memory-mb", "64")
        rows = [json.loads(row) for row in done.stdout.splitlines()]
        assert [(row["id"], row["status"]) for row in rows] == [
            (None, "infrastructure"), (1, "passed"), (2, "infrastructure")
        ]  # fmt: skip
        assert "line 1" in rows[0]["detail"] and "source" in rows[2]["detail"]
        assert done.returncode == 1

    @needs_sandbox
    def test_a_verdict_comes_before_the_next_line_is_sent(self):
        command = [sys.executable, "-m", "rlbench.verifying.command"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            for name in range(3):
                process.stdin.write(self.line(name, "def f(a, b): return a + b") + "\n")
                process.stdin.flush()
                assert json.loads(process.stdout.readline())["id"] == name
            process.stdin.close()
        assert process.returncode == 0

    def test_wrong_options(self):
        for option in ("--cpu-seconds=nan", "--cpu-seconds=0", "--wall-seconds=inf", "--memory-mb=99999999999"):
            assert self.verify("", option).returncode == 2
        assert self.verify("", "--workers", "0").returncode == 2
        assert self.verify("", "--backend", "best").returncode == 2


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
        monkeypatch.setattr(sandbox, "ZYGOTE", Path(folder) / "zygote.py")
        monkeypatch.setattr(sys, "executable", pythons[0])
        assert probe.holes() == []


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


def test_a_filter_is_not_known_for_every_machine():
    with pytest.raises(KeyError):
        allowlist("vax", 1)
    assert "libc" in syscall("0")
