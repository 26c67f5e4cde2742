"""The process that sandboxed programs are forked from. Started by its path, with `python -I`, never imported.

Standard library only, one thread, and nothing of rlbench's but the two files beside this one. For each
program on its standard input it forks a supervisor, which reads it, forks the child that runs it, keeps
its deadlines, and writes what became of it to standard output. The zygote itself holds nothing of any
program, or the next one could find it. Nobody here looks into what a child says: that is the host's business.

Frames: eight bytes of length, then so many bytes. A request is JSON; a response is a frame of JSON and
a frame of what the child wrote.
"""

import codecs
import contextlib
import encodings
import fcntl
import gc
import importlib
import importlib.util
import io
import json
import os
import pkgutil
import select
import signal
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any, NoReturn

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
    """None at the end of input."""
    head = read_all(descriptor, 8)
    return read_all(descriptor, struct.unpack(">Q", head)[0]) if len(head) == 8 else None


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


# ---- in the child: nobody has read the program


def child(request: dict, result: int, chains: Any, parent: int) -> NoReturn:
    """Runs a program on its inputs, in chains unless told otherwise."""
    try:
        prepare(request, result, chains, parent)
        perform(request)
    finally:
        os._exit(0)  # whatever the program did to whatever is called on the way out


def prepare(request: dict, result: int, chains: Any, parent: int) -> None:
    """Gives up everything but computation and the pipe, which becomes descriptor 3; says so, or what failed."""
    try:
        os.dup2(result, 3)
        os.dup2(0, 1)  # the zygote's own is nothing already
        os.dup2(0, 2)
        die_with(parent)
        measures = chains.put_on if request["confined"] else chains.limit
        measures(request["cpu_seconds"], request["memory_bytes"])
    except BaseException as error:
        say(broken=f"{type(error).__name__}: {error}")
        raise
    say(ready=True)  # before the program can say anything


def perform(request: dict) -> None:
    """Calls the program's function on every input and says what it returns."""
    try:
        inputs = [[codec.decode(tree) for tree in arguments] for arguments in request["inputs"]]
        module = types.ModuleType("solution")
        module.__file__ = "<solution>"
        # Where data classes, type hints and pickles look themselves up.
        sys.modules["solution"] = sys.modules["__main__"] = module
        with contextlib.suppress(SystemExit):
            exec(compile(request["source"].removeprefix("\ufeff"), "<solution>", "exec"), vars(module))
        function = vars(module)[request["entry_point"]]
        for number, arguments in enumerate(inputs):
            say(test=number, value=codec.encode(function(*arguments)))
        say(end=len(inputs))
    except MemoryError:
        say(memory=True)
    except BaseException as error:
        say(error=f"{type(error).__name__}: {error}"[:500])


def say(**line) -> None:
    write_all(3, json.dumps(line).encode() + b"\n")


# ---- in the supervisor: one a program, so that nothing of a program stays in the zygote for the next one to find


def supervise(requests: int, responses: int, chains: Any, zygote: int) -> NoReturn:
    """Reads a request, runs its program, and writes the response. The exit code is 0 where all went well."""
    try:
        die_with(zygote)
        frame = read_frame(requests)
        if frame is not None:
            outcome, said = run(json.loads(frame), chains, requests)
            write_frames(responses, json.dumps(outcome).encode(), said)
            os._exit(0)
    finally:
        os._exit(1)


def run(request: dict, chains: Any, requests: int) -> tuple[dict, bytes]:
    """Runs one program under its deadlines. Returns what became of the child, and what it wrote."""
    began = time.monotonic()
    reading, writing = os.pipe()
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        child(request, writing, chains, supervisor)
    os.close(writing)
    said, size, stopped = [], 0, None
    ears = select.poll()
    ears.register(reading, select.POLLIN)
    ears.register(requests, 0)  # hangs up when the host is gone
    while stopped is None:
        for descriptor, _ in ears.poll(10):
            if descriptor == requests:
                stopped = "host"
                continue
            part = os.read(reading, 1 << 16)
            size += len(part)
            said.append(part)
            if not part:
                stopped = ""
            elif size > request["output_bytes"]:
                stopped = "output"
        if stopped is None and cpu_seconds_of(pid) > request["cpu_seconds"]:
            stopped = "cpu"
        elif stopped is None and time.monotonic() - began > request["wall_seconds"]:
            stopped = "wall"
    os.close(reading)
    status, usage = reap(pid, patient=not stopped)
    outcome = {
        "stopped": stopped or None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.monotonic() - began,
    }
    return outcome, b"".join(said)


def cpu_seconds_of(pid: int) -> float:
    """CPU time of another process so far."""
    return time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)


def reap(pid: int, patient: bool):
    """Waits for a child, which is killed at once, or if it does not end within 50 ms of closing its pipe."""
    end = time.monotonic() + (0.05 if patient else 0.0)
    while time.monotonic() < end:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage
        time.sleep(0.0002)
    os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage


def die_with(parent: int) -> None:
    """This process is killed when its parent ends; at once, if it has already."""
    confine.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


# ---- in the zygote


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
    chains = confine.Chains()
    # Descriptor 3 will be a child's pipe; these are closed to it.
    requests, responses = (fcntl.fcntl(standard, fcntl.F_DUPFD, 10) for standard in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    greeting = {"landlock": confine.landlock_version(), "modules": len(sys.modules)}
    write_frames(responses, json.dumps(greeting).encode())
    gc.collect()
    gc.freeze()
    zygote, ears = os.getpid(), select.poll()
    ears.register(requests, select.POLLIN)
    while ears.poll()[0][1] & select.POLLIN:
        pid = os.fork()
        if pid == 0:
            supervise(requests, responses, chains, zygote)
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(1)


if __name__ == "__main__":
    main()
