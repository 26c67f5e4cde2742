"""Weights & Biases is given all of a run: everything, by its own reader, and by the run's files alone."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlbench.accounting import SCHEMA
from rlbench.records import RECORD
from rlbench.tracking.sending import AXES, TRAJECTORY
from rlbench.tracking.sheets import SHEETS, memory, sheets
from tests.cli.test_cli import rows
from tests.tracking.conftest import sent, written

OWN = ("_runtime", "_step", "_timestamp")


@pytest.fixture(scope="module")
def folder(sweep) -> Path:
    """One run of the sweep."""
    return sweep / "0"


@pytest.fixture(scope="module")
def run(folder):
    """wandb's record of it."""
    return written(folder)


def test_every_metric_of_every_step_is_there(folder, run):
    for row in rows(folder):
        logged = run.history[row["step"]]
        assert {name: value for name, value in logged.items() if name in row} == row
        assert {name.split(".")[0] for name in logged if name not in row} <= {*OWN, "trajectories"}


def test_every_metric_is_defined_and_can_be_drawn_against_what_it_cost(folder, run):
    names = set().union(*rows(folder))
    assert set(run.metrics) == names
    for name in names - set(AXES):
        assert run.metrics[name]["step_metric"] == "step"
    for row in rows(folder):
        assert set(AXES) <= row.keys(), "an axis has to be known wherever accuracy is"


def test_the_config_is_the_resolved_one_and_says_what_was_chosen(folder, run):
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: run.config[name] for name in resolved} == resolved
    choices = run.config["choices"]
    assert {"algo": "grpo", "task": "arithmetic", "model": "nano", "runner": "async"}.items() <= choices.items()
    assert not any(group.startswith("hydra/") for group in choices)


def test_runs_are_grouped_by_sweep_and_tagged(sweep, run):
    other = written(sweep / "1")
    assert run.run["run_group"] == other.run["run_group"] == "/".join(sweep.parts[-3:])
    assert run.run["tags"] == ["grpo", "arithmetic", "seed 0", "mine"]
    assert other.run["tags"][0] == "ppo" and other.run["run_id"] != run.run["run_id"]
    assert (run.run["project"], run.run["job_type"]) == ("rlbench", "experiment")


def test_the_ledger_is_there_as_tables_and_as_numbers(folder, run):
    ledger = json.loads((folder / "ledger.json").read_text())
    expected = sheets(ledger)
    assert tuple(expected) == SHEETS
    for name, sheet in expected.items():
        (table,) = run.tables[f"ledger/{name}"]
        assert table == {"columns": list(sheet.columns), "data": [list(row) for row in sheet.rows]}
    assert run.summary["ledger/compute/executed/total"] == ledger["compute"]["executed"]["total"]
    assert run.summary["ledger/time/idle_fraction"] == ledger["time"]["idle_fraction"]
    assert {name: run.summary[f"memory/{name}"] for name in memory(ledger)} == memory(ledger)


def test_a_sheet_adds_up_to_the_ledger(folder):
    """Its rows are the whole of what they are parts of."""
    ledger = json.loads((folder / "ledger.json").read_text())
    tables = sheets(ledger)
    assert sum(row[-1] for row in tables["compute"].rows) == ledger["compute"]["executed"]["total"]
    assert sum(row[2] for row in tables["phases"].rows) == ledger["compute"]["useful"]["total"]
    assert sum(row[1] for row in tables["rollouts"].rows) == ledger["rollouts"]["generated"]
    devices = [seconds for whose, _, seconds in tables["time"].rows if whose == "devices"]
    assert sum(devices) == pytest.approx(ledger["time"]["wall"], rel=0.02)
    networks = sum(memory(ledger)[name] for name in ledger["memory"]["components"])
    assert networks == ledger["memory"]["price"]["reference"]["with"]


