"""The command `rlbench-compare`, as a person uses it, on runs that rlbench made."""

import csv
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from rlbench.comparing.command import main
from tests import forked
from tests.cli.test_cli import TINY, command, settings

from . import made


def compare(*words: str | Path, folder: Path) -> CompletedProcess:
    return forked.run("rlbench.comparing.command", *words, **settings(folder))


@pytest.fixture(scope="module")
def sweep(cache, tmp_path_factory) -> Path:
    """Two seeds of two algorithms, really run."""
    folder = tmp_path_factory.mktemp("sweep")
    words = command(cache, "-m", "algo=ppo,grpo", "seed=0,1", "hydra.sweep.dir=runs", *TINY)
    done = forked.run(*words[2:], **settings(folder))
    assert done.returncode == 0, done.stderr
    return folder / "runs"


def test_a_sweep_becomes_tables_tests_and_every_format(sweep, tmp_path):
    done = compare(
        sweep, "--budget", "flops", "--formats", "html,md,csv,parquet,png,svg", "--out", "out", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for word in ("ppo", "grpo", "IQM", "untuned", "no winner", "4 seeds a side are the least"):
        assert word in done.stdout
    paths = [tmp_path / line for line in done.stdout.splitlines() if line.startswith("out/")]
    assert len(paths) == 1 + 1 + 3 + 3 + 8 + 8 and all(path.stat().st_size > 100 for path in paths)
    out = tmp_path / "out"
    assert (out / "memory.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (out / "fates.svg").read_text()
    assert "![memory.svg](memory.svg)" in (out / "comparison.md").read_text()


def test_csv_and_parquet_hold_the_same_numbers(sweep, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert compare(sweep, "--formats", "csv,parquet", "--out", "out", folder=tmp_path).returncode == 0
    for name, rows in (("evaluations", 4 * 3), ("runs", 4), ("tests", 1)):
        table = parquet.read_table(tmp_path / "out" / f"{name}.parquet").to_pylist()
        with (tmp_path / "out" / f"{name}.csv").open(newline="") as file:
            text = list(csv.DictReader(file))
        assert len(table) == rows
        assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in table] == text
    runs = parquet.read_table(tmp_path / "out" / "runs.parquet").to_pylist()
    assert {(row["algo"], row["seed"], row["config.task.digits"]) for row in runs} == {
        ("ppo", 0, 1), ("ppo", 1, 1), ("grpo", 0, 1), ("grpo", 1, 1),
    }  # fmt: skip
    assert all(row["ledger.compute.executed.total"] == row["flops"] for row in runs)


def test_the_page_lies_with_its_runs_and_is_no_run(sweep, tmp_path):
    for _ in range(2):
        done = compare(sweep, folder=tmp_path)
        assert done.stdout.splitlines()[-1] == str(sweep / "comparison" / "comparison.html")
    assert "left out" not in done.stdout


def test_runs_that_cannot_be_read_are_listed_with_the_reason(tmp_path):
    for seed in range(3):
        made.write(made.run(seed), tmp_path / "runs" / str(seed))
    (tmp_path / "runs" / "1" / "ledger.json").unlink()
    done = compare("runs", "--formats", "md", folder=tmp_path)
    assert done.returncode == 0 and "no ledger.json" in done.stdout
    assert "runs/1 | no ledger.json" in (tmp_path / "runs" / "comparison" / "comparison.md").read_text()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "rlbench-compare: FOLDER=nowhere: no such folder"),
        (["."], "rlbench-compare: FOLDER=.: no run in it that ended and can be read"),
        ([".", "--budget", "hope"], "argument --budget: invalid choice"),
        ([".", "--at", "-3"], "argument --at: invalid positive value"),
        ([".", "--at", "inf"], "argument --at: invalid positive value"),
        ([".", "--level", "1"], "argument --level: invalid chance value"),
        ([".", "--formats", "html,doc"], "argument --formats: doc: no such format"),
    ],
)
def test_wrong_words_end_in_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert exit_code(words, monkeypatch) == 2
    assert line in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(("module", "kind"), [("vl_convert", "html"), ("pyarrow", "parquet")])
def test_a_format_whose_library_is_absent_says_what_to_install(tmp_path, monkeypatch, capsys, module, kind):
    made.write(made.run(0), tmp_path / "runs" / "0")
    monkeypatch.setitem(sys.modules, module, None)  # as where it isn't installed
    assert exit_code([str(tmp_path / "runs"), "--formats", kind], monkeypatch) == 2
    shown = capsys.readouterr()
    assert "pip install 'rlbench[compare]'" in shown.err and shown.err.count("\n") == 1
    assert "IQM" in shown.out, "the tables need neither"


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path, monkeypatch, capsys):
    made.write(made.run(0), tmp_path / "runs" / "0")
    assert exit_code([str(tmp_path / "runs"), "--out", "/proc/nowhere"], monkeypatch) == 2
    assert capsys.readouterr().err.startswith("rlbench-compare: out=/proc/nowhere: a folder that can be written to")


def exit_code(words, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["rlbench-compare", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code
