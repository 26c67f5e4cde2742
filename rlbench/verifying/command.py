"""The command `rlbench-verify`: programs and tests as JSON lines in, verdicts as JSON lines out, in order.

    {"id": 1, "source": "def f(a): return a + 1", "entry_point": "f", "tests": [{"args": [1], "expected": 2}]}
    {"id": 2, "source": "def f(a): return a + 1", "entry_point": "f", "check": "def check(f): assert f(1) == 2"}
    {"id": 1, "status": "passed", "cpu_seconds": 0.003, "wall_seconds": 0.004, "detail": ""}

Exit codes: 0 when all were judged, whatever the verdicts; 1 when some were not; 2 for wrong options, for a
file that can't be read, or where the sandbox is not safe; 130 after Ctrl-C.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any, BinaryIO

from ..command_line import parser_of
from ..types import Call, Check, ConfigError, Program, Status, Verdict
from .codec import BITS
from .pool import Pool
from .probe import BACKENDS, choose
from .sandbox import Limits

DIGITS = BITS // 3  # of an integer in a test: more than any that can be told has


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    sys.set_int_max_str_digits(DIGITS)
    try:
        sys.exit(0 if judged(options) else 1)
    except (ConfigError, OSError) as error:
        print(f"rlbench-verify: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def judged(options: argparse.Namespace) -> bool:
    """Prints verdicts; False where a program got none.

    Raises:
      ConfigError: no sandbox is safe here.
      OSError: the file can't be read, or nobody reads the verdicts.
    """
    limits = Limits(options.cpu_seconds, options.wall_seconds, options.memory_mb << 20)
    all_judged = True
    with opened(options.file) as lines:
        sandbox = choose(options.backend)
        print(f"rlbench-verify: sandbox {sandbox.backend}, {sandbox.why}", file=sys.stderr)
        with Pool(limits, workers=options.workers, sandbox=sandbox) as pool:
            for name, verdict in verify(lines, pool):
                all_judged &= verdict.status != Status.INFRASTRUCTURE
                line = {"id": name, "status": verdict.status}
                line |= {"cpu_seconds": round(verdict.cpu_seconds, 6), "wall_seconds": round(verdict.wall_seconds, 6)}
                print(json.dumps(line | {"detail": verdict.detail}), flush=True)
    return all_judged


def parser() -> argparse.ArgumentParser:
    arguments = parser_of("rlbench-verify", __doc__)
    arguments.add_argument("file", nargs="?", default="-", help="JSON lines; - is standard input, the default")
    arguments.add_argument("--backend", choices=BACKENDS, default="auto")
    arguments.add_argument("--workers", type=positive, help="processes that run programs; by default one a core")
    arguments.add_argument("--cpu-seconds", type=seconds, default=2.0, help="limit on CPU time of each program (2)")
    arguments.add_argument("--wall-seconds", type=seconds, default=10.0, help="limit on wall time of each program (10)")
    arguments.add_argument("--memory-mb", type=positive, default=256, help="memory limit of each program (256)")
    return arguments


def positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1 << 20:
        raise argparse.ArgumentTypeError(f"from 1 to {1 << 20:,}")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError("more than 0, at most a day")
    return value


def opened(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """Lines. Those of standard input are left open: they can't be closed while a thread waits for one."""
    return contextlib.nullcontext(open(0, "rb", closefd=False)) if name == "-" else Path(name).open("rb")


def verify(lines: Iterable[bytes], pool: Pool, ahead: int = 1000) -> Iterator[tuple[Any, Verdict]]:
    """Ids and verdicts, in the order of the lines, of which at most so many are read ahead.

    Lines are read on a thread of their own: whoever sends one may wait for its verdict before the next.

    Raises:
      Exception: the lines could not be read to their end.
    """
    waiting: Queue[tuple[Any, Future[Verdict]] | BaseException | None] = Queue(ahead)

    def read() -> None:
        end = None
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    waiting.put(start(line, number, pool))
        except BaseException as error:
            end = error
        waiting.put(end)

    Thread(target=read, daemon=True).start()
    while started := waiting.get():
        if isinstance(started, BaseException):
            raise started
        name, future = started
        yield name, future.result()


def start(line: bytes, number: int, pool: Pool) -> tuple[Any, Future[Verdict]]:
    """Submits the program of a line. One that is no program gets a verdict that says so."""
    name: Any = None
    try:
        row = json.loads(line.decode("utf-8-sig"))
        name = row.get("id")
        if not (isinstance(row["source"], str) and isinstance(row["entry_point"], str)):
            raise TypeError("source and entry_point are texts")
        return name, pool.submit(Program(row["source"], row["entry_point"], tests_of(row)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        refused: Future[Verdict] = Future()
        refused.set_result(Verdict(Status.INFRASTRUCTURE, detail=f"line {number}: {type(error).__name__}: {error}"))
        return name, refused


def tests_of(row: dict[str, Any]) -> tuple[Call, ...] | Check:
    """Raises KeyError or TypeError where a line has none, or both kinds."""
    if "check" in row:
        if not isinstance(row["check"], str) or "tests" in row:
            raise TypeError("a check is a text, and stands alone")
        return Check(row["check"])
    if not row["tests"] or not all(isinstance(test["args"], list) for test in row["tests"]):
        raise TypeError("args are lists, and there is a test at least")
    return tuple(Call(tuple(test["args"]), test["expected"]) for test in row["tests"])


if __name__ == "__main__":
    main()
