"""Booking is learned in many turns: at most 0.4 of held-out requests before, 0.8 at least within ten minutes."""

import json
import subprocess
import sys

import pytest

from tests.cli.test_cli import folders, settings


@pytest.mark.slow
def test_grpo_learns_to_book(tmp_path, cache):
    words = ["experiment=booking", "algo=grpo", f"cache={cache}"]
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **settings(tmp_path), check=True)
    (folder,) = folders(tmp_path / "outputs")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy_before"] <= 0.4
    assert summary["accuracy_after"] >= 0.8, summary
    assert summary["warm_start"]["seconds"] + summary["wall_seconds"] < 600
