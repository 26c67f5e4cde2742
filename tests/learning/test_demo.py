"""The demo: from a half to 0.95 at least, however it is rounded. The others learn its task."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import folders, settings
from tests.fakes import DEMO, REWARDED


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction sets are those of x86-64")
@pytest.mark.parametrize("instructions", ["native", "SSE4_2"])
def test_the_demo_learns_arithmetic_whatever_the_processor_rounds(tmp_path, cache, instructions):
    """Fewer instructions round differently, as another machine does."""
    words = ["-m", "experiment=demo", f"algo={','.join(DEMO)}", "task=arithmetic", "seed=0", f"cache={cache}"]
    how = settings(tmp_path)
    if instructions != "native":
        how["env"]["XLA_FLAGS"] += f" --xla_cpu_max_isa={instructions}"
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **how, check=True)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders(tmp_path)]
    assert [summary["algo"] for summary in summaries] == list(DEMO)
    assert len({summary["accuracy_before"] for summary in summaries}) == 1
    demo = yaml.safe_load((Path(__file__).parents[2] / "conf/experiment/demo.yaml").read_text())
    for summary in summaries:
        assert summary["learner_steps"] == demo["steps"]
        assert summary["rollouts"] == demo["steps"] * demo["batch"]["rollouts"]
        assert 0.4 <= summary["accuracy_before"] <= 0.6
        assert summary["accuracy_after"] >= 0.95, summary


@pytest.mark.slow
@pytest.mark.parametrize("algo", [algo for algo in REWARDED if algo not in DEMO])
def test_an_algorithm_of_the_shelf_learns_the_demos_task(tmp_path, cache, algo):
    """In half the demo's steps."""
    words = ["experiment=demo", f"algo={algo}", "steps=100", f"cache={cache}"]
    subprocess.run([sys.executable, "-m", "rlbench.cli", *words], **settings(tmp_path), check=True)
    (folder,) = folders(tmp_path / "outputs")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["accuracy_before"] <= 0.6
    assert summary["accuracy_after"] >= 0.75, summary


@pytest.mark.slow
def test_a_policy_is_distilled_into_one_of_half_its_width(tmp_path, cache):
    """Without a reward: the teacher's probabilities alone take it from about half right to near its teacher."""
    base = [sys.executable, "-m", "rlbench.cli", "experiment=demo", f"cache={cache}"]
    student = ["model.width=32", "model.heads=2", "algo=opd", "algo.teacher=teacher", "algo.group_size=4", "steps=100"]
    for words in (["algo=grpo", "steps=150", "hydra.run.dir=teacher"], [*student, "hydra.run.dir=student"]):
        subprocess.run([*base, *words], **settings(tmp_path), check=True)
    teacher, student = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("teacher", "student"))
    assert student["accuracy_before"] <= 0.6
    assert student["accuracy_after"] >= teacher["accuracy_after"] - 0.1 >= 0.7
