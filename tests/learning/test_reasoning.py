"""Two data sets of reasoning-gym, learned at once: from eight in ten to more than nine."""

import json
import subprocess
import sys

import pytest

from tests.cli.test_cli import folders, settings

pytest.importorskip("reasoning_gym", reason="wants the extra reasoning")


@pytest.mark.slow
def test_grpo_learns_sums_and_spelling(tmp_path, cache):
    words = ["experiment=reasoning", "algo=grpo", f"cache={cache}"]
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **settings(tmp_path), check=True)
    (folder,) = folders(tmp_path / "outputs")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy_before"] <= 0.87
    assert summary["accuracy_after"] >= 0.92, summary
