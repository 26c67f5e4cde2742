"""A comparison as one HTML file: it opens from disk, asks the network for nothing, and fits a telephone."""

import json
from collections.abc import Iterable
from html import escape
from importlib.metadata import version

from rich.table import Table
from rich.text import Text

from .figures import Figure, figures, javascript, theme
from .groups import commands
from .report import (
    Part,
    Report,
    differences_table,
    group_tables,
    standings_table,
    tests_table,
    verdicts,
)
from .table import skipped_table

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #666; --paper: #fff; --line: #ddd; --box: #f5f5f5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --faint: #999; --paper: #161618; --line: #3a3a3e; --box: #222226; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; } p.small { color: var(--faint); font-size: .9rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 460px), 1fr)); gap: 0 2rem; }
figure { margin: 1rem 0; min-width: 0; } figcaption { font-weight: 600; }
figure > div { width: 100%; }
.scroll, pre { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; white-space: nowrap; vertical-align: bottom; }
th { border-bottom: 1px solid var(--line); font-weight: 600; white-space: pre-line; }
tr.end td { border-bottom: 1px solid var(--line); }
.left { text-align: left; }
pre { background: var(--box); padding: .6rem; font-size: .85rem; white-space: pre-wrap; }
summary { cursor: pointer; font-weight: 600; margin-top: .6rem; }
"""

DRAW = """
const dark = matchMedia("(prefers-color-scheme: dark)");
async function draw() {
  const config = themes[dark.matches ? "dark" : "light"];
  const options = {actions: false, renderer: "svg", config, tooltip: {theme: dark.matches ? "dark" : "light"}};
  for (const [id, spec] of Object.entries(specs)) {
    const size = {width: "container", autosize: {type: "fit-x", contains: "padding"}};
    await vegaEmbed(document.getElementById(id), {...spec, ...size}, options);
  }
  document.body.dataset.drawn = dark.matches ? "dark" : "light";
}
dark.addEventListener("change", draw);
draw();
"""

THEMES = {"light": theme("#222222", "#dddddd"), "dark": theme("#dddddd", "#3a3a3e")}

METHOD = (
    "Test: a two-sided permutation test of the difference of means over seeds, exact up to ten seeds a side. P-values "
    "are corrected by Holm's method for the number of pairs. Accuracy is interpolated between two evaluations, never "
    "extrapolated. For display only: IQM is the interquartile mean, P (better) the chance that a seed of the first is "
    "better than one of the second, both with stratified bootstrap intervals (arXiv:2108.13264), too narrow where "
    "seeds are few. Costs and ledgers are means over seeds, of whole runs. Untuned: no trials chose the settings, or "
    "nobody said so. Tuned against untuned settings is no fair comparison."
)


def page(report: Report) -> str:
    """The whole page."""
    drawn: dict[str, Figure] = {}
    sections = [section(part, number, drawn) for number, part in enumerate(report.parts)]
    if report.skipped:
        sections.append(f"<h2>Left out</h2>{tabular(skipped_table(report.skipped))}")
    specs = script_json({name: figure.spec for name, figure in drawn.items()})
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # or a browser asks a server for one
            f"<title>rlbench: {escape(title(report))}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title(report))}</h1>",
            f'<p class="small">{escape(", ".join(report.folders))}; rlbench {escape(version("rlbench"))}</p>',
            *(f"<p>{escape(note)}</p>" for note in report.notes),
            *sections,
            f'<h2>How this was found</h2><p class="small">{escape(METHOD)}</p>',
            "<noscript>The figures are drawn by a script in this page, which does not run here.</noscript>",
            f"<script>{javascript()}</script>",
            f"<script>const specs = {specs};\nconst themes = {script_json(THEMES)};\n{DRAW}</script>",
            "</body>\n</html>\n",
        ]
    )


def title(report: Report) -> str:
    """The heading: what is compared, on what."""
    names = dict.fromkeys(
        run.summary["algo"] for part in report.parts for one in part.comparison.groups for run in one.runs
    )
    return f"{', '.join(names)} on {', '.join(part.comparison.title for part in report.parts)}"


def section(part: Part, number: int, drawn: dict[str, Figure]) -> str:
    """One comparison; adds its figures to those that are drawn."""
    comparison, judgement = part
    own = {f"figure-{number}-{figure.name}": figure for figure in figures(comparison, judgement.level)}
    drawn |= own
    differences = differences_table(comparison)
    return "\n".join(
        [
            f"<h2>{escape(comparison.title)}</h2>",
            tabular(standings_table(part)),
            f"<h3>Tests at {escape(judgement.axis.amount(judgement.budget))}</h3>",
            f"<ul>{''.join(map(verdict, verdicts(judgement)))}</ul>",
            tabular(tests_table(part)) if judgement.tests else "<p>There is nothing to compare it with.</p>",
            f'<h3>Figures</h3><p class="small">Lines are means over seeds, in {1 - judgement.level:.0%} intervals of '
            "them; bars are means.</p>",
            f'<div class="figures">{"".join(map(drawing, own, own.values()))}</div>',
            "<h3>Ledgers, means over seeds</h3>",
            *(folded(group.label, map(tabular, group_tables(group))) for group in comparison.groups),
            *([f"<h3>Settings</h3>{tabular(differences)}"] if differences else []),
            "<h3>To repeat it</h3>",
            *(f"<pre>{escape(chr(10).join(commands(group)))}</pre>" for group in comparison.groups),
        ]
    )


def verdict(found: tuple[str, list[str]]) -> str:
    words, missing = found
    return f"<li>{escape(words)}{f'<pre>{escape(chr(10).join(missing))}</pre>' if missing else ''}</li>"


def drawing(name: str, figure: Figure) -> str:
    return f'<figure><figcaption>{escape(figure.title)}</figcaption><div id="{name}"></div></figure>'


def folded(name: str, content: Iterable[str]) -> str:
    return f"<details><summary>{escape(name)}</summary>{''.join(content)}</details>"


def tabular(table: Table) -> str:
    """A table of the terminal in HTML."""
    sides = [' class="left"' if column.justify == "left" else "" for column in table.columns]
    head = (f"<th{side}>{escape(plain(column.header))}</th>" for side, column in zip(sides, table.columns))
    body = []
    for row, cells in zip(table.rows, zip(*(column.cells for column in table.columns))):
        inner = "".join(f"<td{side}>{escape(plain(cell))}</td>" for side, cell in zip(sides, cells))
        body.append(f"<tr{' class=end' if row.end_section else ''}>{inner}</tr>")
    name = f"<h3>{escape(plain(table.title))}</h3>" if table.title else ""
    content = f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'{name}<div class="scroll"><table>{content}</table></div>'


def plain(cell: object) -> str:
    """A cell's text, without rich's markup."""
    return cell.plain if isinstance(cell, Text) else str(cell)


def script_json(value: object) -> str:
    """JSON that may stand in a script."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("</", "<\\/").replace("<!--", "<\\u0021--")
