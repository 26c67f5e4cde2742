"""Damaged runs beside a good one: each is listed with the reason, and the good one is what it was."""

import csv
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from rlbench.comparing.command import compare, parser, write
from rlbench.comparing.report import Report
from rlbench.comparing.runs import load, load_run
from rlbench.comparing.table import reports, show_tables
from rlbench.multirun.finished import Finished
from rlbench.records import Unreadable, printable
from tests.cli.test_cli import settings

from . import made
from .damage import ANY, NAMES, TREE, damages, places, replaced

DAMAGES = list(damages())


def whole(folder: Path, seed: int = 0, **changes) -> Path:
    """A run with everything that a run may have."""
    made.write(made.run(seed, {0: 0.1, 5: 0.3, 10: 0.5}, **changes), folder)
    hydra = {
        "runtime": {"config_sources": [{"path": "nowhere", "provider": "main"}], "cwd": "/", "output_dir": "/x"}
        | {"choices": {"algo": "first", "task": "adding"}},
        "job": {"config_name": "config"},
        "sweep": {"subdir": "0"},
        "mode": "RUN",
    }
    (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    return folder


@pytest.mark.parametrize(("harm", "reason"), [one[1:] for one in DAMAGES], ids=[one[0] for one in DAMAGES])
def test_a_damaged_run_is_skipped_with_the_reason(tmp_path, harm, reason):
    harm(whole(tmp_path / "0"))
    made.write(made.run(1), tmp_path / "1")
    runs, skipped = load([tmp_path])
    assert [run.folder.name for run in runs] == ["1"]
    ((folder, why),) = skipped
    assert folder.name == "0" and reason in why and 5 < len(why) <= 400


HARMLESS = {
    "lines of another system": lambda folder: [
        (folder / name).write_bytes((folder / name).read_bytes().replace(b"\n", b"\r\n"))
        for name in ("config.yaml", "summary.json", "metrics.jsonl")
    ],
    "a mark of byte order in YAML": lambda folder: (folder / "config.yaml").write_bytes(
        b"\xef\xbb\xbf" + (folder / "config.yaml").read_bytes()
    ),
    "links": lambda folder: [
        ((folder / name).rename(folder / f"of {name}"), (folder / name).symlink_to(f"of {name}"))
        for name in ("config.yaml", "summary.json", "metrics.jsonl")
    ],
    "an anchor": lambda folder: (folder / "config.yaml").write_text("other: &a 1\nseed: 0\n"),
    "infinity in a config": lambda folder: (folder / "config.yaml").write_text("cap: .inf\nseed: 0\n"),
    "keys that are numbers": lambda folder: (folder / "config.yaml").write_text("rate: {0: 1.0, 100: 0.1}\nseed: 0\n"),
    "no Hydra": lambda folder: [(folder / ".hydra" / name).unlink() for name in ("overrides.yaml", "hydra.yaml")],
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_is_no_damage_is_read(tmp_path, change):
    change(whole(tmp_path / "0"))
    runs, skipped = load([tmp_path])
    assert len(runs) == 1 and not skipped


def test_a_file_or_folder_that_may_not_be_read_is_listed(tmp_path, monkeypatch):
    """Whoever runs the tests may read all, so that the system's refusal is played."""
    files = [whole(tmp_path / "0") / "ledger.json", whole(tmp_path / "closed")]
    whole(tmp_path / "1")

    def refusing(real):
        def call(path, *given, **options):
            if Path(path) in files:
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return real(path, *given, **options)

        return call

    monkeypatch.setattr(os, "open", refusing(os.open))
    monkeypatch.setattr(os, "scandir", refusing(os.scandir))
    runs, skipped = load([tmp_path])
    assert [run.folder.name for run in runs] == ["1"]
    assert {one.folder.name: one.reason for one in skipped} == {
        "0": "ledger.json: Permission denied", "closed": "Permission denied",
    }  # fmt: skip


FILLED = {
    "summary.json": made.run(0).summary,
    "ledger.json": made.ledger(),
    "metrics.jsonl": made.rows({0: 0.1, 10: 0.5})[10] | {"other": 1.0, "algo": "first"},
    "config.yaml": {"seed": 0, "trials": 1, "task": {"digits": 2}, "algo": {"size": 1}, "evaluation": {"problems": 2}},
}


@pytest.mark.parametrize("file", FILLED)
def test_whatever_stands_in_a_place_is_refused_or_compared(tmp_path, file, monkeypatch):
    """Every key of a file is removed, and takes every kind of value; what is not refused goes through all of it."""
    folder, kept, refused = whole(tmp_path / "0"), [], []
    good = load_run(folder)
    before = (folder / file).read_text()
    for path in places(FILLED[file]):
        for value in (..., *TREE):
            tree = replaced(FILLED[file], path, value)
            if file == "metrics.jsonl":
                (folder / file).write_text("".join(before.splitlines(keepends=True)[:-1]) + json.dumps(tree) + "\n")
            else:
                (folder / file).write_text(yaml.safe_dump(tree) if file == "config.yaml" else json.dumps(tree))
            try:
                kept.append(load_run(folder))
            except Unreadable as error:
                refused.append(str(error))
    assert refused and kept and all(reason.isprintable() for reason in refused)
    as_seeds = [one._replace(config=one.config | {"seed": n}) for n, one in enumerate([good, *kept])]
    monkeypatch.setattr("rlbench.comparing.command.load", lambda folders: (as_seeds, []))
    report = compare(parser().parse_args([str(tmp_path)]))
    assert sum(len(group.runs) for part in report.parts for group in part.comparison.groups) == len(as_seeds)
    write(report, tmp_path / "out", ["html", "md", "csv", "parquet"])


class Page(HTMLParser):
    """Collects a page's tags, and how they are nested."""

    VOID = ("meta", "link")

    def __init__(self, text: str):
        super().__init__()
        self.stack, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def names_of(report: Report) -> dict[str, str]:
    return {one.folder.name: one.reason for one in report.skipped}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    """A good run, one of hostile names, and every damaged one, in folders of odd names."""
    folder = tmp_path_factory.mktemp("sweep") / "runs"
    whole(folder / "good")
    whole(folder / "hostile", algo="</script><img src=x>[/INST]", task="[red]`*|", key="[link=x]<b>|\x1b[31m\n# x")
    for number, (_, harm, _) in enumerate(DAMAGES):
        harm(whole(folder / f"damaged {number}"))
    for number, name in enumerate(NAMES):
        place = folder / os.fsdecode(name)
        whole(place, seed=100 + number)
        (place / "summary.json").write_text(json.dumps({"algo": "[/INST]"}))
    return folder


COMMAND = """
import resource, sys
sys.argv = ["rlbench-compare", *sys.argv[1:]]
from rlbench.comparing.command import main
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    main()
finally:
    print("kilobytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, file=sys.stderr)
"""


@pytest.fixture(scope="module")
def done(sweep, tmp_path_factory) -> dict[str, tuple[subprocess.CompletedProcess, Path]]:
    """The command on the good run alone, and on all."""
    made_ = {}
    for name in ("good", ""):
        out = tmp_path_factory.mktemp("out")
        words = [sys.executable, "-c", COMMAND, sweep / name, "--out", out, "--formats", "html,md,csv,parquet"]
        made_[name] = (
            subprocess.run(words, **settings(sweep.parent), capture_output=True, text=True, timeout=600),
            out,
        )
    return made_


def test_the_command_lists_all_of_them_and_the_good_ones_numbers_are_unchanged(done):
    numbers = {}
    for name, (process, out) in done.items():
        assert process.returncode == 0, process.stderr
        with (out / "evaluations.csv").open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["folder"].endswith("good")]
        numbers[name] = [{key: value for key, value in row.items() if key != "folder"} for row in rows]
        assert "traceback" not in process.stderr.lower()
    assert numbers["good"] == numbers[""] and len(numbers[""]) == 3
    listed = "".join(done[""][0].stdout.split())
    for number in range(len(DAMAGES)):
        assert f"damaged{number}" in listed
    for name in NAMES:
        assert "".join(printable(os.fsdecode(name)).split()) in listed


def test_it_takes_no_more_memory_than_its_bounds_allow(done):
    used = {name: int(process.stderr.rpartition("kilobytes")[2]) for name, (process, _) in done.items()}
    assert used[""] - used["good"] < 300_000


def test_the_page_is_whole_and_obeys_no_name(done):
    pages = {name: Page((out / "comparison.html").read_text()) for name, (_, out) in done.items()}
    for page in pages.values():
        assert not page.stack and not {"img", "b", "i"} & set(page.tags) and page.tags.count("script") == 2
    shown = "".join(pages[""].text)
    assert all(reason in shown for reason in ("[/INST] [red]x[/] [link", "</td><img src=x onerror=y>"))
    assert "\x1b" not in shown and "\udcff" not in shown


def test_the_text_is_whole_and_obeys_no_name(done):
    text = (done[""][1] / "comparison.md").read_text()
    rows = text.partition("## Left out")[2].partition("## How")[0].strip().splitlines()[2:]
    assert len([row for row in rows if "damaged" in row]) == len(DAMAGES)
    assert all(row.startswith("| ") and row.endswith(" |") for row in rows if row)
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))  # commands are shown as code
    assert "<img" in prose and "<img" not in prose.replace("\\<img", "")


def test_the_tables_at_the_end_of_a_sweep_list_them_too(sweep, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    show_tables([sweep])
    shown = "".join(capsys.readouterr().out.split())
    files = [f"{file}: {name}" for file in ("summary.json", "ledger.json") for name in ANY]
    for number, (name, _, _) in enumerate(DAMAGES):
        assert name not in files or f"damaged{number}" in shown, name
    runs, unread = reports([sweep])
    assert len(runs) + len(unread) == len(list(sweep.iterdir())) and "[red]`*|" in shown


def test_a_sweep_is_completed_around_them(sweep):
    """A folder whose config cannot be read is another run's; one whose files are in the way is not taken again."""
    finished = Finished(sweep)
    known = {path.name for paths in finished._runs.values() for path in paths}
    assert "good" in known and len(finished._taken) > len(known) > 50


def test_a_folder_with_nothing_but_damage_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch):
    from tests.comparing.test_command import exit_code

    (whole(tmp_path / "²") / "ledger.json").unlink()
    assert exit_code([str(tmp_path)], monkeypatch) == 2
    assert capsys.readouterr().err.splitlines()[0].endswith("²: no ledger.json")
