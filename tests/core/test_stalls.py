"""A run in which nothing moves any more ends by itself, and says what its parts wait for."""

import json
import subprocess
import sys
import threading
import time

import pytest

from rlbench.accounting.timeline import Activity, Timeline
from rlbench.experiment import run
from rlbench.running.stalls import watched
from rlbench.types import Stalled
from tests.cli.test_cli import SMALL, settings
from tests.core.test_ctrl_c import Told


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_run_whose_environment_never_answers_is_ended(plan_of, tmp_path, runner):
    plan = plan_of("grpo", f"runner={runner}", "runner.watchdog_seconds=5.5", "warm_start.steps=0")
    released, began = threading.Event(), time.monotonic()
    wanted = (
        r"=5\.5: nothing moves any more; the learner is waiting_for_rollouts.*the actor is verifying in \w+ \(\w+\.py"
    )
    try:
        with pytest.raises(Stalled, match=wanted):
            run(plan._replace(task=Told(plan.task, lambda: released.wait(60))), tmp_path)
    finally:
        released.set()
    assert time.monotonic() - began < 40
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "failed" and summary["error"].startswith("Stalled: runner.watchdog_seconds")


def test_the_command_ends_with_exit_code_1_and_one_line(tmp_path, cache):
    words = ["warm_start.steps=0", "verifier.delay_seconds=1000", "runner.watchdog_seconds=5.5", f"cache={cache}"]
    done = subprocess.run(
        [sys.executable, "-m", "rlbench.cli", *SMALL, *words],
        **{**settings(tmp_path), "capture_output": True, "text": True},
        timeout=120,
    )
    assert done.returncode == 1
    assert "nothing moves any more" in done.stderr.splitlines()[-1]


def test_what_moves_is_left_alone():
    timeline = Timeline()
    with watched(timeline, 2.0):
        for _ in range(30):
            time.sleep(0.1)
            timeline.switch("actor", Activity.COMPUTING)


def test_compiling_is_left_alone():
    now = [0.0]
    timeline = Timeline(clock=lambda: now[0])
    timeline.switch("actor", Activity.COMPILING)
    now[0] = 1000.0
    assert timeline.still() == 0
    timeline.switch("actor", Activity.WAITING)
    now[0] = 1003.0
    assert timeline.still() == 3


def test_ctrl_c_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt), watched(Timeline(), 100):
        raise KeyboardInterrupt
