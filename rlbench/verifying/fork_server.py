"""The process that sandboxed programs are forked from. Started by its path, with `python -I`, never imported.

Standard library only, one thread, and nothing of rlbench's but the two files beside this one. For each
program on its standard input it forks a child that reads and runs it, and keeps the child's deadlines. The
fork server itself holds nothing of any program, or the next one could find it: neither the source nor the
answers, which the kernel passes on to standard output. What they say is the host's business. When the host is
gone, however it ended, so are the fork server and its children.

Frames: eight bytes of length, then so many bytes. A request is a frame of limits, one of the program, and
perhaps one of a check, all JSON; a response is frames of what the child wrote, an empty one, and one of what
became of it. A check runs in a second child, which asks the first and does the writing. An empty frame from the
host stops a program that has said enough: how much that is depends on the right answer, and is told to nobody here.
"""

import codecs
import contextlib
import encodings
import fcntl
import functools
import gc
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import resource
import select
import signal
import struct
import sys
import termios
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

# What programs may import: nothing can be opened any more once they run.
PRELOADED = """
    __future__ _strptime abc argparse array ast asyncio base64 binascii bisect bz2 calendar cmath code codecs codeop
    collections collections.abc colorsys concurrent.futures configparser contextlib contextvars copy csv dataclasses
    datetime decimal difflib doctest enum fractions functools getopt getpass glob graphlib gzip hashlib heapq hmac html
    html.parser inspect io itertools json keyword linecache locale logging lzma math mimetypes numbers operator optparse
    pathlib pickle pickletools pprint queue random re reprlib sched secrets shlex shutil statistics string stringprep
    struct subprocess sys tempfile textwrap threading time timeit tokenize tomllib traceback types typing unicodedata
    unittest unittest.mock urllib.parse uuid warnings weakref xml.etree.ElementTree zipfile zlib zoneinfo
"""


def beside(name: str):
    """A module from the file of that name in this folder."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


codec, confine = beside("codec"), beside("confine")


def read_frame(descriptor: int) -> bytes | None:
    """None at the end of input, also if it comes too early."""
    head = read_all(descriptor, 8)
    size = struct.unpack(">Q", head)[0] if len(head) == 8 else 0
    frame = read_all(descriptor, size)
    return frame if len(head) == 8 and len(frame) == size else None


def read_all(descriptor: int, count: int) -> bytes:
    parts = []
    while count and (part := os.read(descriptor, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def write_frames(descriptor: int, *frames: bytes) -> None:
    write_all(descriptor, b"".join(struct.pack(">Q", len(frame)) + frame for frame in frames))


# ---- in a child: nobody has read the program


def child(job: Callable, limits: dict, requests: int, ends: Sequence[int], restrictions: Any, server: int) -> NoReturn:
    """Reads a request and does its job, in restrictions unless told otherwise."""
    try:
        job(json.loads(prepare(limits, requests, ends, restrictions, server)))
    finally:
        os._exit(0)  # whatever the program did to whatever is called on the way out


def prepare(limits: dict, requests: int, ends: Sequence[int], restrictions: Any, server: int) -> bytes:
    """Gives up everything but computation and some ends of pipes, which become descriptors 3, 4, ...

    Says so to the first of them, or what failed. Returns the request, which is read here, so that the fork server
    never holds it.
    """
    try:
        request = read_frame(requests) or b""
        for descriptor, end in enumerate([fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in ends], 3):
            os.dup2(end, descriptor)
        os.dup2(0, 1)  # the fork server's own is nothing already
        os.dup2(0, 2)
        confine.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: dies with the fork server
        if os.getppid() != server:
            os._exit(1)
        measures = restrictions.put_on if limits["confined"] else restrictions.limit
        measures(limits["cpu_seconds"], limits["memory_bytes"], 3 + len(ends))
    except BaseException as error:
        send(broken=f"{type(error).__name__}: {error}")
        raise
    send(ready=True)  # before the program can say anything
    return request


def perform(request: dict) -> None:
    """Calls the program's function on every input, or for every call that comes, and says what it returns."""
    try:
        inputs = [decoded(arguments, {}) for arguments in request["inputs"]] if "inputs" in request else calls()
        function = load(request["source"], request["entry_point"])
        answered = 0
        for arguments, named in inputs:
            send(test=answered, value=codec.encode(function(*arguments, **named)))
            answered += 1
        send(end=answered)
    except MemoryError:
        send(memory=True)
    except BaseException as error:
        send(error=f"{type(error).__name__}: {error}"[:500])


