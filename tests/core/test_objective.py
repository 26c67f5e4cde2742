"""The number of a run that a search is after."""

import json

import pytest

from rlbench.comparing.objective import measure
from rlbench.types import ConfigError
from tests.comparing import made


@pytest.fixture
def folder(tmp_path):
    """A run: 10 FLOPs a step for learning; 5 were the warm start's, 100 are each evaluation's. One could not judge."""
    rows = [
        {"step": step, "flops": 5 + 10 * step + 100 * (step // 2 + 1), "rollouts": 8 * step, "wall_seconds": 2.0 * step}
        | {"verification/cpu_seconds": 0.0}
        | {"flops/phase/warm_start": 5, "flops/phase/evaluation": 100 * (step // 2 + 1)}
        | ({} if step == 3 else {"eval/accuracy": accuracy})
        for step, accuracy in enumerate([0.2, None, 0.6, None, 0.7])
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "summary.json").write_text(json.dumps(made.run(0, {0: 0.2, 4: 0.7}).summary))
    (tmp_path / "ledger.json").write_text(json.dumps(made.ledger()))
    return tmp_path


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        ("accuracy_after", 0.7),
        ("price.per_point.flops", 1e9),
        ("price.gain", None),
        ("compute.executed.by_phase.decode", 2e9),
        ("accuracy_at_0_flops", 0.2),
        ("accuracy_at_10_flops", 0.4),
        ("accuracy_at_2e1_flops", 0.6),
        ("accuracy_at_30_flops", 0.65),
        ("accuracy_at_40_flops", 0.7),
        ("accuracy_at_41_flops", None),
        ("accuracy_at_8_rollouts", 0.4),
        ("accuracy_at_6.0_wall_seconds", 0.65),
    ],
)
def test_it_is_read_from_the_runs_files(folder, objective, value):
    assert measure(folder, objective) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("objective", "line"),
    [
        ("acuracy_after", "no number of summary.json or ledger.json; nearest: accuracy_after"),
        ("algo", "no number of summary.json or ledger.json"),
        ("accuracy_at_3_fops", "no column of metrics.jsonl; nearest: flops"),
    ],
)
def test_a_name_that_no_run_has_is_one_line(folder, objective, line):
    with pytest.raises(ConfigError) as raised:
        measure(folder, objective)
    assert str(raised.value).startswith(f"hydra.sweeper.objective={objective}: {line}")
