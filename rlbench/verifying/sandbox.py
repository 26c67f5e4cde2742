"""One sandboxed worker: programs go in, verdicts come out. The host judges; the program never sees what is expected."""

import json
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..types import Count, Positive, Status
from .codec import Tree, encode, same

ZYGOTE = Path(__file__).with_name("zygote.py")
GRACE = 5.0  # seconds beyond a program's own that a worker may take to answer


class Limits(NamedTuple):
    """What one program may take."""

    cpu_seconds: Positive = 2.0
    wall_seconds: Positive = 10.0
    memory_bytes: Count = 256 << 20  # of address space, beyond the interpreter's own
    output_bytes: Count = 1 << 20  # of encoded answers


class Call(NamedTuple):
    """A call and what it has to return, exactly: same type, same value."""

    args: tuple[Any, ...]
    expected: Any


class Program(NamedTuple):
    """A source that defines a function, and what the function has to do."""

    source: str
    entry_point: str
    tests: tuple[Call, ...]

    def encoded(self) -> tuple[list[list[Tree]], list[Tree]]:
        """Arguments and expected values as trees.

        Raises:
          Unencodable: one of them is no plain value.
        """
        return [[encode(a) for a in test.args] for test in self.tests], [encode(test.expected) for test in self.tests]


class Verdict(NamedTuple):
    """What became of a program."""

    status: Status
    cpu_seconds: float = 0.0  # of its process
    wall_seconds: float = 0.0
    detail: str = ""
    queue_seconds: float = 0.0  # that it waited for a free worker
    repeated: bool = False  # the verdict of an identical program


class WorkerDied(ConnectionError):
    """The worker is gone, or does not answer."""


class Worker:
    """A zygote process, started at first use and again after it died.

    Args:
      confined: whether programs run in chains. Without, they may do what this user may.
    """

    def __init__(self, limits: Limits, confined: bool = True):
        self.limits, self.confined = limits, confined
        self.greeting: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def verify(self, program: Program) -> Verdict:
        """Runs a program and judges what it answers.

        Raises:
          WorkerDied: nobody knows what became of it.
          Unencodable: a test holds a value that is no plain one.
        """
        inputs, expected = program.encoded()
        request = {"source": program.source, "entry_point": program.entry_point, "inputs": inputs}
        try:
            outcome, said = self._ask(request | self.limits._asdict() | {"confined": self.confined})
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise WorkerDied(str(error)) from error
        status, detail = judge(outcome, said, expected, self.limits)
        return Verdict(status, outcome["cpu_seconds"], outcome["wall_seconds"], detail)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process = None

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        if not self._process:
            self._start()
        assert self._process and self._process.stdin
        data = json.dumps(request).encode()
        self._process.stdin.write(struct.pack(">Q", len(data)) + data)
        self._process.stdin.flush()
        end = time.monotonic() + self.limits.wall_seconds + GRACE
        return json.loads(self._frame(end)), self._frame(end)

    def _start(self) -> None:
        # Not a copy of this process, which has threads: a fresh interpreter that knows only its own folder.
        command = [sys.executable, "-I", str(ZYGOTE)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env={}, cwd="/"
        )
        self.greeting = json.loads(self._frame(time.monotonic() + 30 + GRACE))

    def _frame(self, end: float) -> bytes:
        return self._read(struct.unpack(">Q", self._read(8, end))[0], end)

    def _read(self, count: int, end: float) -> bytes:
        assert self._process and self._process.stdout
        parts, pipe = [], self._process.stdout
        while count:
            if not select.select([pipe], [], [], max(end - time.monotonic(), 0.0))[0]:
                raise TimeoutError("the worker does not answer")
            part = pipe.read(count)
            if not part:
                raise EOFError("the worker ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def judge(outcome: dict[str, Any], said: bytes, expected: Sequence[Tree], limits: Limits) -> tuple[Status, str]:
    """A status and its reason, from what became of a child and what it wrote. Nothing that it wrote is believed.

    Its first line comes from before the program ran: `ready`, or what failed.
    """
    try:
        lines = [json.loads(line) for line in said.splitlines()]
        if not all(type(line) is dict for line in lines):
            raise ValueError("not an object")
    except (ValueError, RecursionError):
        if outcome["stopped"] is None:
            return Status.ERROR, "its answers cannot be read"
        lines = []
    if outcome["stopped"] in ("cpu", "wall"):
        return Status.TIMEOUT, f"{outcome['stopped']} time"
    if outcome["stopped"] == "output":
        return Status.ERROR, f"more than {limits.output_bytes:,} bytes of answers"
    if lines[:1] != [{"ready": True}]:
        reason = lines[0].get("broken") if lines else f"signal {outcome['signal']}"
        return Status.INFRASTRUCTURE, f"the sandbox could not be set up: {reason}"
    if outcome["signal"]:
        late = outcome["cpu_seconds"] > limits.cpu_seconds
        return (Status.TIMEOUT, "cpu time") if late else (Status.ERROR, f"signal {outcome['signal']}")
    for line in lines[1:]:
        if "memory" in line:
            return Status.MEMORY, f"more than {limits.memory_bytes:,} bytes"
        if "error" in line:
            return Status.ERROR, str(line["error"])[:500]
    answers = [(line.get("test"), line.get("value")) for line in lines[1:-1]]
    numbers = [number for number, _ in answers]
    once = all(type(number) is int for number in numbers) and numbers == list(range(len(expected)))
    if not once or len(lines) < 2 or lines[-1] != {"end": len(expected)}:
        return Status.ERROR, "not every test was answered once"
    for (number, answer), wanted in zip(answers, expected, strict=True):
        if not same(answer, wanted):
            return Status.WRONG, f"test {number}"
    return Status.PASSED, ""
