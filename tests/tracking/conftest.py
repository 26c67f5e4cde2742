"""Weights & Biases without Weights & Biases: no account, no server, and what was written is read by wandb's reader."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from rlbench.tracking.files import Files
from rlbench.tracking.weights_and_biases import WeightsAndBiases
from rlbench.types import Tracker
from tests import forked
from tests.cli.test_cli import TINY, command, rows, settings, wait_for

NOWHERE = "http://127.0.0.1:9"  # a port that nothing listens on
TOOLS = Path(sys.executable).parent


@pytest.fixture(scope="session", autouse=True)
def alone(tmp_path_factory):
    """No word of the user's about wandb, no account, and no server but one that does not answer."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_BASE_URL", NOWHERE)
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield home


class Written(NamedTuple):
    """wandb's record of a run, by its own reader."""

    run: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, dict[str, Any]]  # name: how it was defined
    history: dict[int, dict[str, Any]]  # step: what was logged
    summary: dict[str, Any]
    artifacts: dict[str, dict[str, Any]]
    tables: dict[str, list[dict[str, Any]]]  # name: its versions, each with columns and data
    exit_code: int | None


def written(folder: Path) -> Written:
    """Reads the last offline run below a run's folder."""
    place = folder / "wandb" / "latest-run"
    words = [TOOLS / "wandb", "leet", "inspect", "--json", place]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    of = defaultdict(list)
    for record in map(json.loads, done.stdout.splitlines()):
        of[record["type"]].append(record.get(record["type"]))
    (run,) = of["run"]
    summary: dict[str, Any] = {}
    for record in of["summary"]:
        summary |= record.get("update", {})
    tables = defaultdict(list)
    for path in sorted((place / "files" / "media" / "table").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        name = path.relative_to(place / "files" / "media" / "table").as_posix().rsplit("_", 2)[0]
        tables[name].append(json.loads(path.read_text()))
    return Written(
        run=run,
        config={name: value for name, value in run["config"]["update"].items() if name != "_wandb"},
        metrics={record["name"]: record for record in of["metric"]},
        history={record["step"]["num"]: record["item"] for record in of["history"]},
        summary=summary,
        artifacts={record["name"]: record for record in of["artifact"]},
        tables=dict(tables),
        exit_code=of["exit"][-1].get("exit_code", 0) if of["exit"] else None,
    )


def sent(*words: object) -> subprocess.CompletedProcess:
    """Calls `rlbench-wandb`."""
    return forked.run("rlbench.tracking.command", *map(str, words), cwd=Path.cwd(), env=os.environ)


@pytest.fixture(scope="session")
def sweep(alone, cache, tmp_path_factory) -> Path:
    """The folder of a sweep of two algorithms, asynchronous, tracked offline, as the command line makes it."""
    place = tmp_path_factory.mktemp("sweep")
    tracker = ["tracker=[terminal,wandb]", "tracker.wandb.mode=offline", "tracker.wandb.tags=[mine]"]
    words = ["-m", "algo=grpo,ppo", "runner=async", *tracker, *TINY]
    done = forked.run(*command(cache, *words)[2:], **settings(place))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rlbench-wandb" not in done.stdout, "nothing is missing"
    (folder,) = (place / "multirun").glob("*/*")
    return folder


SETTINGS = {"project": "rlbench", "entity": None, "group": None, "tags": [], "finish_seconds": 20.0}
STEPS = 30


@pytest.fixture
def scratch(monkeypatch):
    """A place for temporary files, in which trackers may leave none. Its name is short: wandb puts a socket there."""
    with tempfile.TemporaryDirectory(prefix="rlbench-") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield place
        assert not [name for name in os.listdir(place) if name.startswith("rlbench-")]


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


class Harm(Tracker):
    """A tracker that does something to a process of wandb's in the middle of the run."""

    def __init__(self, name, harm):
        self.name, self.harm, self.done = name, harm, False

    def log(self, row):
        if row["step"] == 5:
            wait_for(lambda: victims(self.name), 20)
            for process in victims(self.name):
                self.harm(process)
                self.done = True


def victims(word: str) -> list[psutil.Process]:
    """This process's descendants with a word in their command lines."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if any(word in part for part in process.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


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
