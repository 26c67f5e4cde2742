"""The process that sandboxed programs are forked from. Started by its path, with `python -I`, never imported.

Standard library only, one thread, and nothing of rlbench's but the two files beside this one. For each
program on its standard input it forks a child that reads and runs it, and keeps the child's deadlines. The
zygote itself holds nothing of any program, or the next one could find it: neither the source nor the
answers, which the kernel passes on to standard output. What they say is the host's business.

Frames: eight bytes of length, then so many bytes. A request is a frame of limits and one of the program,
both JSON; a response is frames of what the child wrote, an empty one, and one of what became of it.
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
import termios
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


def child(limits: dict, requests: int, result: int, chains: Any, zygote: int) -> NoReturn:
    """Reads a program and runs it on its inputs, in chains unless told otherwise."""
    try:
        perform(json.loads(prepare(limits, requests, result, chains, zygote)))
    finally:
        os._exit(0)  # whatever the program did to whatever is called on the way out


def prepare(limits: dict, requests: int, result: int, chains: Any, zygote: int) -> bytes:
    """Gives up everything but computation and the pipe, which becomes descriptor 3; says so, or what failed.

    Returns the request, which is read here, so that the zygote never holds it.
    """
    try:
        request = read_frame(requests) or b""
        os.dup2(result, 3)
        os.dup2(0, 1)  # the zygote's own is nothing already
        os.dup2(0, 2)
        confine.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: dies with the zygote
        if os.getppid() != zygote:
            os._exit(1)
        measures = chains.put_on if limits["confined"] else chains.limit
        measures(limits["cpu_seconds"], limits["memory_bytes"])
    except BaseException as error:
        say(broken=f"{type(error).__name__}: {error}")
        raise
    say(ready=True)  # before the program can say anything
    return request


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


# ---- in the zygote


def run(limits: dict, requests: int, responses: int, chains: Any) -> None:
    """Forks a child that reads the next program and runs it; keeps its deadlines, and reports.

    What the child writes is passed on by the kernel, in frames, the last of which is empty: this process
    holds nothing of any program, or the next child could find it.
    """
    began, zygote = time.monotonic(), os.getpid()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(limits, requests, writing, chains, zygote)
    os.close(writing)
    size, stopped, ended = 0, None, False
    ears = select.poll()
    ears.register(reading, select.POLLIN)
    while not (stopped or ended):
        if ears.poll(10):
            there = waiting(reading)
            ended, size = not there, size + there
            if there:
                write_all(responses, struct.pack(">Q", there))
                while there:
                    there -= os.splice(reading, responses, there)
        if size > limits["output_bytes"]:
            stopped = "output"
        elif not ended and cpu_seconds_of(pid) > limits["cpu_seconds"]:
            stopped = "cpu"
        elif not ended and time.monotonic() - began > limits["wall_seconds"]:
            stopped = "wall"
    os.close(reading)
    status, usage = reap(pid, patient=ended)
    outcome = {
        "stopped": stopped,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.monotonic() - began,
    }
    write_frames(responses, b"", json.dumps(outcome).encode())


def waiting(pipe: int) -> int:
    """Bytes that can be read from a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
    return count


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
    write_frames(responses, json.dumps({"landlock": confine.landlock_version()}).encode())
    gc.collect()
    gc.freeze()
    with contextlib.suppress(BrokenPipeError):  # the host is gone
        while (limits := read_frame(requests)) is not None:
            run(json.loads(limits), requests, responses, chains)


if __name__ == "__main__":
    main()
