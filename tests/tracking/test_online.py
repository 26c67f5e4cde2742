"""Online, with a server that may be out of reach: what was missed can be sent later, and nothing arrives twice."""

import json

import pytest

from rlbench.tracking.sheets import SHEETS
from tests.cli.test_cli import wait_for
from tests.tracking.conftest import STEPS, Harm, Timed, sent
from tests.tracking.server import Server

EVERYTHING = list(range(STEPS + 2))  # the steps, and the ledger's tables behind the last one


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        yield server


def name_of(folder) -> str:
    return json.loads((folder / "wandb.json").read_text())["id"]


def test_a_run_is_sent_while_it_goes_on(played, folder, server, caplog):
    run = Timed(mode="online")
    played(run)
    assert server.steps(name_of(folder)) == EVERYTHING and server.ends[name_of(folder)] == 0
    assert f"run-{name_of(folder)}" in server.artifacts and len(set(server.artifacts)) == 1 + len(SHEETS)
    assert not caplog.records


class Cut(Harm):
    """Takes the server out of reach when the first half of the run has arrived."""

    def __init__(self, server, folder):
        super().__init__("", None)
        self.server, self.folder = server, folder

    def log(self, row):
        if row["step"] == STEPS // 2:
            wait_for(lambda: self.server.lines[name_of(self.folder)], 40)
            self.server.reachable = False


@pytest.mark.slow
def test_what_a_lost_connection_left_out_is_sent_by_the_command_once(played, folder, server, caplog):
    tracker = Timed(mode="online", finish_seconds=3.0)
    played(tracker, Cut(server, folder))
    assert tracker.waited["log"] < 0.2 and tracker.waited["finish"] < 5
    there = server.steps(name_of(folder))
    assert 0 < len(there) < STEPS and f"rlbench-wandb {folder}" in caplog.text
    server.reachable = True
    assert sent(folder).returncode == 0
    assert server.steps(name_of(folder)) == EVERYTHING and server.ends[name_of(folder)] == 0
    assert sent(folder).returncode == 0, "all is there already"
    assert server.steps(name_of(folder)) == EVERYTHING
