"""One sandboxed worker: programs go in, verdicts come out. The host judges; the program never sees what is expected."""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from ..types import Check, Count, Positive, Program, Status, Verdict
from .codec import Unencodable, canonical, encode, read, same

ZYGOTE = Path(__file__).with_name("zygote.py")
MONTY = Path(__file__).with_name("monty.py")
GRACE = 5.0  # seconds beyond a program's own that a worker may take to answer


class Sandbox(NamedTuple):
    """What holds programs; `probe.choose` finds one that does, and nothing else changes it."""

    backend: Literal["fork", "monty", "unsafe"]
    wrapper: tuple[str, ...] = ()  # the command that the worker's own is put behind
    why: str = ""  # it was chosen


FORK = Sandbox("fork", why="the default")


class Limits(NamedTuple):
    """What one program may take."""

    cpu_seconds: Positive = 2.0
    wall_seconds: Positive = 10.0
    memory_bytes: Count = 256 << 20  # of address space, beyond the interpreter's own
    output_bytes: Count = 1 << 20  # of encoded answers; to a check, of each


def request_of(program: Program) -> dict[str, Any]:
    """What a program's process is told. Of a check it is told nothing but the calls, one by one.

    Raises:
      Unencodable: an argument is no plain value.
    """
    request = {"source": program.source, "entry_point": program.entry_point}
    if isinstance(program.tests, Check):
        return request
    return request | {"inputs": [[encode(argument, plain=True) for argument in test.args] for test in program.tests]}


def expected_of(program: Program) -> list[str]:
    """What it is not told: the source of the check, or the canonical text of every expected value.

    Raises:
      Unencodable: a value is no plain one, or equal to nothing, so that nobody could pass.
    """
    if isinstance(program.tests, Check):
        return [program.tests.source]
    return [canonical(encode(test.expected, plain=True)) for test in program.tests]


class WorkerDied(ConnectionError):
    """The worker is gone, or does not answer."""