def load(source: str, name: str) -> Any:
    """The object that a source calls by a name."""
    module = types.ModuleType("solution")
    module.__file__ = "<solution>"
    # Where data classes, type hints and pickles look themselves up.
    sys.modules["solution"] = sys.modules["__main__"] = module
    with contextlib.suppress(SystemExit):
        exec(compile(source.removeprefix("\ufeff"), "<solution>", "exec"), vars(module))
    return vars(module)[name]


def decoded(arguments: list, named: dict) -> tuple[list, dict]:
    return [codec.decode(tree) for tree in arguments], {name: codec.decode(tree) for name, tree in named.items()}


def calls() -> Iterator[tuple[list, dict]]:
    """Questions of a check, from when it stands, which this waits for, until it is through."""
    read_frame(4)
    return (decoded(*json.loads(frame)) for frame in iter(functools.partial(read_frame, 4), None))


def examine(request: dict, limits: dict) -> None:
    """Runs the check of a program, which is in the process next to this one, and says how it went.

    The check is trusted; the program's answers are not. The program runs once the check stands: what goes wrong
    before is the check's fault, and what goes wrong after the first answer never is, so that no program can do
    away with a verdict.
    """
    asked, answers = 0, io.BufferedReader(io.FileIO(5))
    most = max(limits["output_bytes"], 4 * len(request["check"]))  # a right answer may be spelt out in it

    def conclude(status: str, detail: str = "", **more: Any) -> NoReturn:
        send(status=status, detail=detail[:500], **more)
        os._exit(0)  # whatever the check does about exceptions

    def ask(frame: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the program is gone; its last line tells why
            write_frames(4, frame)

    def receive() -> dict:
        """The program's next line."""
        line = answers.readline(most + 1)
        if len(line) > most:
            conclude("error", f"more than {most:,} bytes in an answer")
        if not line.endswith(b"\n"):
            conclude("error", "it ended before the check did", ended=True)
        message = codec.parse_line(line)
        if "memory" in message:
            conclude("out_of_memory", f"more than {limits['memory_bytes']:,} bytes")
        if "error" in message:
            conclude("error", str(message["error"]))
        return message

    def candidate(*arguments: Any, **named: Any) -> Any:
        nonlocal asked
        try:
            trees = [codec.encode(argument, plain=True) for argument in arguments]
            call = json.dumps([trees, {name: codec.encode(argument, plain=True) for name, argument in named.items()}])
        except codec.Unencodable as error:
            # After its first answer a program may have had a part in what it is asked.
            conclude("wrong" if asked else "infrastructure", f"after {asked} calls: {error}")
        ask(call.encode())
        message = receive()
        if message.get("test") != asked:
            conclude("error", "not every call was answered once")
        asked += 1
        try:
            return codec.decode(message.get("value"))
        except codec.Unencodable as error:
            conclude("error", str(error))

    if (first := codec.parse_line(answers.readline(1000))) != {"ready": True}:
        send(broken=first.get("broken", "the program's process ended"))
        os._exit(0)
    try:
        check = load(request["check"], "check")
    except BaseException as error:
        conclude("infrastructure", f"{type(error).__name__}: {error}")
    send(begun=True)
    ask(b"")
    try:
        check(candidate)
    except BaseException as error:
        conclude("wrong", f"after {asked} calls: {type(error).__name__}: {error}")
    os.close(4)
    if receive() != {"end": asked} or answers.read(1):
        conclude("error", "not every call was answered once")
    conclude("passed")


def send(**line) -> None:
    write_all(3, json.dumps(line).encode() + b"\n")


# ---- in the fork server


STEP = 1.0  # seconds; more between two looks at a program do not count, since this process did not run either
SWITCHES = 100  # more often than this a program gives up its processor by itself


class Deadlines:
    """Deadlines of a program's processes: of processor time, and of a clock that others' load does not move.

    A process that waits for a processor waits for nothing that it did. It is given `patience_seconds` then. A program
    that lets others run, again and again, waits because it wants to: then it is out of time, and never "starved".
    """

    def __init__(self, limits: dict):
        self.limits = limits
        self.seconds, self.seen = 0.0, time.monotonic()
        self.looks: dict[Path, Look] = {}  # the last at each thread: one that has ended has waited, too

    def over(self, cpu_seconds: Iterable[float], threads: Sequence[Path]) -> str | None:
        """The deadline that is over: cpu, wall or starved.

        Args:
          cpu_seconds: that were used, each of them limited.
          threads: folders in /proc of those that may wait for a processor.
        """
        now = time.monotonic()
        self.seconds += min(now - self.seen, STEP)
        self.seen = now
        if any(used > self.limits["cpu_seconds"] for used in cpu_seconds):
            return "cpu"
        self.looks |= {thread: one for thread in threads if (one := look(thread))}
        if self.seconds <= self.limits["wall_seconds"]:
            return None
        waited = sum(one.waited for one in self.looks.values())
        ready = any(self.looks[thread].ready for thread in threads if thread in self.looks)
        if not ready and self.seconds - waited > self.limits["wall_seconds"]:
            return "wall"
        if self.seconds <= self.limits["patience_seconds"]:
            return None
        switches = sum(one.switches for one in self.looks.values())
        return "starved" if self.looks and switches < SWITCHES else "wall"


class Look(NamedTuple):
    """A thread as its kernel sees it: proc(5)."""

    ready: bool  # to run, or it runs
    waited: float  # seconds for a processor, before it ran last
    switches: int  # how often it gave one up by itself


def look(thread: Path) -> Look | None:
    """Looks at a thread, given its folder in /proc; None where it is gone, or the kernel doesn't tell."""
    try:
        ready = (thread / "stat").read_text().rpartition(")")[2].split()[0] == "R"
        waited = int((thread / "schedstat").read_text().split()[1]) * 1e-9
        switches = int((thread / "status").read_text().partition("\nvoluntary_ctxt_switches:")[2].split()[0])
    except (OSError, IndexError, ValueError):  # a status may end early where the thread ends
        return None
    return Look(ready, waited, switches)


def exiting(pid: int) -> bool:
    """True if a process is on its way out."""
    with contextlib.suppress(OSError):
        return bool(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[6]) & 4)  # PF_EXITING
    return False


