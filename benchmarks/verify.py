"""Programs that the sandbox verifies a second, with everything on, by workers; and what one costs.

python benchmarks/verify.py [programs]
"""

import importlib.util
import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from rlbench.types import Call, Check, Program, Status
from rlbench.verifying.pool import Pool
from rlbench.verifying.probe import choose
from rlbench.verifying.sandbox import Limits, Sandbox

CALLS = tuple(Call(([3, 1, 2], k), [1, 2, 3][:k]) for k in range(5))
CHECK = Check("def check(f):\n    for k in range(5):\n        assert f([3, 1, 2], k) == [1, 2, 3][:k]\n")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    fork = choose("fork")
    kinds: list[tuple[str, Sandbox, Any]] = [("fork, calls", fork._replace(wrapper=()), CALLS)]
    if fork.wrapper:
        kinds.append(("fork in bubblewrap, calls", fork, CALLS))
    kinds.append(("fork, a check", fork._replace(wrapper=()), CHECK))
    if importlib.util.find_spec("pydantic_monty"):
        kinds.append(("monty, calls", choose("monty"), CALLS))
    table = Table(title=f"{count:,} programs of {len(CALLS)} calls", title_justify="left")
    table.add_column("sandbox")
    for name in ("workers", "a second", "CPU ms each", "speedup"):
        table.add_column(name, justify="right")
    cores = len(os.sched_getaffinity(0))
    for kind, sandbox, tests in kinds:
        programs = [Program(f"def f(xs, k):\n    return sorted(xs)[:k]  # {i}", "f", tests) for i in range(count)]
        alone = 0.0
        for workers in sorted({1, 2, cores}):
            with Pool(Limits(), workers=workers, sandbox=sandbox) as pool:
                pool.verify(programs[: 10 * workers])
                began = time.perf_counter()
                verdicts = pool.verify(programs)
                rate = count / (time.perf_counter() - began)
            assert all(verdict.status == Status.PASSED for verdict in verdicts)
            alone = alone or rate
            cpu = sum(verdict.cpu_seconds for verdict in verdicts) / count
            table.add_row(kind, str(workers), f"{rate:.0f}", f"{cpu * 1e3:.2f}", f"{rate / alone:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
