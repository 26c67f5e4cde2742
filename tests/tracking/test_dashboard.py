"""The workspace, as code: every panel names what runs log."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlbench.tracking.dashboard import main
from tests import forked
from tests.tracking.conftest import sent, written

pytest.importorskip("wandb_workspaces", reason="the extra `dashboard` is not installed")


@pytest.fixture
def board(tmp_path, monkeypatch) -> dict:
    """The specification that the command writes."""
    path = tmp_path / "spec.json"
    words = ["rlbench-dashboard", "--entity", "E", "--project", "P", "--dry-run", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    main()
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def logged(sweep, tmp_path_factory) -> list:
    """The logs of runs: two on this machine, and one whose ledger is that of a machine with an accelerator."""
    other = tmp_path_factory.mktemp("accelerated") / "run"
    shutil.copytree(sweep / "0", other, ignore=shutil.ignore_patterns("wandb", "wandb.json"))
    ledger = (other / "ledger.json").read_text()
    assert ledger.count("seconds_per_device_second") == 1, "see Ledger._pace"
    (other / "ledger.json").write_text(ledger.replace("seconds_per_device_second", "seconds_per_accelerator_second"))
    assert sent("--offline", other).returncode == 0
    return [written(folder) for folder in (sweep / "0", sweep / "1", other)]


def unknown(board: dict, runs: list) -> list[str]:
    """Names in panels that no run logs: metrics, axes, tables, keys to group or filter by."""
    history, summary, configs, tables = set(), set(), set(), set()
    for run in runs:
        history |= set().union(*run.history.values())
        summary |= run.summary.keys()
        configs |= set(paths(run.config))
        tables |= run.tables.keys()
    missing = []
    section = board["spec"]["section"]
    for panel in [panel for part in section["panelBankConfig"]["sections"] for panel in part["panels"]]:
        config = panel["config"]
        match panel["viewType"]:
            case "Run History Line Plot":
                missing += [name for name in (*config["metrics"], config["xAxis"]) if name not in history]
                for step in [row for run in runs for row in run.history.values()]:
                    drawn = set(config["metrics"]) & step.keys()
                    missing += [f"{name} without {config['xAxis']}" for name in drawn if config["xAxis"] not in step]
            case "Bar Chart":
                missing += [name for name in config["metrics"] if name not in summary]
            case "Weave":
                missing += [name for name in re.findall(r'"val": "([^"]+)"', json.dumps(config)) if name not in tables]
            case kind:
                missing.append(f"a panel of a kind that is not looked at: {kind}")
        if group := config.get("groupBy"):
            missing += [group] if group.replace(".value", "", 1) not in configs else []
    for one in section["runSets"][0]["filters"]["filters"]:
        assert one["key"] == {"section": "run", "name": "jobType"}
        missing += [one["value"]] if {one["value"]} != {run.run["job_type"] for run in runs} else []
    return missing + [axis for axis in [section["settings"]["xAxis"]] if axis not in history]


def paths(tree: dict, prefix: str = ""):
    for name, value in tree.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")


def test_every_panel_names_what_runs_log(board, logged):
    assert unknown(board, logged) == []


@pytest.mark.parametrize(
    ("theirs", "nobodys"),
    [
        ('"eval/accuracy"', '"eval/accuracies"'),
        ('"xAxis": "flops"', '"xAxis": "petaflops"'),
        ('"xAxis": "flops"', '"xAxis": "reward"'),  # which is logged, but not at the first evaluation
        ("choices.value.algo", "choices.value.algorithm"),
        ('"memory/critic"', '"memory/critics"'),
        ('"trajectories"', '"letters"'),
        ('"ledger/price"', '"ledger/prices"'),
    ],
)
def test_a_panel_that_names_what_nobody_logs_is_found(board, logged, theirs, nobodys):
    text = json.dumps(board)
    assert theirs in text
    assert unknown(json.loads(text.replace(theirs, nobodys)), logged)


def test_the_questions_of_a_comparison_have_their_panels(board):
    sections = board["spec"]["section"]["panelBankConfig"]["sections"]
    titles = {panel["config"].get("chartTitle"): panel["config"] for part in sections for panel in part["panels"]}
    drawn = [config for title, config in titles.items() if title and title.startswith("accuracy against")]
    axes = {"rollouts", "flops", "wall_seconds", "verification/cpu_seconds", "step"}
    assert {config["xAxis"] for config in drawn} == axes
    assert all((config["groupAgg"], config["groupArea"]) == ("mean", "minmax") for config in drawn), "bands of seeds"
    asked = {"memory by component", "idle fraction of the devices", "fates of rollouts", "CPU per accelerator second"}
    assert asked <= titles.keys()
    assert "Trajectories" in {part["name"] for part in sections}
    assert (board["entity"], board["project"]) == ("E", "P")


def test_without_wandb_workspaces_it_is_one_line(tmp_path):
    code = "import sys; sys.modules['wandb_workspaces'] = None\nfrom rlbench.tracking.dashboard import main\nmain()"
    words = [sys.executable, "-c", code, "--entity", "E", "--project", "P", "--dry-run", str(tmp_path / "spec.json")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "rlbench-dashboard: wandb-workspaces is missing: pip install 'rlbench[dashboard]'\n"
    assert not Path(tmp_path / "spec.json").exists()


def test_without_a_login_it_is_one_line(tmp_path):
    words = ["rlbench.tracking.dashboard", "--entity", "E", "--project", "P"]
    done = forked.run(*words, cwd=tmp_path, env=os.environ | {"HOME": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("rlbench-dashboard: "), done.stderr
