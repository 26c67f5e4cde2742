"""Damage to the folder of a run: by its name, what is done to the folder, and a part of the reason that is given."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rlbench.accounting import SCHEMA

Harm = Callable[[Path], object]
FILES = ("config.yaml", "summary.json", "ledger.json", "metrics.jsonl", ".hydra/overrides.yaml", ".hydra/hydra.yaml")
JSON = ("summary.json", "ledger.json", "metrics.jsonl")
YAML = ("config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml")
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)) + "seed: 0\n"


def in_place(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Puts something where the file was."""

    def harm(path: Path) -> None:
        path.unlink(missing_ok=True)
        make(path)

    return harm


def hole(path: Path) -> None:
    """A terabyte that takes no room."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def loop(path: Path) -> None:
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


def socketed(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # a socket's name is short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


ANY: dict[str, tuple[Callable[[Path], object], str]] = {  # of every file
    "a folder": (in_place(Path.mkdir), "no regular file"),
    "a FIFO": (in_place(os.mkfifo), "no regular file"),
    "a device": (in_place(lambda path: path.symlink_to("/dev/zero")), "no regular file"),
    "a terminal": (in_place(lambda path: path.symlink_to("/dev/tty")), ""),
    "a socket": (in_place(socketed), "No such device or address"),
    "a loop of links": (in_place(loop), "Too many levels of symbolic links"),
    "a link to nothing": (in_place(lambda path: path.symlink_to("nowhere")), "no "),
    "a hole of a terabyte": (hole, "more than 1,048,576 bytes"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "binary": (lambda path: path.write_bytes(bytes(range(256)) * 40 + b"\n"), ""),
    "null bytes": (lambda path: path.write_bytes(b"\0" * 4096 + b"\n"), ""),
    "not UTF-8": (lambda path: path.write_bytes(path.read_bytes() * 0 + b'{"seed": "\xff\xfe"}\n'), ""),
    "UTF-16": (lambda path: path.write_bytes('[{"seed": "x"}]\n'.encode("utf-16-be")), ""),
    "a number": (lambda path: path.write_text("7\n"), ""),
    "a text": (lambda path: path.write_text('"seed"\n'), ""),
    "a list of lists": (lambda path: path.write_text("[[1], [2]]\n"), ""),
    "deep lists": (lambda path: path.write_text("[" * 300_000 + "\n"), ""),
    "deep lists that end": (lambda path: path.write_text("[" * 900 + "]" * 900 + "\n"), ""),
    "deep mappings": (lambda path: path.write_text('{"a":' * 100_000 + "\n"), ""),
    "HTML": (lambda path: path.write_text("<script>alert(1)</script>\n"), ""),
}

OF_JSON: dict[str, tuple[Callable[[Path], object], str]] = {
    "the first half": (lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]), ""),
    "a mark of byte order": (lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()), "no JSON"),
    "NaN": (lambda path: path.write_text('{"step": NaN}\n'), "no JSON"),
    "Infinity": (lambda path: path.write_text('{"step": Infinity}\n'), "no JSON"),
    "1e999": (lambda path: path.write_text('{"step": 0, "other": [{"deep": 1e999}]}\n'), "inf"),
    "-1e999": (lambda path: path.write_text('{"step": -1e999}\n'), "-inf"),
    "1e300": (lambda path: path.write_text('{"other": 1e300}\n'), "no number that can be compared"),
    "a number of 4,000 digits": (lambda path: path.write_text(f'{{"n": {"9" * 4000}}}\n'), "64 bits"),
    "a number of a million digits": (lambda path: path.write_text(f'{{"n": {"9" * 1_000_000}}}\n'), "no JSON"),
    "half a surrogate": (lambda path: path.write_text('{"n": "\\ud800"}\n'), "no JSON"),
    "an empty mapping": (lambda path: path.write_text("{}\n"), ""),
    "a key that is no name": (lambda path: path.write_text('{"\\u001b[31m": 1}\n'), "no name"),
    "two values": (lambda path: path.write_bytes(path.read_bytes().replace(b"\n", b"") + b"{}\n"), "no JSON"),
}

OF_YAML: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bomb of aliases": (lambda path: path.write_text(BOMB), "an alias: *a0"),
    "an alias of itself": (lambda path: path.write_text("seed: &a [*a]\n"), "an alias: *a"),
    "merged aliases": (lambda path: path.write_text("a: &a {seed: 0}\nb: {<<: *a}\n"), "an alias: *a"),
    "a call of Python": (lambda path: path.write_text("seed: !!python/object/apply:os.getcwd []\n"), "a tag"),
    "another tag": (lambda path: path.write_text("seed: !!int ''\n"), "a tag"),
    "a date": (lambda path: path.write_text("seed: 2001-01-01\n"), ""),
    "a date that there is not": (lambda path: path.write_text("seed: 2001-99-99\n"), "no YAML"),
    "a key that is a list": (lambda path: path.write_text("? [seed]\n: 0\n"), "no YAML"),
    "tabs": (lambda path: path.write_text("a:\n\t- b\n"), "no YAML"),
    "two documents": (lambda path: path.write_text("seed: 0\n---\nseed: 1\n"), "no YAML"),
    "a long number": (lambda path: path.write_text(f"seed: {'9' * 100_000}\n"), "no YAML"),
}


def damages() -> Iterator[tuple[str, Harm, str]]:
    """Every file damaged in every way."""
    for files, ways in ((FILES, ANY), (JSON, OF_JSON), (YAML, OF_YAML)):
        for file in files:
            for name, (harm, reason) in ways.items():
                if (file, name) == ("metrics.jsonl", "a hole of a terabyte"):
                    reason = "more than 4,294,967,296 bytes"
                yield f"{file}: {name}", lambda folder, file=file, harm=harm: harm(folder / file), reason
    for file in FILES[:4]:
        yield f"{file}: gone", lambda folder, file=file: (folder / file).unlink(), f"no {file}"
    yield from METRICS
    yield from SUMMARIES
    yield from CONFIGS


def metrics(change: Callable[[list[dict[str, Any]]], object]) -> Harm:
    """Changes the rows of metrics."""

    def harm(folder: Path) -> None:
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        change(rows)
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return harm


def setting(file: str, **values: Any) -> Harm:
    """Puts values into a file's mapping; ... removes a key."""

    def harm(folder: Path) -> None:
        path = folder / file
        tree = yaml.safe_load(path.read_text()) | values
        tree = {key: value for key, value in tree.items() if value is not ...}
        path.write_text(yaml.safe_dump(tree) if file.endswith("yaml") else json.dumps(tree))

    return harm


