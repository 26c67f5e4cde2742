"""Code is learned: at most half of held-out problems before, 0.85 at least within ten minutes."""

import json
import subprocess
import sys

import pytest

from tests.cli.test_cli import folders, settings
from tests.security.machine import needs_sandbox


@pytest.mark.slow
@needs_sandbox
def test_grpo_learns_to_write_functions(tmp_path, cache):
    words = ["experiment=code", "algo=grpo", f"cache={cache}"]
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **settings(tmp_path), check=True)
    (folder,) = folders(tmp_path / "outputs")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["sandbox"] == "fork"
    assert summary["accuracy_before"] <= 0.5
    assert summary["accuracy_after"] >= 0.85, summary
    assert summary["warm_start"]["seconds"] + summary["wall_seconds"] < 600
    judged = json.loads((folder / "ledger.json").read_text())["verification"]
    assert judged["repeated"] > judged["programs"], "a policy that has learned says the same to the same"
