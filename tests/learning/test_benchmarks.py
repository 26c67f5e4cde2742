"""Benchmarks run where there is nothing to compare with, and no card."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results, verdicts
from rlbench.records import read_config
from tests.cli.test_cli import SMALL
from tests.fakes import DEMO

ROOT = Path(__file__).parents[2]


def output_of(*words: str) -> str:
    run = [sys.executable, "-m", *words]
    return subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(importlib.util.find_spec("trl") is not None, reason="TRL is installed")
def test_without_trl_its_benchmark_says_so():
    assert "trl is not installed: pip install -e '.[peers]'" in output_of("benchmarks.peers")


@pytest.mark.slow
def test_the_accelerator_s_tables_are_made_on_a_processor_at_small_size():
    text = output_of("benchmarks.accelerator", "--small")
    for title in ("A GRPO step of 512 rollouts", "Models in float32", "The demo's start"):
        assert f"\n## {title}" in text
    (ratio,) = [line for line in text.splitlines() if line.startswith("| ratio |")]
    assert 0 < float(ratio.split("|")[-2]) < 3


@pytest.mark.slow
def test_a_verdict_is_tuned_run_and_written(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "TRIALS", 2)
    monkeypatch.setattr(verdicts, "SEEDS", "0,1,2,3")
    words = [*SMALL, "batch.rollouts=64", "tracker=none", f"cache={cache}"]
    monkeypatch.setattr(sys, "argv", ["verdicts", "arithmetic", str(tmp_path / "runs"), *words])
    verdicts.main()
    searched = [json.loads((tmp_path / "runs/search" / algo / "search.json").read_text()) for algo in DEMO]
    assert [len(one["trials"]) for one in searched] == [2] * 3
    tried = {run for one in searched for trial in one["trials"] for run in trial["runs"]}
    assert {read_config(Path(run))["seed"] for run in tried} == {100, 101}
    monkeypatch.setattr(
        sys, "argv", ["results", "verdicts_arithmetic", str(tmp_path / "runs/verdict"), "--out", str(tmp_path)]
    )
    results.main()
    text = (tmp_path / "verdicts-arithmetic.md").read_text()
    assert text.count("best of 2 trials") == 3 * 3, "at equal rollouts, FLOPs and seconds"


@pytest.mark.slow
def test_what_python_costs_is_printed_beside_a_plain_loop():
    rows = [line.split("│") for line in output_of("benchmarks.host", "8").splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ["8", "1"]
    assert all(float(row[2]) < 200 for row in rows), "microseconds of Python a rollout"
