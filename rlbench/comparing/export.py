"""A comparison's numbers as tables for other tools: evaluations, runs and tests, as CSV or Parquet."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..records import printable
from ..types import ConfigError
from .report import Report
from .runs import Run, flat

Rows = list[dict[str, Any]]


def datasets(report: Report) -> dict[str, Rows]:
    """Every table by its name; rows of one table may lack columns of another's."""
    return {
        "evaluations": [
            head | {key: scalar(value) for key, value in row.items()}
            for head, run in labelled(report)
            for row in run.evaluations
        ],
        "runs": [
            head
            | {key: scalar(value) for key, value in run.summary.items() if not isinstance(value, dict)}
            | {f"config.{key}": scalar(value) for key, value in run.config.items()}
            | {f"ledger.{key}": scalar(value) for key, value in flat(run.ledger)}
            for head, run in labelled(report)
        ],
        "tests": [
            {"comparison": part.comparison.title, "axis": part.judgement.axis.word, "budget": part.judgement.budget}
            | {"level": part.judgement.level}
            | {key: value for key, value in test._asdict().items() if key != "seeds"}
            | dict(zip(("our_seeds", "their_seeds"), test.seeds))
            for part in report.parts
            for test in part.judgement.tests
        ],
    }


def labelled(report: Report) -> Iterator[tuple[dict[str, Any], Run]]:
    """Every run, with what tells it from the others."""
    for part in report.parts:
        for group in part.comparison.groups:
            for run in group.runs:
                yield (
                    {"comparison": part.comparison.title, "group": group.label, "folder": printable(run.folder)}
                    | {name: run.summary[name] for name in ("algo", "task", "seed")},
                    run,
                )


def scalar(value: Any) -> Any:
    """A cell's value; lists and mappings become text."""
    return str(value) if isinstance(value, list | dict) else value


def columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns(rows))
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Rows) -> None:
    """A column of several types, as settings of several algorithms may be, becomes text.

    Raises:
      ConfigError: pyarrow isn't installed.
    """
    try:
        import pyarrow
        from pyarrow.parquet import write_table
    except ImportError:
        raise ConfigError("formats", "parquet", "needs pyarrow: pip install 'rlbench[compare]'") from None
    write_table(pyarrow.table({name: column(rows, name) for name in columns(rows)}), path)


def column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    values = [row.get(name) for row in rows]
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    if kinds == {int, float}:
        return [value if value is None else float(value) for value in values]
    return [value if value is None else str(value) for value in values]
