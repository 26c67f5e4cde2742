"""The command `rlbench-check`: runs plugins through the contract kit, and prints a checklist.

    rlbench-check algo=my_algo                       an algorithm
    rlbench-check --config-dir conf task=my_task     a task, whose YAML is in ./conf/task/
    rlbench-check                                    every plugin that is installed, a line each

It takes the words of `rlbench`: overrides, and --config-dir. Algorithms are checked on a CPU, on a model of one narrow
layer unless the words say otherwise. Exit codes: 0 when everything passed or is not applicable, 1 when a check failed,
2 for a config that is wrong.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..contract.algorithm import source_of as source_of_algorithm
from ..contract.sources import Source, near, raised
from ..contract.task import source_of as source_of_task
from ..devices import cache_folder, keep_compilations
from ..discovery import offers
from ..help import explain, is_one_line
from ..types import ConfigError, PluginError
from . import ALGORITHM_CHECKS, TASK_CHECKS
from .outcome import Outcome, Result, Rule, examine
from .subjects import algorithm_of, composed, options, task_of

PAGES = {"algo": "docs/algorithm.md", "task": "docs/task.md"}
MARKS = {Outcome.PASSED: "[green]✓[/]", Outcome.FAILED: "[red]✗[/]", Outcome.NOT_APPLICABLE: "[dim]-[/]"}
BUILDS = "builds"  # the check that comes before all others
Rules = Mapping[str, Rule]


class Plugin(NamedTuple):
    """An option of the config groups "algo" and "task"."""

    group: str
    name: str

    def __str__(self) -> str:
        return f"{self.group}={self.name}"

    @property
    def file(self) -> str:
        """Its YAML, in a folder of configs."""
        return f"{self.group}/{self.name}.yaml"


def main() -> None:
    """The entry point."""
    words = sys.argv[1:]
    if {"-h", "--help"}.intersection(words):
        print(__doc__)
        return
    jax.config.update("jax_platforms", "cpu")  # tolerances are those of a CPU; an accelerator may be busy
    jax.config.update("jax_disable_most_optimizations", True)  # compiling takes most of the time
    try:
        config = composed(words)
        keep_compilations(cache_folder(config["cache"]) / "compilations")
        named = [Plugin(*word.split("=", 1)) for word in words if word.startswith(tuple(f"{g}=" for g in PAGES))]
        failed = checklist(named, words) if named else overview(words)
    except Exception as error:
        if not is_one_line(error):
            raise
        print(f"rlbench-check: {' '.join(explain(error, words).split())}", file=sys.stderr)
        sys.exit(2)
    sys.exit(1 if failed else 0)


def checklist(plugins: Sequence[Plugin], words: Sequence[str]) -> bool:
    """Prints every check of some plugins. Returns whether one failed."""
    console = Console(highlight=False)
    bad = False
    for plugin in plugins:
        began = time.perf_counter()
        table = Table("", "check", "what is asked", title=f"[bold]{plugin}[/]", box=box.SIMPLE, title_justify="left")
        results = []
        for result in results_of(plugin, words):
            results.append(result)
            reason = Text(f"\n{result.outcome}: {result.reason}", "dim") if result.reason else ""
            table.add_row(MARKS[result.outcome], result.check, Text.assemble(result.asked, reason))
        console.print(table)
        report_failures(console, plugin, results)
        console.print(f"{tally(results)}, in {time.perf_counter() - began:.0f} s\n", soft_wrap=True)
        bad |= any(result.outcome == Outcome.FAILED for result in results)
    return bad


def overview(words: Sequence[str]) -> bool:
    """Prints a line for each plugin that is installed. Returns whether a check failed."""
    console = Console(highlight=False)
    bad = False
    for plugin in (Plugin(group, name) for group in PAGES for name in options(group, words)):
        results = list(results_of(plugin, [*words, str(plugin)]))
        failed = any(result.outcome == Outcome.FAILED for result in results)
        mark = MARKS[Outcome.FAILED if failed else Outcome.PASSED]
        console.print(f"{mark} {plugin!s:28} {tally(results)}", soft_wrap=True)
        report_failures(console, plugin, results)
        bad |= failed
    return bad


def report_failures(console: Console, plugin: Plugin, results: Sequence[Result]) -> None:
    """For each failed check: what was expected, what came, and where to look."""
    for result in results:
        if result.outcome == Outcome.FAILED:
            page = f'{PAGES[plugin.group]}, "{result.check}"'
            lines = {"expected": result.expected, "came": result.came, "look at": f"{result.where}; {page}"}
            console.print(f"[red]{result.check}[/]", soft_wrap=True)
            for name, text in lines.items():
                console.print(f"  {name:9} {text}", markup=False, soft_wrap=True)
            console.print()


def tally(results: Sequence[Result]) -> str:
    """Counts of checks by outcome."""
    counts = {outcome: sum(result.outcome == outcome for result in results) for outcome in Outcome}
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)


def results_of(plugin: Plugin, words: Sequence[str]) -> Iterator[Result]:
    """Results of each check of a plugin, the first being that it can be built.

    Raises:
      ConfigError: the words set a value that the plugin refuses, or it can't be checked on this machine.
    """
    asked = "It builds from its YAML, with the values that stand there."
    with contextlib.ExitStack() as stack:
        try:
            rules, subject, source = made(plugin, words, stack)
        except Exception as error:  # whatever a stranger's function may raise
            if isinstance(error, ConfigError) and error.args[0] in {word.partition("=")[0] for word in words}:
                raise
            yield unbuilt(plugin, words, error, asked)
            return
        yield Result(BUILDS, Outcome.PASSED, asked)
        yield from examine(rules, subject, source)


def unbuilt(plugin: Plugin, words: Sequence[str], error: Exception, asked: str) -> Result:
    """The first check of a plugin that can't be built: a fault of its code, or else of its YAML."""
    if isinstance(error, PluginError):
        expected, came, where = error.expected or asked, error.came, error.where
    else:
        expected, came = asked, explain(error, words) if is_one_line(error) else raised(error)
        where = str(near(str(next(iter(offers(plugin.file))))))
    return Result(BUILDS, Outcome.FAILED, asked, expected=expected, came=came, where=where)


def made(plugin: Plugin, words: Sequence[str], stack: contextlib.ExitStack) -> tuple[Rules, tuple[Any, ...], Source]:
    """The checks of a plugin, what they are called with, and where its functions stand."""
    if plugin.group == "algo":
        case = algorithm_of(*words)
        return ALGORITHM_CHECKS, (case,), source_of_algorithm(case.algorithm, case.maker)
    task, verifier = stack.enter_context(task_of(*words))
    return TASK_CHECKS, (task, verifier), source_of_task(task)


if __name__ == "__main__":
    main()