class Worker:
    """A process that runs programs, a zygote or Monty's, started at first use and again after it died.

    In a wrapper it may end with the thread that used it first.
    """

    def __init__(self, limits: Limits, sandbox: Sandbox = FORK):
        self.limits, self.sandbox = limits, sandbox
        self.greeting: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def verify(self, program: Program) -> Verdict:
        """Runs a program and judges what it answers.

        Raises:
          WorkerDied: nobody knows what became of it.
          Unencodable: a test holds a value that is no plain one.
        """
        own = time.thread_time()
        requests, expected = [request_of(program)], expected_of(program)
        checked = isinstance(program.tests, Check)
        if checked and self.sandbox.backend == "monty":
            raise Unencodable("a check may be any Python: it wants the backend fork")
        if checked:
            requests.append({"check": expected[0]})
        # A right answer has to fit, with what JSON and another order of digits may add to it.
        limits = self.limits._replace(output_bytes=max(self.limits.output_bytes, 4 * sum(map(len, expected))))
        try:
            confined = self.sandbox.backend != "unsafe"
            outcome, said = self._ask(limits._asdict() | {"confined": confined, "checked": checked}, *requests)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise WorkerDied(str(error)) from error
        status, detail = judge_check(outcome, said, limits) if checked else judge(outcome, said, expected, limits)
        around = outcome["around_seconds"] + time.thread_time() - own
        return Verdict(status, outcome["cpu_seconds"], around, outcome["wall_seconds"], detail)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)  # with what it started
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe:
                    pipe.close()
            self._process = None

    def _ask(self, *request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        if not self._process:
            self._start()
        assert self._process and self._process.stdin
        end = time.monotonic() + self.limits.wall_seconds + GRACE
        frames = [json.dumps(part).encode() for part in request]
        self._write(b"".join(struct.pack(">Q", len(frame)) + frame for frame in frames), end)
        said = []
        while part := self._frame(end):
            said.append(part)
        return json.loads(self._frame(end)), b"".join(said)

    def _start(self) -> None:
        # Not a copy of this process, which has threads: a fresh interpreter that knows only its own folder.
        path = MONTY if self.sandbox.backend == "monty" else ZYGOTE
        self._process = subprocess.Popen(
            [*self.sandbox.wrapper, sys.executable, "-I", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is the host's business
        )
        assert self._process.stdin
        os.set_blocking(self._process.stdin.fileno(), False)
        self.greeting = json.loads(self._frame(time.monotonic() + 30 + GRACE))

    def _write(self, data: bytes, end: float) -> None:
        assert self._process and self._process.stdin
        rest = memoryview(data)
        while rest:
            wait_for(self._process.stdin, select.POLLOUT, end)
            rest = rest[self._process.stdin.write(rest) or 0 :]

    def _frame(self, end: float) -> bytes:
        return self._read(struct.unpack(">Q", self._read(8, end))[0], end)

    def _read(self, count: int, end: float) -> bytes:
        assert self._process and self._process.stdout
        parts, pipe = [], self._process.stdout
        while count:
            wait_for(pipe, select.POLLIN, end)
            part = pipe.read(count)
            if not part:
                raise EOFError("the worker ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def wait_for(pipe: IO[bytes], event: int, end: float) -> None:
    """Until something can be done with a pipe.

    Raises:
      TimeoutError: it can't by then.
    """
    ears = select.poll()
    ears.register(pipe, event)
    if not ears.poll(1000 * max(end - time.monotonic(), 0.0)):
        raise TimeoutError("the worker does not answer")


def judge(outcome: dict[str, Any], said: bytes, expected: Sequence[str], limits: Limits) -> tuple[Status, str]:
    """A status and its reason, from what became of a child and what it wrote. Nothing that it wrote is believed.

    Its first line comes from before the program ran: `ready`, or what failed.

    Args:
      expected: canonical texts.
    """
    if outcome["stopped"] in ("cpu", "wall") and said:
        return Status.TIMEOUT, f"{outcome['stopped']} time"
    if outcome["stopped"] == "output":
        return Status.ERROR, f"more than {limits.output_bytes:,} bytes of answers"
    first, _, rest = said.partition(b"\n")
    if first != READY:
        reason = read(first).get("broken", f"signal {outcome['signal']}")
        return Status.INFRASTRUCTURE, f"the sandbox could not be set up: {readable(reason)}"
    if outcome["signal"]:
        return killed(outcome, limits)
    lines = [read(line) for line in rest.split(b"\n", len(expected) + 2)]  # more are none of its business
    for line in lines:
        if "memory" in line:
            return Status.MEMORY, f"more than {limits.memory_bytes:,} bytes"
        if "error" in line:
            lacks = outcome["stopped"] == "unsupported"
            return Status.UNSUPPORTED if lacks else Status.ERROR, readable(line["error"])
    *answers, end, nothing = lines if len(lines) > 1 else ({}, {})
    numbers = [line.get("test") for line in answers]
    once = all(type(number) is int for number in numbers) and numbers == list(range(len(expected)))
    if not once or end != {"end": len(expected)} or nothing:
        return Status.ERROR, "not every test was answered once"
    for number, (line, wanted) in enumerate(zip(answers, expected, strict=True)):
        if not same(line.get("value"), wanted):
            return Status.WRONG, f"test {number}"
    return Status.PASSED, ""


READY = b'{"ready": true}'


def judge_check(outcome: dict[str, Any], said: bytes, limits: Limits) -> tuple[Status, str]:
    """A status and its reason, from what became of a program's process and what the one that checks it wrote.

    That one is believed as long as it speaks. It says that it has begun before the program runs. From then on its
    silence counts as the program's doing.
    """
    first, *lines = said.splitlines() or [b""]
    if first != READY:
        reason = read(first).get("broken", outcome["stopped"])
        return Status.INFRASTRUCTURE, f"the sandbox could not be set up: {readable(reason)}"
    begun = bool(lines) and read(lines[0]) == {"begun": True}
    last = read(lines[-1]) if lines else {}
    if not begun or last.get("status") == Status.INFRASTRUCTURE:
        why = last.get("detail") or f"the check did not begin ({outcome['stopped'] or 'it ended'})"
        return Status.INFRASTRUCTURE, f"its tests cannot be told: {readable(why)}"
    if outcome["stopped"]:
        return Status.TIMEOUT, f"{outcome['stopped']} time"
    if last.get("ended") and outcome["signal"]:
        return killed(outcome, limits)
    if "status" not in last:
        return Status.WRONG, "its check crashed"
    return Status(last["status"]), readable(last["detail"])


def killed(outcome: dict[str, Any], limits: Limits) -> tuple[Status, str]:
    """A program that a signal ended."""
    late = outcome["cpu_seconds"] > limits.cpu_seconds
    return (Status.TIMEOUT, "cpu time") if late else (Status.ERROR, f"signal {outcome['signal']}")


def readable(detail: Any) -> str:
    """What a child said as text that can be written anywhere."""
    return str(detail)[:500].encode("utf-8", "backslashreplace").decode()
