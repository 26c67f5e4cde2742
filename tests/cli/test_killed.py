"""A run that is killed anywhere goes on from its last checkpoint, and ends with the bits of one that nobody touched."""

import contextlib
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from rlbench.checkpoint import folders, intact
from tests.cli.test_cli import TINY, command, settings, wait_for

WORDS = [*TINY, "warm_start.steps=150", "steps=500", "checkpoint.keep=2", "checkpoint.every=40", "evaluation.every=60"]
SLOW = ["verifier.delay_seconds=0.03", "evaluation.every=1000", "steps=60"]  # two seconds at least
CHUNKS = ["acting.chunk=1", "acting.slots=4"]  # so that completions are under way at most moments


def start(cache, root, folder, *words):
    """The command, as the leader of a process group."""
    run = command(cache, *WORDS, *words, f"hydra.run.dir={folder}")
    return subprocess.Popen(
        run, **settings(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def end(run, number):
    try:
        os.killpg(run.pid, number)
    finally:
        text, _ = run.communicate(timeout=60)
    return text


def whole(cache, root, folder, *words):
    """Runs to the end. Returns the seconds that took."""
    began = time.monotonic()
    run = start(cache, root, folder, *words)
    text, _ = run.communicate()
    assert run.returncode == 0, text
    return time.monotonic() - began


def lines(folder, without=()):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    aside = re.compile("|".join(["second", "resident", *without]))
    return [{name: value for name, value in row.items() if not aside.search(name)} for row in rows]


def params(folder):
    arrays = intact(folders(folder / "checkpoints")[-1]).arrays()
    return {name: array for name, array in arrays.items() if name.startswith("learner/")}


def same(folder, other, without=()):
    """Holds one run to another, to the last bit."""
    mine, theirs = params(folder), params(other)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert np.array_equal(array, theirs[name]), name
    assert lines(folder, without) == lines(other, without)
    ledgers = [json.loads((one / "ledger.json").read_text()) for one in (folder, other)]
    for key in ("executed", "useful"):
        assert ledgers[0]["compute"][key] == ledgers[1]["compute"][key]
    assert ledgers[0]["rollouts"] == ledgers[1]["rollouts"] and ledgers[0]["tokens"] == ledgers[1]["tokens"]
    return ledgers[0]["lost_to_crash"]


def killed(cache, root, folder, times, seconds, *words):
    """Kills a run at random moments until it was killed so often, whenever it ended before, begins anew."""
    left = times
    runs = 0
    while left:
        place = root / f"{folder}-{runs}"
        runs += 1
        while left:
            run = start(cache, root, place, *words)
            time.sleep(random.random() * seconds)
            over = run.poll() is not None
            if over:
                run.communicate()
                break
            end(run, signal.SIGKILL)
            left -= 1
        whole(cache, root, place, *words)
        yield place


@pytest.mark.slow
def test_a_synchronous_run_can_be_killed_at_any_moment(cache, tmp_path):
    """20 times, from the first import to the summary."""
    random.seed(0)
    whole(cache, tmp_path, "warm")
    seconds = whole(cache, tmp_path, "undisturbed")
    crashes = 0
    for folder in killed(cache, tmp_path, "killed", 20, seconds):
        crashes += same(folder, tmp_path / "undisturbed")["crashes"]
        assert (folder / "trajectories.jsonl").read_text() == (tmp_path / "undisturbed/trajectories.jsonl").read_text()
    assert crashes >= 5, "the test wants some of them to cost something"


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["async", "inflight"])
def test_an_asynchronous_run_can_be_killed_at_any_moment(cache, tmp_path, runner):
    """Of one that replays its arrivals all is the same but running totals, which depend on where the actor is."""
    random.seed(1)
    words = [f"runner={runner}", *CHUNKS]
    seconds = whole(cache, tmp_path, "recorded", *words)
    words.append(f"runner.replay={tmp_path}/recorded/arrivals.jsonl")
    for folder in killed(cache, tmp_path, "killed", 20, seconds, *words):
        totals = ["^rollouts", "^tokens", "^flops", "^useful_flops", "^queue/", "^verification/", "^dropped"]
        same(folder, tmp_path / "recorded", totals)


def test_a_sweep_goes_on_with_the_run_that_was_killed(cache, tmp_path):
    """With the same command and its folder."""
    words = ["-m", *WORDS, "seed=0,1", *SLOW, "checkpoint.every=5", "hydra.sweep.dir=sweep"]
    sweep = subprocess.Popen(
        command(cache, *words), **settings(tmp_path), stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: [*tmp_path.glob("sweep/*/checkpoints/step-*")])
    finally:
        os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()
    done = subprocess.run(command(cache, *words), **settings(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    both = sorted(path.parent for path in tmp_path.glob("sweep/*/summary.json"))
    assert len(both) == 2
    for folder in both:
        assert [row["step"] for row in lines(folder)] == [*range(61)]
    assert "the run goes on from step" in (both[0] / "rlbench.log").read_text()


def test_a_terminated_run_ends_its_step_and_goes_on(cache, tmp_path):
    """SIGTERM is what a machine sends that is wanted for something else. The command is printed."""
    words = ["steps=100000", "checkpoint.every=null", "evaluation.every=100000"]
    run = start(cache, tmp_path, "run", *words)
    metrics = tmp_path / "run/metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 3)
    text = end(run, signal.SIGTERM)
    assert run.returncode == 143, text
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "interrupted"
    (checkpoint,) = folders(tmp_path / "run/checkpoints")
    steps = lines(tmp_path / "run")[-1]["step"]
    assert intact(checkpoint).step == steps == summary["learner_steps"]
    found = re.search(r"what goes on with it is\s+(rlbench .*hydra.run.dir=\S+/run)", text)
    assert found, text
    words = [*shlex.split(found[1])[1:], f"steps={steps + 2}"]
    done = subprocess.run(command(cache, *words), **settings(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in lines(tmp_path / "run")] == [*range(steps + 3)]
    assert json.loads((tmp_path / "run/ledger.json").read_text())["lost_to_crash"]["crashes"] == 0


def test_another_config_in_the_folder_of_a_run_is_one_line_and_touches_nothing(cache, tmp_path):
    words = ["steps=2", "warm_start.steps=0"]
    whole(cache, tmp_path, "run", *words)
    names = ("config.yaml", "overrides.yaml", "metrics.jsonl", "trajectories.jsonl", "summary.json", "ledger.json")
    before = {path: path.read_bytes() for path in (tmp_path / "run" / name for name in names)}
    run = start(cache, tmp_path, "run", *words, "seed=1")
    text, _ = run.communicate()
    assert run.returncode == 2
    assert re.search(r"^rlbench: seed=1: as in the run that .* is of: 0; or give this run another folder$", text, re.M)
    assert {path: path.read_bytes() for path in before} == before


def filled(run, metrics, beyond):
    """A disk that is full once the metrics of a run have grown so far: no file of its takes another byte then."""
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 3)
    size = metrics.stat().st_size + beyond
    resource.prlimit(run.pid, resource.RLIMIT_FSIZE, (size, size))


def test_a_disk_that_is_full_ends_the_run_in_one_line_and_the_run_goes_on_when_there_is_room(cache, tmp_path):
    words = [*SLOW, "checkpoint.every=5"]
    whole(cache, tmp_path, "undisturbed", *words)
    run = start(cache, tmp_path, "run", *words)
    filled(run, tmp_path / "run/metrics.jsonl", 40_000)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 1, text
    assert re.search(r"^rlbench: \S*run/metrics.jsonl cannot be written: File too large$", text, re.M), text
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "failed" and "cannot be written" in summary["error"]
    whole(cache, tmp_path, "run", *words)
    same(tmp_path / "run", tmp_path / "undisturbed")


def test_a_disk_that_is_full_costs_checkpoints_alone_where_only_they_do_not_fit(cache, tmp_path):
    run = start(cache, tmp_path, "run", *SLOW, "checkpoint.every=20", "steps=30", "model.width=64")
    filled(run, tmp_path / "run/metrics.jsonl", 80_000)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 0, text
    assert "there is no checkpoint of step 20: " in text and "there is no checkpoint of step 30: " in text
    assert not [*(tmp_path / "run/checkpoints").iterdir()]
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "finished"


@contextlib.contextmanager
def read_only(*folders):
    """Folders in which nothing can be made; root needs an attribute of the file system for that."""
    close, reopen = (["chmod", "500"], ["chmod", "700"]) if os.geteuid() else (["chattr", "+i"], ["chattr", "-i"])
    try:
        if not shutil.which(close[0]) or subprocess.run([*close, *folders], capture_output=True).returncode:
            pytest.skip("root writes into every folder, and this file system or machine has no chattr +i")
        yield
    finally:
        subprocess.run([*reopen, *folders], capture_output=True)


def test_a_folder_that_becomes_read_only_leaves_what_is_open(cache, tmp_path):
    """Lines go on, since their files are open; checkpoints and the summary cannot be made, and are named."""
    run = start(cache, tmp_path, "run", "steps=100000", "checkpoint.every=50", "evaluation.every=100000")
    metrics = tmp_path / "run/metrics.jsonl"
    try:
        wait_for(lambda: [*tmp_path.glob("run/checkpoints/step-*")])
        with read_only(tmp_path / "run/checkpoints", tmp_path / "run"):
            before = metrics.read_text().count("\n")
            wait_for(lambda: metrics.read_text().count("\n") > before + 100)
            text = end(run, signal.SIGINT)
    finally:
        if run.poll() is None:
            end(run, signal.SIGKILL)
    assert run.returncode == 130 and "there is no checkpoint of step" in text and "summary.json cannot be" in text