METRICS: list[tuple[str, Harm, str]] = [
    ("torn", lambda folder: os.truncate(folder / "metrics.jsonl", 2000), "torn"),
    ("no end of line", lambda folder: os.truncate(folder / "metrics.jsonl", 5), "torn"),
    ("fewer rows than steps", metrics(lambda rows: rows.__delitem__(slice(6, None))), "ends at step 5 of 10"),
    ("a line of two megabytes", metrics(lambda rows: rows[3].update(name="x" * 2_000_000)), "a line of more than"),
    ("an empty line", lambda folder: _write(folder, b"\n", 3), "no JSON"),
    ("a line of another kind", lambda folder: _write(folder, b"[1]\n", 3), "valid dictionary"),
    ("negative steps", metrics(lambda rows: rows[0].update(step=-1)), "greater than or equal to 0"),
    ("a step twice", metrics(lambda rows: rows[4].update(step=3)), "step 3 after 3"),
    ("steps that fall", metrics(lambda rows: rows.reverse()), "step 9 after 10"),
    ("rollouts that fall", metrics(lambda rows: rows[4].update(rollouts=0)), "rollouts is less than before"),
    ("time that falls", metrics(lambda rows: rows[4].update(wall_seconds=0.0)), "wall_seconds is less than before"),
    ("text for a step", metrics(lambda rows: rows[0].update(step="0")), "line 1: step: input should be a valid int"),
    ("text for flops", metrics(lambda rows: rows[0].update(flops="1")), "line 1: flops: input should be a valid num"),
    ("text for accuracy", metrics(lambda rows: rows[0].update({"eval/accuracy": "1"})), "valid number"),
    ("true for accuracy", metrics(lambda rows: rows[0].update({"eval/accuracy": True})), "valid number"),
    ("an accuracy of 50", metrics(lambda rows: rows[0].update({"eval/accuracy": 50})), "less than or equal to 1"),
    ("an accuracy of -1", metrics(lambda rows: rows[0].update({"eval/accuracy": -1})), "greater than or equal"),
    ("a list for staleness", metrics(lambda rows: rows[2].update(staleness_mean=[1])), "valid number"),
    ("text for a phase", metrics(lambda rows: rows[2].update({"flops/phase/warm_start": "1"})), "valid number"),
    ("no evaluation", metrics(lambda rows: [row.pop("eval/accuracy", 0) for row in rows]), "no evaluation"),
    (
        "nothing measured",
        metrics(lambda rows: [row.update({"eval/accuracy": None}) for row in rows]),
        "not measured",
    ),
    ("no end measured", metrics(lambda rows: rows[10].update({"eval/accuracy": None})), "step 10 was not measured"),
]
SUMMARIES: list[tuple[str, Harm, str]] = [
    (f"summary.json: {name}", setting("summary.json", **values), reason)
    for name, values, reason in (
        ("text for a seed", {"seed": "0"}, "seed: input should be a valid integer"),
        ("true for a seed", {"seed": True}, "seed: input should be a valid integer"),
        ("another seed", {"seed": 7}, "seed 0, but 7 in summary.json"),
        ("text for seconds", {"wall_seconds": "1"}, "wall_seconds: input should be a valid number"),
        ("negative flops", {"flops": -1.0}, "flops: input should be greater than or equal to 0"),
        ("no flops", {"flops": ...}, "no flops"),
        ("a list for an algorithm", {"algo": ["first"]}, "algo: input should be a valid string"),
        ("a name of two lines", {"algo": "first\nsecond"}, "a name is one line"),
        ("a long name", {"algo": "x" * 100_000}, "a name is one line"),
        ("an empty name", {"task": ""}, "a name is one line"),
        ("a name that steers a terminal", {"task": "\x1b[2J"}, "a name is one line"),
        ("a status that is none", {"status": "resting"}, "resting: no error is known"),
        ("no status", {"status": ...}, "no status"),
        ("an error of markup", {"status": "failed", "error": "[/INST] [red]x[/] [link=a]"}, "[/INST] [red]x[/] [link"),
        ("an error of HTML", {"status": "failed", "error": "</td><img src=x onerror=y>"}, "</td><img src=x onerror=y>"),
        ("an error of lines", {"status": "failed", "error": "a\nb\x1b[31m" + "c" * 9999}, r"a b\x1b[31mccc"),
        ("an error that is a list", {"status": "failed", "error": ["a"]}, "error: input should be a valid string"),
        ("still running", {"status": "running"}, "running: no error is known"),
    )
]
CONFIGS: list[tuple[str, Harm, str]] = [
    ("config.yaml: text for a seed", setting("config.yaml", seed="0"), "seed: input should be a valid integer"),
    ("config.yaml: no seed", setting("config.yaml", seed=...), "no seed"),
    ("config.yaml: text for trials", setting("config.yaml", trials="many"), "trials: input should be a valid integer"),
    ("ledger.json: another schema", setting("ledger.json", schema=0), f"(schema 0, not {SCHEMA})"),
    ("ledger.json: text for a schema", setting("ledger.json", schema="1\n2"), f"(schema 1 2, not {SCHEMA})"),
    ("ledger.json: no memory", setting("ledger.json", memory=...), "no memory"),
    ("words that are none", lambda folder: (folder / ".hydra/overrides.yaml").write_text("- 1\n"), "valid string"),
]


def _write(folder: Path, line: bytes, place: int) -> None:
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_bytes(b"".join([*lines[:place], line, *lines[place:]]))


# Names of folders, as they may be.
NAMES = (
    "²",
    "٣",
    "a\nb",
    "-x",
    "[red]",
    "[/INST]",
    "häß",
    "'\"`$(x)",
    "<b>",
    "a|b",
    ":smile:",
    "\x1b[31m",
    b"\xff",
    " ",
)
TREE = (None, True, -1, 0, 1e30, "text", "<b>", [], {}, [{}], {"a": {}}, [[None]])


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a tree of mappings."""
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from places(value, (*above, key))


def replaced(tree: dict[Any, Any], path: tuple[Any, ...], value: Any) -> dict[Any, Any]:
    """A tree with another value in one place; ... removes it."""
    first, *rest = path
    if rest:
        return tree | {first: replaced(tree[first], tuple(rest), value)}
    return tree | {first: value} if value is not ... else {key: one for key, one in tree.items() if key != first}
