"""A comparison as Markdown, for a pull request or a notebook."""

import re
import textwrap
from collections.abc import Sequence

from rich.table import Table

from .groups import commands
from .page import METHOD, plain, title
from .report import (
    Part,
    Report,
    differences_table,
    standings_table,
    tests_table,
    verdicts,
)
from .table import skipped_table


def markdown(report: Report, drawn: Sequence[str]) -> str:
    """The whole text.

    Args:
      drawn: names of image files beside it.
    """
    blocks = [f"# {escaped(title(report))}", *map(escaped, report.notes)]
    for part in report.parts:
        blocks += section(part)
    blocks += [f"![{name}]({name})" for name in drawn]
    if report.skipped:
        blocks += ["## Left out", tabular(skipped_table(report.skipped))]
    return "\n\n".join([*blocks, "## How this was found", METHOD]) + "\n"


def section(part: Part) -> list[str]:
    comparison, judgement = part
    repeated = "\n".join(command for group in comparison.groups for command in commands(group))
    blocks = [f"## {escaped(comparison.title)}", tabular(standings_table(part))]
    blocks.append("\n".join(map(verdict, verdicts(judgement))))
    if judgement.tests:
        blocks.append(tabular(tests_table(part)))
    if differences := differences_table(comparison):
        blocks.append(tabular(differences))
    return [*filter(None, blocks), "To repeat it:", textwrap.indent(repeated, "    ", lambda line: True)]


def verdict(found: tuple[str, list[str]]) -> str:
    """An item of a list, with its commands as code."""
    words, missing = found
    return f"- {escaped(words)}" + "".join(f"\n\n      {command}" for command in missing) + "\n" * bool(missing)


def tabular(table: Table) -> str:
    """A table of the terminal in Markdown."""
    header = [escaped(plain(column.header)) for column in table.columns]
    sides = [":--" if column.justify == "left" else "--:" for column in table.columns]
    rows = [[escaped(plain(cell)) for cell in cells] for cells in zip(*(column.cells for column in table.columns))]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in [header, sides, *rows])
    return f"**{escaped(plain(table.title))}**\n\n{lines}" if table.title else lines


def escaped(text: str) -> str:
    """A text as one line that is no table's end, no HTML, no link and no emphasis."""
    return re.sub(r"([\\|<*`\[])", r"\\\1", " ".join(text.split()))
