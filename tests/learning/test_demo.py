"""The demo's promise: from at most 0.6 to at least 0.9, for the three, whatever the seed. The others learn it, too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import folders, settings
from tests.fakes import DEMO, SHELF


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_learns_arithmetic(tmp_path, cache, seed):
    words = ["-m", "experiment=demo", f"algo={','.join(DEMO)}", "task=arithmetic", f"seed={seed}", f"cache={cache}"]
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **settings(tmp_path), check=True)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders(tmp_path)]
    assert [summary["algo"] for summary in summaries] == list(DEMO)
    assert len({summary["accuracy_before"] for summary in summaries}) == 1
    demo = yaml.safe_load((Path(__file__).parents[2] / "conf/experiment/demo.yaml").read_text())
    for summary in summaries:
        assert summary["learner_steps"] == demo["steps"]
        assert summary["rollouts"] == demo["steps"] * demo["batch"]["rollouts"]
        assert summary["accuracy_before"] <= 0.6
        assert summary["accuracy_after"] >= 0.9, summary


@pytest.mark.slow
@pytest.mark.parametrize("algo", [algo for algo in SHELF if algo not in DEMO])
def test_an_algorithm_of_the_shelf_learns_the_demos_task(tmp_path, cache, algo):
    """In half the demo's steps."""
    words = ["experiment=demo", f"algo={algo}", "steps=120", f"cache={cache}"]
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **settings(tmp_path), check=True)
    (folder,) = folders(tmp_path / "outputs")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy_before"] <= 0.6
    assert summary["accuracy_after"] >= 0.75, summary
