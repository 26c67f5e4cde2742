"""Programs that the sandbox verifies a second, with everything on, by workers; and what one costs.

python benchmarks/verify.py [programs]
"""

import importlib.util
import os
import sys
import time

from rich.console import Console
from rich.table import Table

from rlbench.types import Status
from rlbench.verifying.pool import Pool
from rlbench.verifying.probe import choose
from rlbench.verifying.sandbox import Call, Limits, Program

CALLS = tuple(Call(([3, 1, 2], k), [1, 2, 3][:k]) for k in range(5))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    sandboxes = [choose("fork")]
    if sandboxes[0].wrapper:
        sandboxes.insert(0, sandboxes[0]._replace(wrapper=()))
    if importlib.util.find_spec("pydantic_monty"):
        sandboxes.append(choose("monty"))
    programs = [Program(f"def f(xs, k):\n    return sorted(xs)[:k]  # {i}", "f", CALLS) for i in range(count)]
    table = Table(title=f"{count:,} programs of {len(CALLS)} calls", title_justify="left")
    table.add_column("sandbox")
    for name in ("workers", "a second", "CPU ms each", "speedup"):
        table.add_column(name, justify="right")
    cores = len(os.sched_getaffinity(0))
    for sandbox in sandboxes:
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
            name = sandbox.backend + (" in bubblewrap" if sandbox.wrapper else "")
            table.add_row(name, str(workers), f"{rate:.0f}", f"{cpu * 1e3:.2f}", f"{rate / alone:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
