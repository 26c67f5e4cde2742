"""`hydra/launcher=seeds`: which jobs share a process, what each leaves, and what an end of the process leaves."""

import json
import os
import signal
import subprocess

import pytest

from tests.cli.test_cli import TINY, command, folders, settings, wait_for
from tests.cli.test_killed import lines, params
from tests.cli.test_sweeps import here, pretend, processes, running, sweep  # noqa: F401
from tests.core.test_asynchrony import TIMES

SEEDS = "hydra/launcher=seeds"


def pids(folder):
    return {line.split()[0] for path in folders(folder) for line in processes(path)}


def test_jobs_that_differ_in_more_than_their_seed_have_processes_of_their_own(sweep, tmp_path):  # noqa: F811
    _, error = sweep(SEEDS, "optimizer.learning_rate=0.01,0.02", "seed=0,1,2", "hydra.sweep.dir=here")
    assert error is None
    assert [folder.name for folder in folders(tmp_path / "here")] == [str(number) for number in range(6)]
    assert len(pids(tmp_path / "here")) == 2


def test_so_has_one_whose_task_is_made_of_the_seed(sweep, tmp_path):  # noqa: F811
    sweep(SEEDS, "+task.shuffle=${seed}", "seed=0,1,2", "hydra.sweep.dir=here")
    assert len(pids(tmp_path / "here")) == 3


def test_so_has_one_that_changes_its_folder(sweep, tmp_path):  # noqa: F811
    sweep(SEEDS, "hydra.job.chdir=true", "seed=0,1", "hydra.sweep.dir=here")
    assert len(pids(tmp_path / "here")) == 2


def test_one_that_fails_does_so_alone(sweep, tmp_path):  # noqa: F811
    said, error = sweep(SEEDS, "seed=0,8,9,1", "hydra.sweep.dir=here")
    assert [folder.name for folder in folders(tmp_path / "here")] == ["0", "3"]
    assert "2 of 4 jobs failed" in said and "boo hoo" in said
    assert "ValueError" in str(error)


def test_a_crash_ends_all_and_the_sweep_can_be_completed(sweep, tmp_path):  # noqa: F811
    said, error = sweep(SEEDS, "seed=7,0,1", "hydra.sweep.dir=here", "hydra.launcher.seeds_at_once=1")
    assert "3 of 3 jobs failed" in said and "the process died: SIGABRT" in said
    said, error = sweep(SEEDS, "seed=0,1", "hydra.sweep.dir=here")
    assert error is None and len(folders(tmp_path / "here")) == 2


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_wrong_number_is_named(sweep, value):  # noqa: F811
    _, error = sweep(SEEDS, f"hydra.launcher.seeds_at_once={value}", "seed=0,1", "hydra.sweep.dir=here")
    assert "hydra.launcher.seeds_at_once" in str(error)


WORDS = [*TINY, "warm_start.steps=20", "steps=30", "checkpoint.keep=2", "checkpoint.every=10", "evaluation.every=15"]


def start(cache, root, launcher, *words):
    """A sweep of three seeds, as the leader of a process group."""
    run = command(cache, "-m", f"hydra/launcher={launcher}", *WORDS, "seed=0,1,2", *words)
    return subprocess.Popen(
        run, **settings(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def whole(cache, root, launcher, *words):
    run = start(cache, root, launcher, *words)
    text, _ = run.communicate(timeout=400)
    assert run.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def alone(cache, tmp_path_factory):
    """The same seeds, a process each."""
    root = tmp_path_factory.mktemp("alone")
    whole(cache, root, "process", "hydra.sweep.dir=runs")
    return root / "runs"


def same(folder, alone):
    for seed in map(str, range(3)):
        assert lines(folder / seed, TIMES) == lines(alone / seed, TIMES)
        mine, theirs = params(folder / seed), params(alone / seed)
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)


def test_files_are_those_of_runs_alone(cache, tmp_path, alone):
    text = whole(cache, tmp_path, "seeds", "hydra.sweep.dir=runs")
    same(tmp_path / "runs", alone)
    for seed in map(str, range(3)):
        files = [
            sorted(
                str(path.relative_to(root / seed))
                for path in (root / seed).rglob("*")
                if "checkpoints" not in str(path)
            )
            for root in (tmp_path / "runs", alone)
        ]
        assert files[0] == files[1]
        for name in ("config.yaml", "overrides.yaml", ".hydra/overrides.yaml"):
            assert (tmp_path / "runs" / seed / name).read_text() == (alone / seed / name).read_text(), name
    assert text.count("job 2: ") == 1


def test_each_logs_to_its_own_file(cache, tmp_path):
    whole(cache, tmp_path, "seeds", "hydra.sweep.dir=runs", "max_flops=1e15", "steps=2")
    for seed in range(3):
        logged = (tmp_path / "runs" / str(seed) / "rlbench.log").read_text().splitlines()
        assert len([line for line in logged if "of max_flops" in line]) == 1, logged


def test_a_sweep_may_log_to_no_file(sweep, tmp_path):  # noqa: F811
    _, error = sweep(SEEDS, "hydra/job_logging=disabled", "seed=0,1", "hydra.sweep.dir=here")
    assert error is None and len(folders(tmp_path / "here")) == 2
    assert not [*(tmp_path / "here").rglob("*.log")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_all_go_on_from_their_checkpoints(cache, tmp_path, alone, number):
    words = "hydra.sweep.dir=runs", "verifier.delay_seconds=0.06"
    run = start(cache, tmp_path, "seeds", *words)
    try:
        wait_for(lambda: len([*(tmp_path / "runs").glob("*/checkpoints/step-*")]) >= 3)
    finally:
        os.killpg(run.pid, number)
        text, _ = run.communicate(timeout=100)
    assert run.returncode, text
    if number != signal.SIGKILL:
        summaries = [json.loads(path.read_text()) for path in (tmp_path / "runs").glob("*/summary.json")]
        assert {one["status"] for one in summaries} <= {"interrupted", "finished"} and len(summaries) == 3, text
    whole(cache, tmp_path, "seeds", *words)
    same(tmp_path / "runs", alone)
