"""A run that stops when its operations are spent, and one whose environment is slow."""

import json
import logging

import pytest

from rlbench.experiment import run


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def learned(row):
    """Operations of a row without warm start and evaluation."""
    return row["flops"] - row["flops/phase/warm_start"] - row["flops/phase/evaluation"]


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_budget_ends_the_run_at_the_first_step_that_spends_it(plan_of, tmp_path, runner):
    plan = plan_of("grpo", "max_flops=1e8", "steps=1000", "evaluation.every=1000", f"runner={runner}")
    summary = run(plan, tmp_path)
    log = rows(tmp_path)
    assert summary["status"] == "finished" and summary["learner_steps"] == log[-1]["step"] < 1000
    assert [row["step"] for row in log if "eval/accuracy" in row] == [0, log[-1]["step"]], "its end is measured"
    assert summary["accuracy_after"] == log[-1]["eval/accuracy"]
    assert learned(log[-2]) < 1e8 <= learned(log[-1])
    a_step = learned(log[-1]) / log[-1]["step"]
    price = json.loads((tmp_path / "ledger.json").read_text())["price"]
    spent = price["per_point"]["flops"]
    total = json.loads((tmp_path / "ledger.json").read_text())["compute"]["executed"]
    whole = total["total"] - total["by_phase"]["warm_start"] - total["by_phase"]["evaluation"]
    assert spent is None or spent > 0
    assert whole <= 1e8 + a_step * (2 + plan.runner.max_staleness), "one step too many, and what was sampled ahead"


def test_steps_that_end_before_the_budget_are_noted(plan_of, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(plan_of("grpo", "max_flops=1e15"), tmp_path)
    assert "steps=3 ended the run at" in caplog.text and "of max_flops=1e+15" in caplog.text


def test_a_slow_environment_is_waited_for_and_takes_no_processor(plan_of, tmp_path):
    """Three batches of one turn, 0.4 seconds each; held-out problems and the warm start are spared.

    What the loop does between submitting and waiting is not waited for, and takes longer on a busy machine.
    """
    summary = run(plan_of("grpo", "verifier.delay_seconds=0.4"), tmp_path)
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    judged = ledger["verification"]
    assert rows(tmp_path)[-1]["wall_seconds"] >= 1.2
    assert 0.9 < judged["wall_seconds"] < 1.2 + 0.4
    assert judged["cpu_seconds"] < 0.2 and judged["of_evaluation"]["wall_seconds"] < 0.2
    assert ledger["time"]["devices"]["waiting_for_verification"] > 0.9
    assert summary["learner_steps"] == 3
