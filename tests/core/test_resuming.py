"""A run that was ended in the middle and goes on ends as if nothing had happened."""

import json

import chex
import pytest

from rlbench.checkpoint import folders, intact, locked
from rlbench.experiment import run
from rlbench.types import ConfigError, Tracker
from tests.core.test_asynchrony import TIMES, TOTALS, Late, Paid
from tests.fakes import TwoTurns, limits_of

EVERY = "checkpoint.keep=2", "checkpoint.every=2", "evaluation.every=3", "warm_start.steps=0"


class Crash(BaseException):
    """It ends a run wherever it is; nobody handles it."""


class Crashing(Tracker):
    """A tracker that crashes at a step."""

    def __init__(self, step):
        self.step = step

    def log(self, row):
        if row["step"] == self.step:
            raise Crash


def lines(folder, without=()):
    """Lines of metrics, without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    aside = *TIMES, *without
    return [{key: value for key, value in row.items() if not any(word in key for word in aside)} for row in rows]


def params(folder):
    """The learner's arrays at the end."""
    arrays = intact(folders(folder / "checkpoints")[-1]).arrays()
    return {name: array for name, array in arrays.items() if name.startswith("learner/")}


def outcome(folder):
    """Totals of a run that do not depend on the clock; sums to ten digits, since their order may depend on it."""
    text = (folder / "ledger.json").read_text()
    ledger = json.loads(text, parse_float=lambda number: float(f"{float(number):.10g}"))
    calls = {name: ledger["verification"][name] for name in ("calls", "programs", "repeated", "timeouts")}
    return ledger["compute"]["executed"], ledger["compute"]["useful"], ledger["rollouts"], ledger["tokens"], calls


def resumed(make, folder, *crashes):
    """A run that crashes at some steps, one after the other, and goes on every time."""
    folder.mkdir()
    for step in crashes:
        with pytest.raises(Crash):
            run(make()._replace(trackers=[Crashing(step)]), folder)
    return run(make(), folder)


@pytest.mark.parametrize(
    ("algo", "task", "words"),
    [
        ("grpo", "arithmetic", []),
        ("ppo", "arithmetic", ["batch.minibatches=2", "batch.epochs=2", "optimizer=muon"]),
        ("expert_iteration", "arithmetic", []),
        ("grpo", "code", ["acting.slots=8"]),
        ("grpo", "arithmetic", ["max_flops=7.5e6", "steps=9"]),
    ],
    ids=["grpo", "ppo with muon", "a filter", "programs", "a budget of operations"],
)
def test_a_synchronous_run_ends_with_the_same_bits_and_the_same_lines(plan_of, tmp_path, algo, task, words):
    def make():
        plan = plan_of(algo, *EVERY, "steps=5", *words, task=task)
        return plan._replace(task=Paid(plan.task)) if task == "arithmetic" else plan

    (tmp_path / "whole").mkdir()
    run(make(), tmp_path / "whole")
    summary = resumed(make, tmp_path / "parts", 1, 3, 5)
    assert summary["status"] == "finished"
    chex.assert_trees_all_equal(params(tmp_path / "parts"), params(tmp_path / "whole"))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    kept = [(tmp_path / name / "trajectories.jsonl").read_text() for name in ("parts", "whole")]
    assert kept[0] == kept[1]
    lost = json.loads((tmp_path / "parts/ledger.json").read_text())["lost_to_crash"]
    assert lost["crashes"] == 3 and lost["learner_steps"] == 1 + 1 + 1 and lost["seconds"] > 0 and lost["flops"] > 0
    assert lost["rollouts"] >= 3 * 16


def test_four_devices_go_on_as_one_does(plan_of, tmp_path):
    def make():
        plan = plan_of("grpo", *EVERY, "steps=5", "evaluation.samples=3", "batch.rollouts=32", devices=4)
        return plan._replace(task=Paid(plan.task))

    (tmp_path / "whole").mkdir()
    run(make(), tmp_path / "whole")
    resumed(make, tmp_path / "parts", 3)
    chex.assert_trees_all_equal(params(tmp_path / "parts"), params(tmp_path / "whole"))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


@pytest.mark.parametrize("devices", [1, 4])
def test_several_turns_are_taken_up_where_they_were(plan_of, tmp_path, devices):
    """Rows that wait for an answer keep what they have read."""
    words = [
        "runner=inflight",
        *EVERY,
        "steps=7",
        "acting.chunk=1",
        "acting.slots=8",
        "evaluation.samples=3",
        "batch.rollouts=32",
    ]

    def make(*more):
        plan = plan_of("grpo", *words, *more, devices=devices)
        return plan._replace(task=TwoTurns(), limits=limits_of(TwoTurns(), completion=4))

    (tmp_path / "recorded").mkdir()
    run(make(), tmp_path / "recorded")
    replay = f"runner.replay={tmp_path}/recorded/arrivals.jsonl"
    resumed(lambda: make(replay), tmp_path / "parts", 3, 6)
    chex.assert_trees_all_equal(params(tmp_path / "parts"), params(tmp_path / "recorded"))
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "recorded")