def test_an_evaluation_shows_some_completions_with_their_verdicts(folder, run):
    kept = [json.loads(line) for line in (folder / "trajectories.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows(folder) if "eval/accuracy" in row] == sorted({row["step"] for row in kept})
    for step, table in zip((0, 2, 3), run.tables["trajectories"], strict=True):
        assert table["columns"] == list(TRAJECTORY)
        of_step = [row | {"completion": "\n".join(row["completions"])} for row in kept if row["step"] == step]
        assert table["data"] == [[row[name] for name in TRAJECTORY] for row in of_step] and len(of_step) == 8
        assert run.history[step]["trajectories._type"] == "table-file"


def test_the_files_are_an_artifact(run):
    artifact = run.artifacts[f"run-{run.run['run_id']}"]
    assert {file["path"] for file in artifact["manifest"]["contents"]} == set(RECORD)


def test_the_outcome_is_that_of_the_run(run):
    assert run.exit_code == 0 and run.summary["summary/status"] == "finished"


def test_nothing_is_written_outside_the_runs_folder(sweep, alone):
    assert not list(alone.iterdir())


def test_the_command_rebuilds_the_same_run_from_its_files(folder, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb"))
    assert sent("--offline", copy).returncode == 0
    again = written(copy)
    assert again.run["run_id"] == run.run["run_id"], "so that what is there already is not sent twice"
    assert (again.config, again.metrics, again.exit_code) == (run.config, run.metrics, 0)
    assert [history.keys() for history in again.history.values()] == [
        history.keys() for history in run.history.values()
    ]
    assert again.tables == run.tables


def test_the_command_takes_a_sweep_that_had_no_such_tracker_and_its_page(sweep, tmp_path):
    copy, page = tmp_path / "sweep", tmp_path / "page.html"
    shutil.copytree(sweep, copy, ignore=shutil.ignore_patterns("wandb", "wandb.json"))
    page.write_text("<title>compared</title>")
    done = sent("--offline", "--project", "p", "--page", page, copy)
    assert done.returncode == 0 and done.stdout.count("written, for p/") == 3
    assert {written(copy / job).run["project"] for job in "01"} == {"p"}
    shown = written(tmp_path)
    assert shown.run["run_group"] == written(copy / "0").run["run_group"]
    (artifact,) = shown.artifacts.values()
    assert artifact["type"] == "comparison" and [f["path"] for f in artifact["manifest"]["contents"]] == ["page.html"]


def test_the_command_says_in_a_line_why_not(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb"))
    done = sent(copy)
    assert done.returncode == 1 and done.stdout.startswith(f"{copy}: not sent: UsageError: No API key configured")
    assert sent(tmp_path / "nowhere").returncode == 2
    (copy / ".hydra/hydra.yaml").unlink()
    done = sent("--offline", copy)
    assert done.returncode == 1 and "no hydra.yaml" in done.stdout


def test_a_run_that_was_cut_off_is_sent_as_far_as_it_went(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("wandb", "summary.json", "ledger.json"))
    whole = (folder / "metrics.jsonl").read_text()
    (copy / "metrics.jsonl").write_text(whole[:-20])
    assert sent("--offline", copy).returncode == 0
    cut = written(copy)
    assert sorted(cut.history) == [0, 1, 2] and cut.exit_code == 1


def test_a_process_without_this_tracker_does_not_import_wandb():
    """Nor does one with it: it is the sender that does."""
    code = "import sys, rlbench.cli, rlbench.experiment, rlbench.plan, rlbench.tracking.weights_and_biases; "
    subprocess.run([sys.executable, "-c", code + "assert 'wandb' not in sys.modules"], check=True)


def test_a_damaged_run_is_not_sent_which_is_said_and_harms_no_other(sweep, tmp_path):
    damaged = {
        "config.yaml": (b"a: &a [x]\nb: [*a, *a]\n", "config.yaml: no YAML: an alias: *a"),
        ".hydra/hydra.yaml": (None, "hydra.yaml: no regular file"),
        "wandb.json": (b'{"id": 1}', "wandb.json: no project, entity, group, tags"),
        "metrics.jsonl": (b'{"step": 0, "reward": Infinity}\n', "metrics.jsonl: line 1: no JSON"),
        "trajectories.jsonl": (b'{"step": 0}\n', "trajectories.jsonl: line 1: no problem, greedy"),
        "ledger.json": (json.dumps({"schema": SCHEMA}).encode(), "ledger.json: no compute, memory"),
    }
    for number, (name, (content, _)) in enumerate(damaged.items()):
        shutil.copytree(sweep / "0", tmp_path / f"a {number}", ignore=shutil.ignore_patterns("wandb"))
        path = tmp_path / f"a {number}" / name
        path.unlink()
        path.write_bytes(content) if content else os.mkfifo(path)
    shutil.copytree(sweep / "0", tmp_path / "good", ignore=shutil.ignore_patterns("wandb"))
    done = sent("--offline", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for number, (_, reason) in enumerate(damaged.values()):
        assert f"a {number}: not sent: {reason}" in done.stdout
    assert f"{tmp_path / 'good'}: written, for" in done.stdout and written(tmp_path / "good").exit_code == 0
