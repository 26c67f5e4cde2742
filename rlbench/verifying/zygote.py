"""The process that sandboxed programs are forked from. Started by its path, with `python -I`, never imported.

Standard library only, one thread, and nothing of rlbench's but the two files beside this one. It reads
programs from its standard input, runs each in a child of its own, and writes what became of it to its
standard output. It never looks into what a child says: that is the host's business.

Frames: eight bytes of length, then so many bytes. A request is JSON; a response is a frame of JSON and
a frame of what the child wrote.
"""

import fcntl
import gc
import importlib
import importlib.util
import json
import os
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
    abc array ast base64 binascii bisect calendar cmath codecs collections collections.abc colorsys contextlib copy csv
    dataclasses datetime decimal difflib enum fractions functools graphlib hashlib heapq html io itertools json keyword
    locale math numbers operator pprint queue random re secrets statistics string struct sys textwrap time timeit
    tokenize traceback types typing unicodedata warnings weakref zlib _strptime __future__
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


# ---- in the child


def child(request: dict, result: int, chains: Any) -> NoReturn:
    """Runs a program on its inputs, in chains unless told otherwise."""
    try:
        prepare(request, result, chains)
        perform(request)
    finally:
        os._exit(0)  # whatever the program did to whatever is called on the way out


def prepare(request: dict, result: int, chains: Any) -> None:
    """Gives up everything but computation and the pipe, which becomes descriptor 3; says so, or what failed."""
    try:
        os.dup2(result, 3)
        os.dup2(0, 1)  # the zygote's own is nothing already
        os.dup2(0, 2)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        confine.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody outlives the one who watches
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
        sys.modules["solution"] = module  # where data classes and type hints look themselves up
        exec(compile(request["source"], "<solution>", "exec"), vars(module))
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


def cpu_seconds_of(pid: int) -> float:
    """CPU time of another process so far."""
    return time.clock_gettime((~pid << 3) | 2)  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)


def run(request: dict, chains: Any) -> tuple[dict, bytes]:
    """Runs one program under its deadlines. Returns what became of the child, and what it wrote."""
    began = time.monotonic()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        child(request, writing, chains)
    os.close(writing)
    said, size, stopped = [], 0, None
    ears = select.poll()
    ears.register(reading, select.POLLIN)
    while stopped is None:
        if ears.poll(10):
            part = os.read(reading, 1 << 16)
            size += len(part)
            if not part:
                break
            said.append(part)
            if size > request["output_bytes"]:
                stopped = "output"
        if cpu_seconds_of(pid) > request["cpu_seconds"]:
            stopped = "cpu"
        elif time.monotonic() - began > request["wall_seconds"]:
            stopped = "wall"
    os.close(reading)
    status, usage = reap(pid, patient=stopped is None)
    outcome = {
        "stopped": stopped,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.monotonic() - began,
    }
    return outcome, b"".join(said)


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
    for name in PRELOADED.split():
        importlib.import_module(name)
    time.strptime("2000", "%Y")  # loads what it needs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the host's business
    gc.collect()
    gc.freeze()
    chains = confine.Chains()
    # Descriptor 3 will be a child's pipe; these are closed to it.
    requests, responses = (fcntl.fcntl(standard, fcntl.F_DUPFD, 10) for standard in (0, 1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    write_frames(responses, json.dumps({"landlock": confine.landlock_version(), "modules": len(sys.modules)}).encode())
    while (frame := read_frame(requests)) is not None:
        outcome, said = run(json.loads(frame), chains)
        write_frames(responses, json.dumps(outcome).encode(), said)


if __name__ == "__main__":
    main()
