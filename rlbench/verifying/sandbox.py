"""One sandboxed worker: programs go in, verdicts come out. The host judges; the program never sees what is expected."""

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from ..types import Check, Count, Positive, Program, Status, Verdict
from .codec import Unencodable, canonical, encode, parse_line, same

FORK_SERVER = Path(__file__).with_name("fork_server.py")
MONTY = Path(__file__).with_name("monty.py")
GRACE = 5.0  # seconds beyond a program's own that a worker may take to answer


class Sandbox(NamedTuple):
    """A kind of sandbox; `probe.choose` finds one that does, and nothing else changes it."""

    backend: Literal["fork", "monty", "unsafe"]
    wrapper: tuple[str, ...] = ()  # the command that the worker's own is put behind
    why: str = ""  # it was chosen


FORK = Sandbox("fork", why="the default")


class Limits(NamedTuple):
    """Limits of one program."""

    cpu_seconds: Positive = 2.0
    wall_seconds: Positive = 10.0
    memory_bytes: Count = 256 << 20  # of address space, beyond the interpreter's own
    output_bytes: Count = 1 << 20  # of encoded answers; to a check, of each
    patience: Positive = 6.0  # times its wall_seconds that it may take where it waits for a processor


def request_of(program: Program) -> dict[str, Any]:
    """The part of a request that a program's process is told. Of a check it is told nothing but the calls, one by one.

    Raises:
      Unencodable: an argument is no plain value, or there are no tests, which any program would pass.
    """
    if not program.tests:
        raise Unencodable("there are none")
    request = {"source": program.source, "entry_point": program.entry_point}
    if isinstance(program.tests, Check):
        return request
    return request | {"inputs": [[encode(argument, plain=True) for argument in test.args] for test in program.tests]}


def expected_of(program: Program) -> list[str]:
    """The part that it is not told: the source of the check, or the canonical text of every expected value.

    Raises:
      Unencodable: a value is no plain one, or equal to nothing, so that nobody could pass.
    """
    if isinstance(program.tests, Check):
        return [program.tests.source]
    return [canonical(encode(test.expected, plain=True)) for test in program.tests]


class InfrastructureError(Exception):
    """The sandbox broke, or was disturbed from outside: nobody knows what a program would have answered.

    Args:
      again: the status if it happens again.
    """

    def __init__(self, reason: str, again: Status = Status.INFRASTRUCTURE):
        super().__init__(reason)
        self.again = again