def run(limits: dict, requests: int, responses: int, restrictions: Any) -> None:
    """Forks a child that reads the next program and runs it; keeps its deadlines, and reports."""
    began, own, deadlines = time.monotonic(), time.process_time(), Deadlines(limits)
    reading, children = start(limits, requests, restrictions, deadlines)
    threads = [Path(f"/proc/{pid}") for pid in children]  # each has one
    stopped = follow(
        reading, requests, responses, lambda: deadlines.over(map(cpu_seconds_of, children), threads), splice
    )
    os.close(reading)
    program, *judges = [reap(pid, limits, patient=not stopped) for pid in children]
    around = time.process_time() - own + sum(judge["cpu_seconds"] for judge in judges)
    report(responses, began, around, stopped=stopped, program=program, judge=judges[0] if judges else None)


def report(responses: int, began: float, around: float, **outcome: Any) -> None:
    """Tells the host what became of a program, after all that it said."""
    outcome |= {"wall_seconds": time.monotonic() - began, "around_seconds": around}
    write_frames(responses, b"", json.dumps(outcome).encode())


def start(limits: dict, requests: int, restrictions: Any, deadlines: Deadlines) -> tuple[int, list[int]]:
    """Forks a child for the next program, and one that checks it, if it comes with a check.

    Between the two are pipes that are theirs alone. The second reads the check after the first has read the
    program and given up the pipe of requests: neither ever holds what is the other's. There is none if the first
    does not come so far.

    Returns:
      A pipe that says how it went, and the processes, the program's first.
    """
    server = os.getpid()

    def fork(job: Callable, requests: int, *ends: int) -> int:
        pid = os.fork()
        if pid == 0:
            child(job, limits, requests, ends, restrictions, server)
        return pid

    if not limits["checked"]:
        reading, writing = os.pipe()
        program = fork(perform, requests, writing)
        os.close(writing)
        return reading, [program]
    (asked, asking), (answered, answering) = os.pipe(), os.pipe()
    program = fork(perform, requests, answering, asked)
    os.close(answering)
    ears = select.poll()
    news: list[tuple[int, int]] = []
    ears.register(answered, select.POLLIN)
    while not news and not deadlines.over([cpu_seconds_of(program)], [Path(f"/proc/{program}")]):
        news = ears.poll(10)
    if not any(event & select.POLLIN for _, event in news):
        os.close(asked)
        os.close(asking)
        return answered, [program]
    reading, writing = os.pipe()
    judge = fork(functools.partial(examine, limits=limits), requests, writing, asking, answered)
    for descriptor in (asked, asking, answered, writing):
        os.close(descriptor)
    return reading, [program, judge]


