"""The command `rlbench-verify`: programs and tests as JSON lines in, verdicts as JSON lines out, in order.

    {"id": 1, "source": "def f(a): return a + 1", "entry_point": "f", "tests": [{"args": [1], "expected": 2}]}
    {"id": 2, "source": "def f(a): return a + 1", "entry_point": "f", "check": "def check(f): assert f(1) == 2"}
    {"id": 1, "status": "passed", "cpu_seconds": 0.003, "wall_seconds": 0.004, "detail": ""}

Exit codes: 0 when all were judged, whatever the verdicts; 1 when some were not; 2 for wrong options, or
where the sandbox is not safe.
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
from typing import Any, TextIO

from ..types import Call, Check, ConfigError, Program, Status, Verdict
from .pool import Pool
from .probe import BACKENDS, choose
from .sandbox import Limits


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    sys.set_int_max_str_digits(0)  # tests may hold long integers
    limits = Limits(options.cpu_seconds, options.wall_seconds, options.memory_mb << 20)
    try:
        sandbox = choose(options.backend)
    except ConfigError as error:
        print(f"rlbench-verify: {error}", file=sys.stderr)
        sys.exit(2)
    judged = True
    with opened(options.file) as lines, Pool(limits, workers=options.workers, sandbox=sandbox) as pool:
        for name, verdict in verify(lines, pool):
            judged &= verdict.status != Status.INFRASTRUCTURE
            line = {"id": name, "status": verdict.status}
            line |= {"cpu_seconds": round(verdict.cpu_seconds, 6), "wall_seconds": round(verdict.wall_seconds, 6)}
            print(json.dumps(line | {"detail": verdict.detail}), flush=True)
    sys.exit(0 if judged else 1)


def parser() -> argparse.ArgumentParser:
    first, _, rest = (__doc__ or "").partition("\n")
    arguments = argparse.ArgumentParser(
        "rlbench-verify", description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("file", nargs="?", default="-", help="of JSON lines; - is standard input, the default")
    arguments.add_argument("--backend", choices=BACKENDS, default="auto")
    arguments.add_argument("--workers", type=positive, help="processes that verify; by default one a core")
    arguments.add_argument("--cpu-seconds", type=seconds, default=2.0, help="of each program (2)")
    arguments.add_argument("--wall-seconds", type=seconds, default=10.0, help="of each program (10)")
    arguments.add_argument("--memory-mb", type=positive, default=256, help="of each program (256)")
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


def opened(name: str) -> contextlib.AbstractContextManager[TextIO]:
    return contextlib.nullcontext(sys.stdin) if name == "-" else Path(name).open()


def verify(lines: Iterable[str], pool: Pool, ahead: int = 1000) -> Iterator[tuple[Any, Verdict]]:
    """Ids and verdicts, in the order of the lines, of which at most so many are read ahead.

    Lines are read on a thread of their own: whoever sends one may wait for its verdict before the next.
    """
    waiting: Queue[tuple[Any, Future[Verdict]] | None] = Queue(ahead)

    def read() -> None:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    waiting.put(start(line, number, pool))
        finally:
            waiting.put(None)

    Thread(target=read, daemon=True).start()
    while started := waiting.get():
        name, future = started
        yield name, future.result()


def start(line: str, number: int, pool: Pool) -> tuple[Any, Future[Verdict]]:
    """Submits the program of a line. One that is no program gets a verdict that says so."""
    name: Any = None
    try:
        row = json.loads(line)
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
