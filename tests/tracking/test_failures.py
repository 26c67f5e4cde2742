"""Whatever becomes of Weights & Biases, a run ends as it would have, in its own time, and its files are whole."""

import logging
import os
import resource
import signal
import subprocess
import sys

import psutil
import pytest

from rlbench.experiment import run
from rlbench.plugins import build
from rlbench.types import ConfigError
from tests.cli.test_cli import TINY, command, interrupt, rows, wait_for
from tests.tracking.conftest import SETTINGS, STEPS, Harm, Timed, sent, victims, whole, written


def finished(plan_of, folder, *trackers) -> None:
    """Runs an experiment; its files have to be whole, and no process of wandb's may be left."""
    summary = run(plan_of("grpo", f"steps={STEPS}", "warm_start.steps=0")._replace(trackers=list(trackers)), folder)
    assert summary["status"] == "finished"
    whole(folder)


def starve(process: psutil.Process) -> None:
    """From now on no file of its takes another byte: the nearest to a full disk that needs no disk."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))


def test_wandbs_service_can_be_killed_in_the_middle_of_a_run(plan_of, folder, caplog):
    tracker, harmed = Timed(mode="offline"), Harm("wandb-core", psutil.Process.kill)
    finished(plan_of, folder, tracker, harmed)
    assert harmed.done and tracker.waited["log"] < 0.2
    assert "rlbench-wandb" not in caplog.text
    assert set(range(STEPS + 1)) <= set(written(folder).history), "it was started again"


@pytest.mark.parametrize("name", ["wandb-core", "rlbench.tracking.command"])
def test_the_disk_can_be_full(played, folder, caplog, name):
    """Of the sender, whose attempts then all fail, and of wandb's service alone, which doesn't mention it."""
    tracker, harmed = Timed(mode="offline"), Harm(name, starve)
    played(tracker, harmed)
    assert harmed.done and tracker.waited["log"] < 0.2 and tracker.waited["finish"] < 10
    if name != "wandb-core":  # a new service has the disk that its predecessor had not
        assert f"rlbench-wandb {folder}" in caplog.text
        assert sent("--offline", folder).returncode == 0
    assert set(range(STEPS + 1)) <= set(written(folder).history)


def test_the_sender_can_be_killed_and_a_command_sends_the_rest(plan_of, folder, caplog):
    services = []

    def kill(sender):
        wait_for(lambda: victims("wandb-core"), 20)
        services.extend(victims("wandb-core"))
        sender.kill()

    tracker, harmed = Timed(mode="offline"), Harm("rlbench.tracking.command", kill)
    finished(plan_of, folder, tracker, harmed)
    wait_for(lambda: not any(service.is_running() for service in services), 30)  # they miss their parent
    assert harmed.done and tracker.waited["log"] < 0.2 and tracker.waited["finish"] < 0.5
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert services and "ended by SIGKILL" in line and line.endswith(f"rlbench-wandb {folder}")
    assert sent("--offline", folder).returncode == 0
    assert set(range(STEPS + 1)) <= set(written(folder).history)


def test_a_server_that_does_not_answer_costs_no_time(plan_of, folder, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    tracker = Timed(mode="online", finish_seconds=2.0)
    finished(plan_of, folder, tracker)
    assert tracker.waited["begin"] < 0.5 and tracker.waited["log"] < 0.2 and tracker.waited["finish"] < 4
    assert "it was not done" in caplog.text and f"rlbench-wandb {folder}" in caplog.text


def test_who_is_not_logged_in_is_told(played, folder, caplog):
    played(Timed(mode="online"))
    assert "No API key configured" in caplog.text


@pytest.mark.parametrize("name", ["wandb", "wandb.json"])
def test_a_place_that_wandb_cannot_write_to(played, folder, caplog, name):
    """A file is in the way of its folder, or a folder of its file."""
    (folder / name).touch() if name == "wandb" else (folder / name).mkdir()
    tracker = Timed(mode="offline")
    played(tracker)
    assert tracker.waited["finish"] < 10
    assert f"rlbench-wandb {folder}" in caplog.text


def test_disabled_is_disabled(played, folder):
    played(Timed(mode="disabled"))
    assert not list(folder.glob("wandb*"))


def test_a_run_that_fails_ends_with_its_exit_code(plan_of, folder):
    class Breaks(Harm):
        def log(self, row):
            raise RuntimeError("in mid-run")

    with pytest.raises(RuntimeError):
        run(plan_of("grpo")._replace(trackers=[Timed(mode="offline"), Breaks("", None)]), folder)
    shown = written(folder)
    assert shown.exit_code == 1 and shown.summary["summary/status"] == "failed"


def test_ctrl_c_ends_the_run_at_wandb_too(cache, tmp_path):
    words = [*TINY, "steps=100000", "tracker=wandb", "tracker.wandb.mode=offline"]
    interrupt(command(cache, *words), tmp_path, os.killpg)
    (folder,) = (tmp_path / "outputs").glob("*/*")
    shown = written(folder)
    assert shown.exit_code == 130
    assert {row["step"] for row in rows(folder)} <= set(shown.history)


def test_a_run_that_goes_on_is_the_same_run_at_wandb(plan_of, folder):
    class Breaks(Harm):
        def log(self, row):
            if row["step"] == 2:
                raise RuntimeError("in mid-run")

    def plan(*more):
        words = [f"steps={STEPS}", "warm_start.steps=0", "checkpoint.keep=1", "checkpoint.every=1"]
        return plan_of("grpo", *words)._replace(trackers=[Timed(mode="offline"), *more])

    with pytest.raises(RuntimeError):
        run(plan(Breaks("", None)), folder)
    before = (folder / "wandb.json").read_text()
    run(plan(), folder)
    shown = written(folder)
    assert (folder / "wandb.json").read_text() == before
    assert set(range(STEPS + 1)) <= set(shown.history) and shown.exit_code == 0


DIES = """
import os, signal, sys, time
from pathlib import Path
from rlbench.tracking.files import Files
from rlbench.tracking.files import Files
from rlbench.tracking.weights_and_biases import WeightsAndBiases
folder, settings = Path(sys.argv[1]), eval(sys.argv[2])
trackers = [Files(folder), WeightsAndBiases(mode="offline", **settings)]
for tracker in trackers:
    tracker.begin(folder)
for step in range(3):
    for tracker in trackers:
        tracker.log({"step": step, "reward": 0.5})
print(trackers[1].sender.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_sender_outlives_a_run_that_is_killed_no_longer_than_it_takes(folder):
    words = [sys.executable, "-c", DIES, folder, repr(SETTINGS)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(lambda: not psutil.pid_exists(int(done.stdout)), 20)
    shown = written(folder)
    assert sorted(shown.history) == [0, 1, 2] and shown.exit_code == 1


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ({"mode": "on"}, "tracker.wandb.mode=on: input should be 'online', 'offline' or 'disabled'"),
        ({"project": "a/b"}, "tracker.wandb.project=a/b: string should match pattern"),
        ({"finish_seconds": -1.0}, "tracker.wandb.finish_seconds=-1.0: input should be greater than or equal to 0"),
        ({"name": "x"}, "tracker.wandb.name=x: unknown key"),
    ],
)
def test_a_wrong_setting_is_one_line(setting, line):
    target = {"_target_": "rlbench.tracking.weights_and_biases.WeightsAndBiases", "mode": "offline"}
    with pytest.raises(ConfigError) as error:
        build(target | SETTINGS | setting, "tracker.wandb")
    assert str(error.value).startswith(line)
