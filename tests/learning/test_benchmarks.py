"""Benchmarks run where there is nothing to compare with, and no card."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_what_python_costs_is_printed_beside_a_plain_loop():
    rows = [line.split("│") for line in output_of("benchmarks.host", "8").splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == ["8", "1"]
    assert all(float(row[2]) < 200 for row in rows), "microseconds of Python a rollout"
