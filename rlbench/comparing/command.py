"""The command `rlbench-compare`: compares the runs of any number of folders, with tests over their seeds.

    rlbench-compare multirun/2026-11-22/10-00-00
    rlbench-compare outputs multirun --budget flops --out comparison --formats html,md,csv,svg

Exit codes: 0; 2 for wrong options, or if no run was found. docs/compare.md says what a test means.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..command_line import parser_of
from ..records import line, printable
from ..types import ConfigError
from .curves import AXES
from .export import datasets, write_csv, write_parquet
from .figures import Figure, figures, png, svg
from .groups import beside_others, comparisons, sandboxes
from .markdown import markdown
from .page import page
from .pairwise import judge
from .report import Part, Report, standings_table, tests_table, verdicts
from .runs import load
from .table import skipped_table

FORMATS = ("html", "md", "csv", "parquet", "png", "svg")


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    try:
        report = compare(options)
        show(report)
        for path in write(report, options.out or default_folder(options.folders), options.formats):
            print(printable(path))
    except ConfigError as error:
        print(f"rlbench-compare: {error}", file=sys.stderr)
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    arguments = parser_of("rlbench-compare", __doc__)
    arguments.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="runs are looked for in and below it"
    )
    arguments.add_argument("--budget", choices=AXES, default="rollouts", help="cost to compare at (rollouts)")
    arguments.add_argument("--at", type=positive, help="amount of it; by default the least that any run spent")
    arguments.add_argument("--level", type=chance, default=0.05, help="probability of a false winner (0.05)")
    arguments.add_argument("--power", type=chance, default=0.8, help="statistical power to plan seeds for (0.8)")
    arguments.add_argument("--out", type=Path, help="by default comparison/, in FOLDER if only one is given, else here")
    arguments.add_argument("--formats", type=formats, default=["html"], help=f"some of {','.join(FORMATS)} (html)")
    return arguments


def positive(text: str) -> float:
    if 0 < (value := float(text)) < math.inf:
        return value
    raise ValueError


def chance(text: str) -> float:
    if 0 < (value := float(text)) < 1:
        return value
    raise ValueError


def formats(text: str) -> list[str]:
    if unknown := [name for name in text.split(",") if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: no such format; there are {', '.join(FORMATS)}")
    return text.split(",")


def compare(options: argparse.Namespace) -> Report:
    """Reads and judges.

    Raises:
      ConfigError: a folder is missing, or holds no run that can be read.
    """
    if missing := [str(folder) for folder in options.folders if not folder.is_dir()]:
        raise ConfigError("FOLDER", missing[0], "no such folder")
    runs, skipped = load(options.folders)
    if not runs:
        for one in skipped:
            print(f"{printable(one.folder)}: {line(one.reason)}", file=sys.stderr)
        raise ConfigError("FOLDER", " ".join(map(str, options.folders)), "no run in it that ended and can be read")
    asked, again = comparisons(runs)
    axis, limits = AXES[options.budget], {"level": options.level, "power": options.power}
    parts = [Part(comparison, judge(comparison, axis, budget=options.at, **limits)) for comparison in asked]
    folders = [printable(folder) for folder in options.folders]
    return Report(folders, parts, [*skipped, *again], [*sandboxes(runs), *beside_others(runs)])


def show(report: Report) -> None:
    """Prints the tables and the tests."""
    console = Console()
    for part in report.parts:
        console.print(standings_table(part))
        if part.judgement.tests:
            console.print(tests_table(part))
        for words, commands in verdicts(part.judgement):
            console.print(Text(words))
            for command in commands:
                console.print(Text(f"    {command}"), soft_wrap=True)  # a line, to be copied
    for note in report.notes:
        console.print(Text(note))
    if report.skipped:
        console.print(skipped_table(report.skipped))


def default_folder(folders: list[Path]) -> Path:
    return (folders[0] if len(folders) == 1 else Path()) / "comparison"


def write(report: Report, folder: Path, wanted: list[str]) -> list[Path]:
    """Writes what was asked for and returns where it lies, the page first.

    Raises:
      ConfigError: what a format needs isn't installed, or nothing can be written there.
    """
    if not folder.is_dir():
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise ConfigError("out", folder, f"a folder that can be written to ({error.strerror})") from None
    written = []
    if "html" in wanted:
        written.append(put(folder / "comparison.html", page(report).encode()))
    images: list[Path] = []
    kinds: dict[str, Callable[[Figure], bytes]] = {"svg": lambda figure: svg(figure).encode(), "png": png}
    drawn = [figures(part.comparison, part.judgement.level) for part in report.parts] if {*kinds} & {*wanted} else []
    for number, figured in enumerate(drawn, 1):
        prefix = f"task{number}-" if len(drawn) > 1 else ""
        for kind in [kind for kind in kinds if kind in wanted]:
            images += [put(folder / f"{prefix}{figure.name}.{kind}", kinds[kind](figure)) for figure in figured]
    if "md" in wanted:
        shown = [path.name for path in images if path.suffix == (".svg" if "svg" in wanted else ".png")]
        written.append(put(folder / "comparison.md", markdown(report, shown).encode()))
    writers = {"csv": write_csv, "parquet": write_parquet}
    for kind in [kind for kind in writers if kind in wanted]:
        for name, rows in datasets(report).items():
            path = folder / f"{name}.{kind}"
            writers[kind](path, rows)
            written.append(path)
    return [*written, *images]


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


if __name__ == "__main__":
    main()
