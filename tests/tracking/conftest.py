"""Weights & Biases without Weights & Biases: no account, no server, and what was written is read by wandb's reader."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

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
    """What wandb wrote of a run, by its own reader."""

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


@pytest.fixture(scope="session")
def sweep(alone, cache, tmp_path_factory) -> Path:
    """The folder of a sweep of two algorithms, tracked offline, as the command line makes it."""
    from tests.cli.test_cli import TINY, command, settings

    place = tmp_path_factory.mktemp("sweep")
    tracker = ["tracker=[terminal,wandb]", "tracker.wandb.mode=offline", "tracker.wandb.tags=[mine]"]
    words = ["-m", "algo=grpo,ppo", *tracker, *TINY]
    done = subprocess.run(command(cache, *words), **settings(place), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rlbench-wandb" not in done.stdout, "nothing is missing"
    (folder,) = (place / "multirun").glob("*/*")
    return folder