class Worker:
    """A process that runs programs, a fork server or Monty's, started at first use and again after it died.

    In a wrapper it may end with the thread that used it first. One thread at a time may use it; any may end it.
    """

    def __init__(self, limits: Limits, sandbox: Sandbox = FORK):
        self.limits, self.sandbox = limits, sandbox
        self.greeting: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self._lock = threading.Lock()  # around the start and the end of the process

    def verify(self, program: Program) -> Verdict:
        """Runs a program and judges what it answers.

        Raises:
          InfrastructureError: nobody knows what became of it. The next program has a new process.
          Unencodable: a test holds a value that is no plain one, or there is none.
          CancelledError: another thread ended the worker.
        """
        own = time.thread_time()
        requests, expected = [request_of(program)], expected_of(program)
        checked = isinstance(program.tests, Check)
        if checked and self.sandbox.backend == "monty":
            raise Unencodable("a check may be any Python: it wants the backend fork")
        if checked:
            requests.append({"check": expected[0]})
        limits = self.limits._asdict() | {"patience_seconds": self.limits.patience * self.limits.wall_seconds}
        limits |= {"confined": self.sandbox.backend != "unsafe", "checked": checked}
        # A right answer has to fit, with what JSON and another order of digits may add to it. The worker is not told,
        # or its programs would know how long the answer is. A check sees to that itself.
        most = None if checked else max(self.limits.output_bytes, 4 * sum(map(len, expected)))
        try:
            outcome, output = self._ask([limits, *requests], most)
            if checked:
                status, detail = judge_check(outcome, output, self.limits)
            else:
                status, detail = judge(outcome, output, expected, self.limits)
        except InfrastructureError as error:
            self.close()
            if self._ended:
                raise CancelledError from error
            raise
        around = outcome["around_seconds"] + time.thread_time() - own
        return Verdict(status, outcome["program"]["cpu_seconds"], around, outcome["wall_seconds"], detail)

    def close(self) -> None:
        """Ends the process, if there is one."""
        with self._lock:
            if process := self._process:
                kill(process)
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        pipe.close()
                self._process = None

    def end(self) -> None:
        """Ends the process, at once, whatever it runs, and for good."""
        with self._lock:
            self._ended = True
            if self._process:
                kill(self._process)

    def _ask(self, request: Sequence[dict[str, Any]], most: int | None) -> tuple[dict[str, Any], bytes]:
        """The outcome of a program and its output, of which so many bytes are enough.

        Raises:
          InfrastructureError: the worker is gone, or does not answer.
        """
        frames = [framed(json.dumps(part).encode()) for part in request]
        patience = Patience(self.limits.patience * self.limits.wall_seconds + GRACE)
        output, size = [], 0
        try:
            if not self._process:
                self._start()
            self._write(b"".join(frames), patience)
            while part := self._frame(patience):
                size += len(part)
                if most is None or size <= most:
                    output.append(part)
                elif size - len(part) <= most:
                    self._write(framed(b""), patience)  # enough
            outcome = json.loads(self._frame(patience))
        except (OSError, EOFError, ValueError) as error:
            raise InfrastructureError(str(error)) from error
        if most is not None and size > most:
            outcome["stopped"] = "output"  # also if it was through before the word came
        return outcome, b"".join(output)

    def _start(self) -> None:
        # Not a copy of this process, which has threads: a fresh interpreter that knows only its own folder.
        path = MONTY if self.sandbox.backend == "monty" else FORK_SERVER
        with self._lock:
            if self._ended:
                raise EOFError("the worker was ended")
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
        self.greeting = json.loads(self._frame(Patience(30 + GRACE)))

    def _write(self, data: bytes, patience: "Patience") -> None:
        assert self._process and self._process.stdin
        rest = memoryview(data)
        while rest:
            patience.wait_for(self._process.stdin, select.POLLOUT)
            rest = rest[self._process.stdin.write(rest) or 0 :]

    def _frame(self, patience: "Patience") -> bytes:
        return self._read(struct.unpack(">Q", self._read(8, patience))[0], patience)

    def _read(self, count: int, patience: "Patience") -> bytes:
        assert self._process and self._process.stdout
        parts, pipe = [], self._process.stdout
        while count:
            patience.wait_for(pipe, select.POLLIN)
            part = pipe.read(count)
            if not part:
                raise EOFError("the worker ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that was not waited for, with what it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended by itself
        os.killpg(process.pid, signal.SIGKILL)


def framed(data: bytes) -> bytes:
    return struct.pack(">Q", len(data)) + data


class Patience:
    """Seconds that a worker has to answer in. Those in which this process was stopped are none of them."""

    STEP = 1.0

    def __init__(self, seconds: float):
        self.seconds = seconds

    def wait_for(self, pipe: IO[bytes], event: int) -> None:
        """Until something can be done with a pipe.

        Raises:
          TimeoutError: it can't by then.
        """
        ears = select.poll()
        ears.register(pipe, event)
        began = time.monotonic()
        while not ears.poll(1000 * self.STEP):
            now = time.monotonic()
            self.seconds -= min(now - began, self.STEP)
            began = now
            if self.seconds <= 0:
                raise TimeoutError("the worker does not answer")


def undisturbed(outcome: dict[str, Any], limits: Limits) -> None:
    """Raises InfrastructureError where a verdict would not be the program's doing.

    A program in its restrictions can't send itself SIGKILL, nor its check, and can't look as if others kept it from
    running. It may well make the kernel short of memory, whose killer takes who holds most: killed twice while it held
    more than half of what it may, it is out of memory, and wrong if that was its check.
    """
    if outcome["stopped"] == "starved":
        raise InfrastructureError("it had no processor to run on")
    for name, greedy in (("program", Status.MEMORY), ("judge", Status.WRONG)):
        process = outcome[name]
        if process and process["outside"] and process["cpu_seconds"] <= limits.cpu_seconds:
            again = greedy if 2 * process["held_bytes"] > limits.memory_bytes else Status.INFRASTRUCTURE
            held = f"while it held {process['held_bytes'] >> 20:,} MB"
            raise InfrastructureError(f"the {name}'s process was killed from outside {held}", again)


def judge(outcome: dict[str, Any], output: bytes, expected: Sequence[str], limits: Limits) -> tuple[Status, str]:
    """A status and its reason, from what became of a child and what it wrote. Nothing that it wrote is believed.

    Its first line comes from before the program ran: `ready`, or what failed.

    Args:
      expected: canonical texts.

    Raises:
      InfrastructureError: the sandbox broke, or was disturbed.
    """
    if outcome["stopped"] == "output":
        return Status.ERROR, "far more bytes of answers than a right one has"
    first, _, rest = output.partition(b"\n")
    set_up(first, outcome, limits)
    if outcome["stopped"] in ("cpu", "wall"):
        return Status.TIMEOUT, f"{outcome['stopped']} time"
    if outcome["program"]["exit"] < 0:
        return killed(outcome["program"], limits)
    lines = [parse_line(line) for line in rest.split(b"\n", len(expected) + 2)]  # more are none of its business
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


def set_up(first: bytes, outcome: dict[str, Any], limits: Limits) -> None:
    """Raises InfrastructureError unless a first line says that the sandbox held, and nothing disturbed it since."""
    undisturbed(outcome, limits)
    if first != READY:
        reason = parse_line(first).get("broken", f"{outcome['stopped']}, exit {outcome['program']['exit']}")
        raise InfrastructureError(f"the sandbox could not be set up: {readable(reason)}")


def judge_check(outcome: dict[str, Any], output: bytes, limits: Limits) -> tuple[Status, str]:
    """A status and its reason, from what became of a program's process and what the one that checks it wrote.

    That one is believed as long as it speaks. It says that it has begun before the program runs. From then on its
    silence counts as the program's doing.

    Raises:
      InfrastructureError: the sandbox broke, or was disturbed.
    """
    first, *lines = output.splitlines() or [b""]
    set_up(first, outcome, limits)
    if lines and "broken" in (line := parse_line(lines[0])):
        raise InfrastructureError(f"the sandbox could not be set up: {readable(line['broken'])}")
    begun = bool(lines) and parse_line(lines[0]) == {"begun": True}
    last = parse_line(lines[-1]) if lines else {}
    if not begun or last.get("status") == Status.INFRASTRUCTURE:
        why = last.get("detail") or f"the check did not begin ({outcome['stopped'] or 'it ended'})"
        return Status.INFRASTRUCTURE, f"its tests cannot be told: {readable(why)}"
    if outcome["stopped"]:
        return Status.TIMEOUT, f"{outcome['stopped']} time"
    if last.get("ended") and outcome["program"]["exit"] < 0:
        return killed(outcome["program"], limits)
    if "status" not in last:
        return Status.WRONG, "its check crashed"
    return Status(last["status"]), readable(last["detail"])


def killed(process: dict[str, Any], limits: Limits) -> tuple[Status, str]:
    """A program that a signal ended."""
    if process["cpu_seconds"] > limits.cpu_seconds:
        return Status.TIMEOUT, "cpu time"
    return Status.ERROR, f"signal {-process['exit']}"


def readable(detail: Any) -> str:
    """A child's words as text that can be written anywhere."""
    text = detail if isinstance(detail, str) else f"no text but a {type(detail).__name__}"
    return text[:500].encode("utf-8", "backslashreplace").decode()
