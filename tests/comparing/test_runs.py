"""Runs on disk: what is read, what is skipped, and which are seeds of one another."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from rlbench.accounting import SCHEMA
from rlbench.comparing.curves import AXES, accuracy, band
from rlbench.comparing.groups import beside_others, commands, comparisons, sandboxes
from rlbench.comparing.report import mean_of
from rlbench.comparing.runs import load
from rlbench.comparing.table import show_tables

from . import made


def torn(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])


def older(name: str):
    def harm(folder: Path) -> None:
        path = folder / name
        path.write_text(path.read_text().replace(f'"schema": {SCHEMA}', '"schema": 0'))

    return harm


def still_running(folder: Path) -> None:
    (folder / "summary.json").unlink()
    torn(folder)


def interrupted(folder: Path) -> None:
    path = folder / "summary.json"
    path.write_text(path.read_text().replace("finished", "interrupted"))


def broken(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (torn, "metrics.jsonl: the last line is torn"),
        *(
            (older(name), f"{name}: written by another version of rlbench (schema 0, not {SCHEMA})")
            for name in ("summary.json", "ledger.json")
        ),
        (still_running, "no summary.json"),
        (interrupted, "interrupted: no error is known"),
        *(
            (lambda folder, name=name: (folder / name).unlink(), f"no {name}")
            for name in ("config.yaml", "ledger.json")
        ),
        (lambda folder: (folder / "metrics.jsonl").unlink(), "no metrics.jsonl"),
        (broken("summary.json", b"{"), "summary.json: no JSON: EOF while parsing"),
        (broken("config.yaml", b"a: [\n"), "config.yaml: no YAML: while parsing"),
        (broken("ledger.json", b"[]"), "ledger.json: input should be a valid dictionary"),
        (broken("summary.json", b"\xff\xfe"), "summary.json:"),
        (broken("metrics.jsonl", b"\n"), "metrics.jsonl: line 1: no JSON"),
        (broken("metrics.jsonl", b"[1]\n"), "metrics.jsonl: line 1: input should be a valid dictionary"),
        (broken("metrics.jsonl", b'{"step": 0}\n'), "metrics.jsonl: line 1: no rollouts, flops, wall_seconds"),
        (broken("ledger.json", json.dumps({"schema": SCHEMA}).encode()), "ledger.json: no compute, memory"),
        (broken("metrics.jsonl", b""), "metrics.jsonl: "),
    ],
)
def test_a_run_that_is_not_whole_is_skipped_with_its_reason_and_harms_no_other(tmp_path, harm, reason):
    harm(made.write(made.run(0), tmp_path / "0"))
    made.write(made.run(1), tmp_path / "1")
    runs, skipped = load([tmp_path])
    assert [run.summary["seed"] for run in runs] == [1]
    assert [one.folder.name for one in skipped] == ["0"] and reason in skipped[0].reason


def test_folders_that_overlap_give_each_run_once(tmp_path):
    for seed in range(11):
        made.write(made.run(seed), tmp_path / str(seed))
    runs, skipped = load([tmp_path, tmp_path / "3"])
    assert [run.folder.name for run in runs] == [str(number) for number in range(11)] and not skipped


def test_what_a_tracker_leaves_beside_a_run_is_no_run(tmp_path):
    made.write(made.run(0), tmp_path / "0")
    files = tmp_path / "0" / "wandb" / "offline-run" / "files"
    files.mkdir(parents=True)
    (files / "config.yaml").write_text("a: 1\n")
    runs, skipped = load([tmp_path])
    assert len(runs) == 1 and not skipped


def test_a_run_that_never_started_is_reported(tmp_path):
    folder = made.write(made.run(0), tmp_path / "0")
    for name in ("metrics.jsonl", "summary.json", "ledger.json"):
        (folder / name).unlink()
    assert [one.reason for one in load([tmp_path])[1]] == ["no summary.json"]


def test_every_evaluation_is_read_of_a_run_of_which_not_every_line_is(tmp_path):
    evaluated = {step: step / 1e4 for step in (0, 7, 501, 502, 5000)}
    made.write(made.run(0, evaluated), tmp_path / "0")
    ((run,), _) = load([tmp_path])
    assert [row["step"] for row in run.evaluations] == list(evaluated)
    assert len(run.rows) < 200


def test_an_evaluation_that_measured_nothing_is_none(tmp_path):
    made.write(made.run(0, {0: 0.5, 5: None, 10: 0.7}), tmp_path / "0")
    ((run,), _) = load([tmp_path])
    assert accuracy(run, AXES["rollouts"]).at(np.array(500)) == pytest.approx(60)


def test_a_run_whose_end_was_not_measured_is_listed_and_sets_no_budget_for_others(tmp_path):
    made.write(made.run(0, {0: 0.5, 5: 0.6, 10: None}), tmp_path / "0")
    made.write(made.run(1), tmp_path / "1")
    ((run,), (skipped,)) = load([tmp_path])
    assert run.summary["seed"] == 1
    assert skipped.reason == "accuracy at step 10 was not measured: every verdict was an infrastructure fault"


def test_a_table_shows_accuracy_that_was_not_measured_as_none(tmp_path, capsys):
    made.write(made.run(0, {0: None, 10: None}), tmp_path / "0")
    show_tables([tmp_path])
    assert "0.000" not in capsys.readouterr().out


def test_runs_that_differ_in_the_seed_and_where_things_lie_are_one_group():
    ((comparison,), _) = comparisons([made.run(0), made.run(1, cache="/elsewhere", trials=20, tracker__terminal__a=1)])
    assert [(group.label, len(group.runs)) for group in comparison.groups] == [("first", 2)]


def test_whatever_else_differs_makes_a_group_and_is_its_name():
    settings = [{}, {"algo__group_size": 4}, {"algo__group_size": 4, "steps": 20}]
    runs = [made.run(0, **words) for words in settings] + [made.run(0, algo="second")]
    ((comparison,), _) = comparisons(runs)
    assert [group.label for group in comparison.groups] == [
        "first group_size=8 steps=10", "first group_size=4 steps=10", "first group_size=4 steps=20", "second",
    ]  # fmt: skip


@pytest.mark.parametrize("other", [{"task": "taking"}, {"task__digits": 3}, {"evaluation__problems": 8}])
def test_different_tasks_are_different_comparisons(other):
    asked, _ = comparisons([made.run(0), made.run(0, **other)])
    assert [len(comparison.groups) for comparison in asked] == [1, 1]
    assert asked[0].title != asked[1].title


def test_a_seed_that_was_run_twice_counts_once():
    first, again = made.run(0, folder=Path("a")), made.run(0, folder=Path("b"))
    ((comparison,), skipped) = comparisons([first, again])
    assert comparison.groups[0].runs == [again]
    assert [(one.folder.name, "run again" in one.reason) for one in skipped] == [("a", True)]


@pytest.mark.parametrize("key", ["warm_start__seed", "algo__seed", "algo__dropout_seed"])
def test_runs_that_differ_in_any_seed_are_all_evidence(key):
    runs = [made.run(0, **{key: seed}) for seed in range(3)]
    ((comparison,), skipped) = comparisons(runs)
    assert [len(group.runs) for group in comparison.groups] == [3] and not skipped
    again, skipped = comparisons([*runs, made.run(0, **{key: 2})])
    assert [len(group.runs) for group in again[0].groups] == [3] and len(skipped) == 1


def test_a_key_that_only_ends_like_a_seed_makes_a_group():
    ((comparison,), _) = comparisons([made.run(0, algo__reseed=1), made.run(0, algo__reseed=2)])
    assert [group.label for group in comparison.groups] == ["first reseed=1", "first reseed=2"]


def test_seconds_of_runs_that_shared_a_process_are_said_to_be_no_costs():
    runs = [made.run(seed, folder=Path(f"runs/{seed}")) for seed in range(3)]
    assert beside_others(runs) == []
    for one in runs[1:]:
        one.ledger["time"]["devices"]["waiting_for_other_runs"] = 2.0
    (line,) = beside_others(runs)
    assert line.startswith("seconds are no costs of these") and line.endswith(": runs/1, runs/2")


def test_runs_that_different_sandboxes_judged_are_not_compared():
    runs = [made.run(seed, sandbox=one, folder=Path(f"{one}-{seed}")) for one in ("fork", "monty") for seed in range(2)]
    asked, skipped = comparisons(runs)
    assert [comparison.title for comparison in asked] == ["adding sandbox=fork", "adding sandbox=monty"] and not skipped
    assert [len(group.runs) for comparison in asked for group in comparison.groups] == [2, 2]
    assert sandboxes(runs) == [
        "adding: not compared with each other, since different sandboxes judged them: "
        "fork: fork-0, fork-1; monty: monty-0, monty-1"
    ]
    assert sandboxes(runs[:2]) == [] and comparisons(runs[:2])[0][0].title == "adding"


def test_of_many_runs_some_are_named():
    runs = [made.run(seed, sandbox=one) for one in ("fork", "unsafe") for seed in range(50)]
    (line,) = sandboxes(runs)
    assert line.count("nowhere") == 10 and line.count("45 more") == 2


def test_settings_say_what_they_were_chosen_from():
    ((comparison,), _) = comparisons(
        [made.run(0, algo="a"), made.run(0, algo="b", trials=20), made.run(0, algo="c", trials=0)]
    )
    assert [group.tuning for group in comparison.groups] == ["untuned", "best of 20 trials", "untuned"]


def test_the_command_that_repeats_a_group_names_its_seeds_and_quotes():
    runs = [made.run(seed) for seed in (0, 1)] + [made.run(2)._replace(words=["a=[1,2]", "seed=2"])]
    runs.append(made.run(3)._replace(words=None))
    ((comparison,), _) = comparisons(runs)
    assert commands(comparison.groups[0]) == [
        "# nowhere: the words of its command line were not kept",
        "rlbench -m algo=first seed=0,1",
        "rlbench 'a=[1,2]' seed=2",
    ]


def test_accuracy_is_interpolated_and_never_extrapolated():
    points = accuracy(made.run(0, {0: 0.0, 10: 0.5}), AXES["rollouts"])
    assert points.at(np.array([0, 500, 1000])).tolist() == [0, 25, 50]
    assert np.isnan(points.at(np.array(1001))) and np.isnan(points.at(np.array(-1)))


def test_a_run_that_diverged_has_no_accuracy_after_its_last_evaluation():
    points = accuracy(made.run(0, {0: 0.2, 5: 0.3}, status="diverged"), AXES["rollouts"])
    assert points.at(np.array([500, 501])).tolist() == [30, 0]


def test_flops_are_without_the_warm_start():
    assert AXES["flops"].of(made.rows({0: 0, 3: 1})[-1]) == 3e6


def test_a_band_is_the_mean_where_all_seeds_were_measured():
    seeds = [accuracy(made.run(0, {0: 0.0, end: end / 10}), AXES["rollouts"]) for end in (5, 10)]
    drawn = band([seeds[0], seeds[1]._replace(y=seeds[1].y + 10)], 0.05)
    assert drawn.x[0] == 0 and drawn.x[-1] == 500
    assert (drawn.mean[0], drawn.low[0], drawn.high[0]) == (5, 0, 10)


def test_the_mean_of_ledgers_is_taken_number_by_number():
    ours = {"a": 1, "b": {"c": 1.0, "only": 4}, "name": "x", "nothing": None}
    theirs = {"a": 3, "b": {"c": 2.0}, "name": "x", "nothing": None}
    assert mean_of([ours, theirs]) == {"a": 2, "b": {"c": 1.5, "only": 2}, "name": "x", "nothing": None}


@pytest.mark.slow
def test_500_runs_of_1000_steps_load_and_render_in_20_seconds(tmp_path):
    from rlbench.comparing.command import compare, parser, write

    body = {f"a metric with a name of usual length {number}": number / 7 for number in range(40)}
    for number in range(500):
        run = made.run(number // 10, algo__group_size=2 ** (number % 10))._replace(rows=[])
        folder = made.write(run, tmp_path / "runs" / str(number))
        metrics = tmp_path / f"metrics-{number % 10}"
        if not metrics.exists():
            rows = made.rows(dict.fromkeys(range(0, 1001, 50), number / 20))
            metrics.write_text("".join(json.dumps(row | body) + "\n" for row in rows))
        (folder / "metrics.jsonl").unlink()
        os.symlink(metrics, folder / "metrics.jsonl")  # they are read 500 times, and written ten
    began = time.process_time()  # the wall's, where a core is free: it is one thread
    report = compare(parser().parse_args([str(tmp_path / "runs")]))
    write(report, tmp_path / "out", ["html"])
    assert time.process_time() - began < 20
    assert sum(len(group.runs) for part in report.parts for group in part.comparison.groups) == 500