def follow(
    reading: int, requests: int, responses: int, over: Callable[[], str | None], pass_on: Callable
) -> str | None:
    """Passes on what a child says until it has said all, or has to be stopped.

    Args:
      over: the deadline that is over.
      pass_on: takes some of what there is from a pipe to another one, as a frame, and returns how much it was.

    Returns:
      None if it has said all; or else what stopped it: a deadline, or "output", of which the host has enough.
    """
    ears = select.poll()
    ears.register(reading, select.POLLIN)
    ears.register(requests, 0)  # but for its end; what is in it is for the child
    spoken, stopped = False, None
    while not stopped:
        news = dict(ears.poll(10))
        if news.get(requests, 0) & select.POLLHUP:
            os.killpg(0, signal.SIGKILL)  # the host is gone, and with it goes all that it started
        if reading in news:
            if not pass_on(reading, responses):
                return None
            if not spoken:
                ears.modify(requests, select.POLLIN)  # the child has read what is its own
                spoken = True
        if news.get(requests, 0) & select.POLLIN:
            read_frame(requests)
            return "output"
        stopped = over()
    return stopped


def splice(pipe: int, responses: int) -> int:
    """Has the kernel pass on what there is in a pipe, as a frame.

    This process holds nothing of any program, or the next child could find it.
    """
    size = rest = waiting(pipe)
    if size:
        write_all(responses, struct.pack(">Q", size))
    while rest:
        rest -= os.splice(pipe, responses, rest)
    return size


def waiting(pipe: int) -> int:
    """Bytes that can be read from a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return count


def cpu_seconds_of(pid: int) -> float:
    """CPU time of another process so far, on Linux."""
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)


def reap(pid: int, limits: dict, patient: bool) -> dict[str, Any]:
    """Waits for a child, which is killed at once, or if it does not end within 50 ms of closing its pipe.

    Returns:
      `exit`: its exit code, or minus the signal that ended it; `outside`: whether it was killed by nobody here,
      neither this process nor, in its restrictions, itself; `cpu_seconds`; and the peak of memory, `held_bytes`.
    """
    end = time.monotonic() + (0.05 if patient else 0.0)
    done = 0
    while not done and time.monotonic() < end:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if not done:
            time.sleep(0.0002)
    stays = not done and not (patient and exiting(pid))
    if stays:
        os.kill(pid, signal.SIGKILL)
    if not done:
        _, status, usage = os.wait4(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    held = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "exit": ended,
        "outside": ended == -signal.SIGKILL and not stays and limits["confined"],
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "held_bytes": max(held - resident_bytes(), 0),  # it began as a copy of this process
    }


@functools.cache
def resident_bytes() -> int:
    """Memory that this process holds once it runs programs, on Linux. Its rusage tells of the one that started it."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def serve(requests: int, responses: int, greeting: dict, run: Callable[[dict, int, int], None]) -> None:
    """Greets the host, and runs its programs until it is gone."""
    with contextlib.suppress(BrokenPipeError):
        write_frames(responses, json.dumps(greeting).encode())
        while (limits := read_frame(requests)) is not None:
            if limits:  # the host may have had enough of a program that was through
                run(json.loads(limits), requests, responses)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # what whoever started the host made of these is not for us
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for name in PRELOADED.split():
        importlib.import_module(name)
    for encoding in pkgutil.iter_modules(encodings.__path__):
        with contextlib.suppress(LookupError):
            codecs.lookup(encoding.name)  # keeps it
    time.strptime("2000", "%Y")  # loads what it needs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a program may print what is no text
    restrictions = confine.Restrictions()
    # Descriptor 3 will be a child's pipe; these are closed to it.
    requests, responses = (fcntl.fcntl(standard, fcntl.F_DUPFD, 10) for standard in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    gc.collect()
    gc.freeze()
    serve(
        requests, responses, {"landlock": confine.landlock_version()}, functools.partial(run, restrictions=restrictions)
    )


if __name__ == "__main__":
    main()