def test_one_is_due_after_so_many_seconds(plan_of, tmp_path):
    plan = plan_of("grpo", *EVERY, "checkpoint.every=null", "checkpoint.seconds=0.2", "steps=8", "runner=async")
    with pytest.raises(Crash):
        run(plan._replace(task=Late(plan.task, 0.3), trackers=[Crashing(8)]), tmp_path)
    assert folders(tmp_path / "checkpoints")


@pytest.mark.parametrize("runner", ["async", "inflight", "inflight runner.recompute_cache=true"])
def test_what_is_under_way_is_taken_up_where_it_was(plan_of, tmp_path, runner):
    """Of an asynchronous run whose arrivals are replayed, in the middle of completions."""
    words = [*f"runner={runner}".split(), *EVERY, "steps=7", "acting.chunk=1", "acting.slots=8"]

    def make(*more, longest=0.02):
        plan = plan_of("grpo", *words, *more)
        return plan._replace(task=Late(plan.task, longest))

    (tmp_path / "recorded").mkdir()
    run(make(longest=0.1), tmp_path / "recorded")
    replay = f"runner.replay={tmp_path}/recorded/arrivals.jsonl"
    resumed(lambda: make(replay), tmp_path / "parts", 3, 6)
    chex.assert_trees_all_equal(params(tmp_path / "parts"), params(tmp_path / "recorded"))
    assert lines(tmp_path / "parts", TOTALS) == lines(tmp_path / "recorded", TOTALS)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "recorded")
    arrivals = [(tmp_path / name / "arrivals.jsonl").read_text() for name in ("parts", "recorded")]
    assert arrivals[0] == arrivals[1]


def test_an_asynchronous_run_without_a_record_loses_no_rollout(plan_of, tmp_path):
    def make():
        plan = plan_of("grpo", "runner=async", *EVERY, "steps=6")
        return plan._replace(task=Late(plan.task, 0.05))

    summary = resumed(make, tmp_path / "run", 3)
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    assert summary["learner_steps"] == 6 and [row["step"] for row in lines(tmp_path / "run")] == [*range(7)]
    fates = ledger["rollouts"]["by_fate"]
    assert sum(fates.values()) == ledger["rollouts"]["generated"]
    assert fates["trained"] + fates["zero_advantage"] == 6 * 16


def test_a_finished_run_is_finished(plan_of, tmp_path):
    plan = plan_of("grpo", *EVERY)
    summary = run(plan, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    again = run(plan_of("grpo", *EVERY), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert {key: again[key] for key in ("status", "accuracy_after", "rollouts", "flops")} == {
        key: summary[key] for key in ("status", "accuracy_after", "rollouts", "flops")
    }


def test_a_finished_run_takes_more_steps(plan_of, tmp_path, caplog):
    caplog.set_level("WARNING")
    run(plan_of("grpo", *EVERY, "steps=2", "optimizer.final_lr_fraction=0.1"), tmp_path)
    summary = run(plan_of("grpo", *EVERY, "steps=4", "optimizer.final_lr_fraction=0.1"), tmp_path)
    assert summary["learner_steps"] == 4 and [row["step"] for row in lines(tmp_path)] == [0, 1, 2, 3, 4]
    (line,) = caplog.messages
    assert line == "steps=4 instead of 2: the learning rate goes on as if there had been 4 from the start"
    with pytest.raises(ConfigError, match=r"^steps=3: at least 4"):
        run(plan_of("grpo", *EVERY, "steps=3"), tmp_path)


def test_a_learning_rate_that_does_not_depend_on_the_steps_says_nothing(plan_of, tmp_path, caplog):
    caplog.set_level("WARNING")
    for steps in (2, 3):
        run(plan_of("grpo", *EVERY, f"steps={steps}", "optimizer.final_lr_fraction=1"), tmp_path)
    assert not caplog.messages


def test_another_config_is_refused_before_anything_is_touched(plan_of, tmp_path):
    run(plan_of("grpo", *EVERY), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.json*")}
    with pytest.raises(ConfigError, match=r"^seed=1: as in the run that .* is of: 0; or give this run another folder$"):
        run(plan_of("grpo", *EVERY, "seed=1"), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.json*")} == before


def test_without_checkpoints_a_run_still_goes_on_from_the_last(plan_of, tmp_path):
    run(plan_of("grpo", *EVERY, "steps=2"), tmp_path)
    summary = run(plan_of("grpo", *EVERY, "steps=3", "checkpoint.keep=0"), tmp_path)
    assert summary["learner_steps"] == 3 and [row["step"] for row in lines(tmp_path)] == [0, 1, 2, 3]
    assert [path.name for path in folders(tmp_path / "checkpoints")] == ["step-000002"]


def test_a_second_process_is_refused(plan_of, tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match="a folder in which no other process runs"):
        run(plan_of("grpo", *EVERY), tmp_path)


def test_a_ledger_of_a_run_that_did_not_crash_says_so(plan_of, tmp_path):
    run(plan_of("grpo"), tmp_path)
    lost = json.loads((tmp_path / "ledger.json").read_text())["lost_to_crash"]
    assert set(lost) == {"crashes", "learner_steps", "seconds", "flops", "rollouts"} and not any(lost.values())
