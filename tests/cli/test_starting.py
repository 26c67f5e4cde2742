"""Imports of a command before it does anything: seconds that everybody waits for."""

import subprocess
import sys

import pytest


def imported(code: str) -> set[str]:
    """Top-level modules that there are after some code."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = {"jax", "jaxlib", "flax", "optax", "wandb", "optuna", "joblib", "submitit", "ray", "pyarrow"}
MAIN = "import sys, contextlib; sys.argv = ['rlbench', *{words!r}]\nfrom rlbench.cli import main\n"


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["algo=ppo", "task=code", "--cfg", "job"]])
def test_what_runs_nothing_waits_for_no_library_of_runs(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = MAIN.format(words=words) + "with contextlib.suppress(SystemExit): main()"
    assert not imported(code) & HEAVY
