"""Whatever becomes of Weights & Biases, a run ends as it would have, in its own time, and its files are whole."""

import itertools
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from rlbench.experiment import run
from rlbench.plugins import build
from rlbench.tracking.files import Files
from rlbench.tracking.weights_and_biases import WeightsAndBiases
from rlbench.types import ConfigError
from tests.cli.test_cli import TINY, command, interrupt, rows, wait_for
from tests.tracking.conftest import written
from tests.tracking.test_wandb import sent

SETTINGS = {"project": "rlbench", "entity": None, "group": None, "tags": [], "finish_seconds": 20.0}
STEPS = 30


@pytest.fixture(autouse=True)
def scratch(monkeypatch):
    """A place for temporary files, in which nothing may be left. Its name is short: wandb puts a socket there."""
    with tempfile.TemporaryDirectory(prefix="rlbench-") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield place
        assert os.listdir(place) == []


@pytest.fixture
def folder(sweep, tmp_path, scratch) -> Path:
    """Of a run that is about to begin."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(sweep / "0" / "config.yaml", folder)
    shutil.copytree(sweep / "0" / ".hydra", folder / ".hydra")
    return folder


class Timed(WeightsAndBiases):
    """One that knows how long it kept a run waiting."""

    def __init__(self, **settings):
        super().__init__(**(SETTINGS | settings))
        self.waited = {"begin": 0.0, "log": 0.0, "finish": 0.0}

    def _timed(self, name, *given):
        began = time.perf_counter()
        getattr(super(), name)(*given)
        self.waited[name] += time.perf_counter() - began

    def begin(self, folder):
        self._timed("begin", folder)

    def log(self, row):
        self._timed("log", row)

    def finish(self, summary, ledger):
        self._timed("finish", summary, ledger)


class Harm:
    """A tracker that does something to a process of wandb's in the middle of the run."""

    def __init__(self, name, harm):
        self.name, self.harm, self.done = name, harm, False

    def begin(self, folder):
        pass

    def log(self, row):
        if row["step"] == 5:
            wait_for(lambda: victims(self.name), 20)
            for process in victims(self.name):
                self.harm(process)
                self.done = True

    def transcripts(self, step, rows):
        pass

    def note(self, text):
        pass

    def finish(self, summary, ledger):
        pass


def victims(word: str) -> list[psutil.Process]:
    """This process's descendants with a word in their command lines."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if any(word in part for part in process.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


def finished(plan_of, folder, *trackers) -> None:
    """Runs an experiment; its files have to be whole, and no process of wandb's may be left."""
    summary = run(plan_of("grpo", f"steps={STEPS}", "warm_start.steps=0")._replace(trackers=list(trackers)), folder)
    assert summary["status"] == "finished"
    whole(folder)


def whole(folder) -> None:
    assert [row["step"] for row in rows(folder)] == list(range(STEPS + 1))
    assert (folder / "summary.json").exists() and (folder / "ledger.json").exists()
    wait_for(lambda: not victims("wandb"), 10)


@pytest.fixture
def played(sweep, folder):
    """Plays a run to its trackers, without one: for what is a matter of trackers alone."""
    summary, ledger = (json.loads((sweep / "0" / name).read_text()) for name in ("summary.json", "ledger.json"))

    def play(*trackers):
        trackers = [Files(folder), *trackers]
        for tracker in trackers:
            tracker.begin(folder)
        for row in rows(sweep / "0")[:1] * (STEPS + 1):
            step = next(steps)
            for tracker in trackers:
                tracker.log(row | {"step": step})
            time.sleep(0.05)
        for tracker in trackers:
            tracker.finish(summary, ledger)
        whole(folder)

    steps = itertools.count()
    return play


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
def test_the_disk_can_be_full(played, folder, caplog, monkeypatch, name):
    """Of the sender, whose attempts then all fail, and of wandb's service alone, which doesn't mention it."""
    tracker, harmed = Timed(mode="offline"), Harm(name, starve)
    played(tracker, harmed)
    assert harmed.done and tracker.waited["log"] < 0.2 and tracker.waited["finish"] < 10
    if name != "wandb-core":  # a new service has the disk that its predecessor had not
        assert f"rlbench-wandb {folder}" in caplog.text
        assert sent(monkeypatch, "--offline", folder) == 0
    assert set(range(STEPS + 1)) <= set(written(folder).history)


def test_the_sender_can_be_killed_and_a_command_sends_the_rest(plan_of, folder, caplog, monkeypatch):
    tracker, harmed = Timed(mode="offline"), Harm("rlbench.tracking.command", psutil.Process.kill)
    finished(plan_of, folder, tracker, harmed)
    assert harmed.done and tracker.waited["log"] < 0.2 and tracker.waited["finish"] < 0.5
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "ended by SIGKILL" in line and line.endswith(f"rlbench-wandb {folder}")
    assert sent(monkeypatch, "--offline", folder) == 0
    assert set(range(STEPS + 1)) <= set(written(folder).history)


def test_a_server_that_does_not_answer_costs_no_time(plan_of, folder, caplog, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    tracker = Timed(mode="online", finish_seconds=2.0)
    finished(plan_of, folder, tracker)
    assert tracker.waited["begin"] < 0.5 and tracker.waited["log"] < 0.2 and tracker.waited["finish"] < 4
    assert f"rlbench-wandb {folder}" in caplog.text


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


def test_settings_in_yaml_are_those_of_the_signature(sweep):
    node = json.loads((sweep / "0" / "wandb.json").read_text())
    assert node.keys() == {"id", "project", "entity", "group", "tags"}
