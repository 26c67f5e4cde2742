"""The common start: cached by the content of everything that determines it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlbench.acting.demonstrations import demonstrations
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.learning.sft import sft
from rlbench.types import Problem, Status
from rlbench.warm_start import Cost, WarmStart, drawn, is_apart, warm_start
from rlbench.warm_start_cache import cached, fingerprint
from tests.fakes import Copy, player_of, small_model

LIKE = {"w": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}


def make(value: float, calls: list):
    def go():
        calls.append(value)
        return {"w": jnp.full(2, value, jnp.bfloat16)}, Cost(1, 2, 3, 4.5, {"policy": 6.0}, {}, 0.5)

    return go


def test_the_same_content_is_made_once(tmp_path):
    calls: list = []
    first, cost = cached(tmp_path, {"a": 1}, [], LIKE, make(1.0, calls))
    again, cost_again = cached(tmp_path, {"a": 1}, [], LIKE, make(2.0, calls))
    other, _ = cached(tmp_path, {"a": 2}, [], LIKE, make(3.0, calls))
    assert calls == [1.0, 3.0]
    np.testing.assert_array_equal(first["w"], again["w"])
    assert again["w"].dtype == jnp.bfloat16
    assert cost == cost_again
    assert other["w"][0] == 3


def test_the_source_of_a_plugin_is_content(tmp_path):
    source = tmp_path / "task.py"
    source.write_text("1")
    before = fingerprint({}, [source])
    source.write_text("2")
    assert fingerprint({}, [source]) != before != fingerprint({}, [])


class Many(Copy):
    """81 prompts, whose last letter is the answer."""

    bounds = Copy.bounds._replace(prompt=5)

    def problem(self, seed, split):
        letters = "".join("abc"[seed // 3**place % 3] for place in range(4))
        return Problem(letters + "=", letters[-1])


def test_wanted_problems_come_first_and_others_make_up_for_too_few():
    def numbers(wanted):
        return [number for number, _ in drawn(Copy(), 0, 0, 4, 2, lambda problem: problem.state in wanted)]

    assert numbers("abc") == [0, 1, 2, 3]
    assert numbers("ab") == [0, 1, 3, 4]
    assert numbers("c") == [2, 5, 0, 1], "of eight numbers, two are wanted"


def test_a_problem_that_is_measured_on_is_not_trained_on(devices, monkeypatch):
    model, trained = small_model(), []

    def recorded(task, tokenizer, limits, verifier, problems):
        trained.extend(problem.identity for _, problem in problems)
        return demonstrations(task, tokenizer, limits, verifier, problems)

    monkeypatch.setattr("rlbench.warm_start.demonstrations", recorded)
    learner = Learner(sft(model), optax.adam(3e-3), UpdateConfig(1, 1, 10**6), devices, seed=0, donate=True)
    settings = WarmStart(steps=4, rollouts=12, accuracy=1.0, problems=8, check_every=2, seed=0)
    actor = player_of(model, Many(), devices)
    asked = []
    play = actor.play
    actor.play = lambda params, problems, *rest, **how: (asked.extend(problems), play(params, problems, *rest, **how))[
        1
    ]
    warm_start(settings, model, learner, actor, lambda step, accuracy: None)
    assert len(trained) == 48 and len(asked) == 16
    assert all(is_apart(problem) for _, problem in asked)
    assert not {problem.identity for _, problem in asked}.intersection(trained)


def test_sft_reaches_the_accuracy_it_stops_at(devices):
    model = small_model()
    learner = Learner(sft(model), optax.adam(3e-3), UpdateConfig(1, 1, 10**6), devices, seed=0, donate=True)
    settings = WarmStart(steps=300, rollouts=12, accuracy=0.9, problems=24, check_every=2, seed=0)
    seen = []
    actor = player_of(model, Copy(), devices)
    params, cost = warm_start(settings, model, learner, actor, lambda step, accuracy: seen.append((step, accuracy)))
    assert seen[0][1] < 0.9 <= seen[-1][1]
    assert cost.steps == seen[-1][0] < 300
    assert cost.rollouts == 12 * cost.steps
    # A prompt of 2 to 4 tokens, a letter and the end.
    assert cost.tokens == pytest.approx(5 * cost.rollouts, rel=0.05)
    played = actor.play(
        params, [(i, Copy().problem(i, "heldout")) for i in range(12)], 1, first_id=0, version=0, greedy=[True]
    )
    assert sum(t.solved for t in played.trajectories) >= 10


def test_a_file_that_a_task_reads_is_content(plan_of, tmp_path):
    """Of which the config holds no more than the path."""
    rows = [
        {"task_id": f"{n}", "prompt": f"def f():\n    # {n}\n", "entry_point": "f", "test": "def check(f): f()"}
        for n in range(9)
    ]
    contents = []
    for number in (1, 2):
        lines = [json.dumps(row | {"canonical_solution": f"    return {number}\n"}) for row in rows]
        (tmp_path / "problems.jsonl").write_text("\n".join(lines))
        plan = plan_of("grpo", f"task.path={tmp_path / 'problems.jsonl'}", "tokenizer=characters", task="human_eval")
        plan.verifier.close()
        contents.append(fingerprint(plan.warm_start_content, plan.sources))
    assert contents[0] != contents[1]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-7], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda _: b""]
)
def test_a_damaged_file_is_made_again(tmp_path, caplog, damage):
    calls: list = []
    cached(tmp_path, {}, [], LIKE, make(1.0, calls))
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    again, _ = cached(tmp_path, {}, [], LIKE, make(2.0, calls))
    assert again["w"][0] == 2 and calls == [1.0, 2.0]
    assert caplog.messages == [f"the warm start in {file} is damaged: it is made again"]
    kept, _ = cached(tmp_path, {}, [], LIKE, make(3.0, calls))
    assert kept["w"][0] == 2 and calls == [1.0, 2.0]


def test_what_decides_rounding_is_content(monkeypatch):
    prints = [fingerprint({}, [])]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX")
    prints.append(fingerprint({}, []))
    monkeypatch.setattr("rlbench.warm_start_cache.processor", lambda: ["another"])
    prints.append(fingerprint({}, []))
    assert len(set(prints)) == 3


def test_accuracy_that_nobody_could_judge_stops_no_warm_start(devices, caplog):
    class Broken(Copy):
        def step(self, state, completion):
            return super().step(state, completion)._replace(status=Status.INFRASTRUCTURE, reward=0.0)

    model = small_model()
    learner = Learner(sft(model), optax.adam(3e-3), UpdateConfig(1, 1, 10**6), devices, seed=0, donate=True)
    settings = WarmStart(steps=4, rollouts=12, accuracy=0.0, problems=24, check_every=2, seed=0)
    seen = []
    _, cost = warm_start(settings, model, learner, player_of(model, Broken(), devices), lambda *note: seen.append(note))
    assert seen == [(2, None), (4, None)] and cost.steps == 4
    assert caplog.messages[-1:] == ["accuracy after the warm start is unknown: no completion could be judged"]
