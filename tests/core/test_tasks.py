"""Tasks without reference solutions, with resources, and solved apart from the reward."""

import json

import jax
import pytest

from rlbench.evaluation import Evaluation, evaluate
from rlbench.experiment import run
from rlbench.testing import TASK_CHECKS, NotApplicable
from rlbench.types import ConfigError, Problem, Status, Step
from tests.fakes import VERIFIER, Copy, player_of, problems_of, rough, small_model


class Unsolved:
    """The letter of the prompt is solved, and pays half; any other pays a third. Nobody has a solution."""

    bounds = Copy.bounds

    def __init__(self):
        self.log: list[str] = []

    def open(self):
        self.log.append("open")

    def close(self):
        self.log.append("close")

    def problem(self, seed: int, split: str) -> Problem:
        letter = "b" if split == "heldout" else "ac"[seed % 2]
        return Problem(letter * (1 + seed % 3) + "=", letter)

    def step(self, state: str, completion: str) -> Step:
        assert self.log[-1] == "open", "what it needs is there"
        right = completion == state
        return Step(state, None, 0.5 if right else 0.3, Status.PASSED if right else Status.WRONG, solved=right)


def test_accuracy_is_of_what_the_task_calls_solved(devices):
    task = Unsolved()
    task.open()
    batch = player_of(small_model(), task, devices).play(
        rough(small_model().init(jax.random.key(0))), problems_of(task, 40), 1, first_id=0, version=0
    )
    assert {t.solved for t in batch.trajectories} == {True, False}
    for trajectory in batch.trajectories:
        assert trajectory.solved == (trajectory.status == Status.PASSED) == (trajectory.reward == 0.5)


def test_a_rollout_is_solved_by_its_reward_where_the_task_says_nothing(devices):
    task = Copy()
    batch = player_of(small_model(), task, devices).play(
        rough(small_model().init(jax.random.key(0))), problems_of(task, 40), 1, first_id=0, version=0
    )
    assert [t.solved for t in batch.trajectories] == [t.reward == 1 for t in batch.trajectories]


class Labelled(Copy):
    """Says of an episode which letter it is about, and of "c" that it is late in the alphabet; "aa" breaks."""

    def step(self, state: str, completion: str) -> Step:
        step = super().step(state, completion)
        if completion == "a":
            return step._replace(status=Status.INFRASTRUCTURE, labels=("broken",))
        return step._replace(labels=(state, "late") if state == "c" else ())


def test_success_is_reported_for_each_label(devices):
    """Of all completions that were judged, greedy and sampled: rollouts, and the share that is solved."""
    model, task = small_model(), Labelled()
    settings = Evaluation(every=1, problems=6, samples=20, pass_at=[1], target=0.9, top_k=0, top_p=1.0, trajectories=6)
    player = player_of(model, task, devices)
    params = model.init(jax.random.key(0))
    metrics, _, kept = evaluate(settings, problems_of(task, 6), player, params, 0)
    batch = player.play(params, problems_of(task, 6), 21, first_id=0, version=0, greedy=[True] + [False] * 20)
    of_c = [t for t in batch.trajectories if t.prompt[0] == "c" and t.status != Status.INFRASTRUCTURE]
    assert 0 < len(of_c) < 42 and any(t.solved for t in of_c)
    for label in ("c", "late"):
        assert metrics[f"eval/rollouts/{label}"] == len(of_c)
        assert metrics[f"eval/success/{label}"] == pytest.approx(sum(t.solved for t in of_c) / len(of_c))
    assert {name.rpartition("/")[2] for name in metrics if "/success/" in name} == {"c", "late"}
    assert {row["labels"] for row in kept if row["prompt"] == "ccc="} == {("c", "late")}


def test_success_by_label_is_in_the_summary(plan_of, tmp_path):
    plan = plan_of("grpo", "warm_start.steps=0")
    summary = run(plan._replace(task=Labelled()), tmp_path)
    assert summary["success_by_label"].keys() == {"c", "late"}
    assert json.loads((tmp_path / "summary.json").read_text())["success_by_label"] == summary["success_by_label"]
    last = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert summary["success_by_label"]["c"] == {
        "rollouts": last["eval/rollouts/c"], "success": last["eval/success/c"]
    }  # fmt: skip


def test_a_task_without_labels_has_no_success_by_label(plan_of, tmp_path):
    assert "success_by_label" not in run(plan_of("grpo", "warm_start.steps=0"), tmp_path)


def test_a_run_opens_and_closes_a_task_that_has_no_solutions(plan_of, tmp_path):
    plan = plan_of("grpo", "warm_start.steps=0")
    task = Resourceful(plan.task)
    run(plan._replace(task=task), tmp_path)
    assert task.log == ["open", "close"]
    assert json.loads((tmp_path / "summary.json").read_text())["accuracy_after"] is not None


class Resourceful:
    """Another task without its solutions."""

    def __init__(self, task):
        self.task, self.bounds, self.problem, self.step = task, task.bounds, task.problem, task.step
        self.log: list[str] = []

    def open(self):
        self.log.append("open")

    def close(self):
        self.log.append("close")


def test_it_is_closed_though_the_run_fails(plan_of, tmp_path):
    plan = plan_of("grpo", "warm_start.steps=0")
    task = Resourceful(plan.task)
    broken = plan.algorithm._replace(score=lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(plan._replace(task=task, algorithm=broken), tmp_path)
    assert task.log == ["open", "close"]


def test_a_warm_start_needs_solutions(plan_of, monkeypatch):
    monkeypatch.delattr("rlbench.tasks.arithmetic.Arithmetic.solution")
    with pytest.raises(ConfigError, match=r"warm_start\.steps=2: 0: Arithmetic has no reference solutions"):
        plan_of("grpo", "warm_start.steps=2")
    assert plan_of("grpo", "warm_start.steps=0").warm_start.steps == 0


@pytest.mark.parametrize("check", TASK_CHECKS)
def test_the_kit_leaves_out_what_needs_a_solution(check):
    task = Unsolved()
    task.open()
    try:
        TASK_CHECKS[check].check(task, VERIFIER)
    except NotApplicable:
        assert check == "solution"
    else:
        assert check != "solution"
