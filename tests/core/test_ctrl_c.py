"""Ctrl-C ends a run within 2 seconds, with a summary, whatever it is doing."""

import json
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from rlbench.devices import CompiledFunction
from rlbench.experiment import run
from rlbench.types import Phase

LOADED = 10  # seconds that 2 may become on a machine whose cores are busy; waiting for anything here would take hours


class Told:
    """A task that calls a function whenever a completion to a training problem is judged."""

    def __init__(self, task, told):
        self.task, self.bounds, self.told = task, task.bounds, told

    def problem(self, seed, split):
        problem = self.task.problem(seed, split)
        return problem._replace(state=(split, problem.state))

    def step(self, state, completion):
        if state[0] == "train":
            self.told()
        return self.task.step(state[1], completion)

    def solution(self, state):
        return self.task.solution(state[1])


@pytest.fixture
def released():
    """Set at the end of the test: what hangs in this process goes on then."""
    event = threading.Event()
    yield event
    event.set()


def interrupted(plan, folder, begun: threading.Event) -> dict:
    """Runs a plan and presses Ctrl-C once something has begun. Returns the summary."""
    pressed: list[float] = []

    def press() -> None:
        begun.wait()
        time.sleep(0.2)  # until it does nothing else
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(plan, folder)
    assert time.monotonic() - pressed[0] < LOADED
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert (folder / "ledger.json").exists() == (summary["accuracy_before"] is not None)
    return summary


@pytest.mark.parametrize(
    ("words", "hangs"),
    [
        (("warm_start.steps=4", "warm_start.seed=1000"), True),
        (("warm_start.steps=0", "runner=sync"), True),
        (("warm_start.steps=0", "runner=async"), True),
        (("warm_start.steps=0", "verifier.delay_seconds=36000"), False),
    ],
    ids=["warm start", "judging", "judging asynchronously", "a slow environment"],
)
def test_it_waits_for_no_verdict(plan_of, tmp_path, released, words, hangs):
    begun = threading.Event()

    def told():
        begun.set()
        if hangs:
            released.wait()

    plan = plan_of("grpo", *words)
    summary = interrupted(plan._replace(task=Told(plan.task, told)), tmp_path, begun)
    assert (summary["accuracy_before"] is None) == ("warm_start.steps=4" in words)


def test_it_waits_for_no_further_round_of_sampling(plan_of, tmp_path):
    plan = plan_of("expert_iteration", "warm_start.steps=0", "batch.max_sampling_rounds=1000000")
    begun, judged = threading.Event(), []

    def told():
        judged.append(1)
        if len(judged) > 3 * plan.rollouts:
            begun.set()

    interrupted(plan._replace(task=Told(plan.task, told)), tmp_path, begun)  # random weights solve nothing
    count = len(judged)
    time.sleep(0.1)
    assert len(judged) == count, "the actor has ended"


def test_it_waits_for_no_computation(plan_of, tmp_path, released):
    plan, begun = plan_of("grpo", "warm_start.steps=0"), threading.Event()

    def wait():
        begun.set()
        released.wait()
        return jnp.float32(0)

    def score(trainable, frozen, rollouts, version):
        scores = plan.algorithm.score(trainable, frozen, rollouts, version)
        late = jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32))
        return scores | {"advantage": scores["advantage"] + late}

    interrupted(plan._replace(algorithm=plan.algorithm._replace(score=score)), tmp_path, begun)


def test_nor_for_the_compiler(devices, monkeypatch):
    threads = []
    compile = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda *given: threads.append(threading.current_thread()) or compile(*given)
    )
    CompiledFunction(devices, lambda x: x + 1, phase=Phase.SCORE)(devices.replicate(jnp.zeros(3)))
    assert threads and threading.main_thread() not in threads, "Python would handle no signal until it is done"
