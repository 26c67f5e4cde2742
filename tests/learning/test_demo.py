"""The demo's promise: from at most 0.6 to at least 0.9, for every algorithm, whatever the seed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import folders, settings


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_demo_learns_arithmetic(tmp_path, cache, seed):
    words = ["-m", "experiment=demo", "algo=ppo,grpo,async_grpo", "task=arithmetic", f"seed={seed}", f"cache={cache}"]
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **settings(tmp_path), check=True)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders(tmp_path)]
    assert [summary["algo"] for summary in summaries] == ["ppo", "grpo", "async_grpo"]
    assert len({summary["accuracy_before"] for summary in summaries}) == 1
    demo = yaml.safe_load((Path(__file__).parents[2] / "conf/experiment/demo.yaml").read_text())
    for summary in summaries:
        assert summary["learner_steps"] == demo["steps"]
        assert summary["rollouts"] == demo["steps"] * demo["batch"]["rollouts"]
        assert summary["accuracy_before"] <= 0.6
        assert summary["accuracy_after"] >= 0.9, summary
