"""Runs of another version of rlbench, whose metrics have other names: refused in one line, here and at wandb."""

import json
import shutil
from types import SimpleNamespace

import pytest

from rlbench.accounting import SCHEMA
from rlbench.tracking.sending import NotSent, refuse_older
from tests.tracking.conftest import sent


def test_an_older_run_is_not_sent(sweep, tmp_path):
    shutil.copytree(sweep / "0", tmp_path / "run", ignore=shutil.ignore_patterns("wandb", "wandb.json"))
    path = tmp_path / "run" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 2}))
    done = sent("--offline", tmp_path / "run")
    (line,) = done.stdout.splitlines()
    assert done.returncode == 1
    assert line.endswith(f"not sent: summary.json: written by another version of rlbench (schema 2, not {SCHEMA})")
    assert not (tmp_path / "run" / "wandb").exists()


class Project:
    """wandb's public interface to a project whose first run has this config."""

    def __init__(self, *configs: dict):
        self.first = [SimpleNamespace(config=config) for config in configs]
        self.deleted: list[str] = []

    def runs(self, path, order, per_page):
        assert (path, order) == ("me/rl", "+created_at")
        return self.first

    def run(self, path):
        return SimpleNamespace(delete=lambda: self.deleted.append(path))


@pytest.fixture
def run():
    return SimpleNamespace(entity="me", project="rl", id="new", finish=lambda: None)


@pytest.mark.parametrize("older", [{"choices": {}}, {"choices": {}, "schema": 2}])
def test_a_project_of_older_runs_takes_no_new_one(run, older):
    project = Project(older)
    schema = older.get("schema")
    with pytest.raises(NotSent, match=rf"project me/rl holds runs of .* \(schema {schema}, not {SCHEMA}\)$"):
        refuse_older(project, run)
    assert project.deleted == ["me/rl/new"]


@pytest.mark.parametrize("configs", [(), ({"choices": {}, "schema": SCHEMA},), ({"lr": 1},)])
def test_any_other_project_does(run, configs):
    project = Project(*configs)
    refuse_older(project, run)
    assert project.deleted == []
