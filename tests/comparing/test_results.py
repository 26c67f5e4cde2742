"""Pages of docs/results/ say what the runs of a sweep say."""

import sys
from itertools import product

import pytest

from benchmarks.results import PAGES, costs_table, main
from rlbench.comparing.groups import comparisons
from rlbench.comparing.markdown import tabular
from tests.comparing.made import run, write

SEEDS = 9


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Writes the page of runs, and returns it with its figure."""

    def made(name, runs):
        for number, one in enumerate(runs):
            write(one, tmp_path / "runs" / str(number))
        words = ["results", name, str(tmp_path / "runs"), "--out", str(tmp_path / "docs")]
        monkeypatch.setattr(sys, "argv", words)
        main()
        stem = tmp_path / "docs" / name.replace("_", "-")
        return stem.with_suffix(".md").read_text(), stem.with_suffix(".svg").read_text()

    return made


def runs_of(*ends, **config):
    """Algorithms by their name and how accurate each is at its end, but for the seed."""
    return [
        run(seed, {0: 0.1, 10: end + seed / 1000}, algo=algo, **config) for algo, end in ends for seed in range(SEEDS)
    ]


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.budgets])
def test_a_page_has_the_verdict_and_the_costs_of_each(page, name):
    text, figure = page(name, runs_of(("good", 0.9), ("bad", 0.3)))
    assert text.startswith(f"# {PAGES[name].title}\n")
    verdicts = [line for line in text.splitlines() if line.startswith("- good is better than bad")]
    assert len(verdicts) == len(PAGES[name].budgets), text
    assert "| good | 9 | 10.0 | 90.4 | 0.00 | 4.00 | 8.0 | 1,000 | 0.5 | 9.0 |" in text
    assert f"make results-{name.replace('_', '-')}" in text
    assert "<svg" in figure and "good" in figure


def test_accuracy_by_staleness_has_a_line_an_algorithm(page):
    runs = [
        one
        for staleness in (0, 8)
        for one in runs_of(("one", 0.9 - staleness / 20), ("other", 0.9), runner__max_staleness=staleness)
    ]
    text, figure = page("staleness", runs)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| o")]
    assert {(row[0], row[1]): row[4] for row in rows} == {
        ("one", "0"): "90.4",
        ("one", "8"): "50.4",
        ("other", "0"): "90.4",
        ("other", "8"): "90.4",
    }
    assert {row[2] for row in rows} == {"0.00"} and rows[0][5].startswith("90.")
    assert "one" in figure and "learner steps" in figure


def test_latency_has_a_line_an_algorithm_and_runner(page):
    def settings(seconds, staleness, swap):
        return {"task__latency__seconds": seconds, "runner__max_staleness": staleness, "runner__swap": swap}

    runs = []
    for seconds in (0, 0.2):
        for place in ((0, "drained"), (1, "drained"), (1, "chunk")):
            for one in runs_of(("first", 0.5), **settings(seconds, *place)):
                time = {"wall": 24.0, "evaluation": 3.0, "idle_fraction": 0.25}
                devices = {"actor_only": 7.0, "waiting_for_compilation": 1.0, "waiting_for_verification": 12.0}
                one.ledger["time"] |= time | {"devices": devices | {"waiting_for_drain": 0.0}}
                one.ledger["verification"]["cpu_seconds_per_device_second"] = 0.125
                runs.append(one)
    text, figure = page("environment_latency", runs)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| first")]
    assert {(row[1], row[2]) for row in rows} == {*product(("sync", "async", "inflight"), ("0", "0.2"))}
    assert {tuple(row[3:]) for row in rows} == {("9", "2.00", "50", "25", "0.125", "50.4")}
    assert "first inflight" in figure


def test_the_costs_leave_out_what_no_algorithm_is_charged():
    (asked,), _ = comparisons(runs_of(("good", 0.9)))
    for one in asked.groups[0].runs:
        one.rows[-1] |= {"flops": 8e12, "flops/phase/warm_start": 5e12, "flops/phase/evaluation": 1e12}
    assert "| good | 9 | 10.0 | 90.4 | 2.00 |" in tabular(costs_table(asked.groups))


@pytest.mark.parametrize("shared", [False, True])
def test_seconds_are_costs_unless_runs_shared_a_process(page, shared):
    runs = runs_of(("good", 0.9), ("bad", 0.3))
    for one in runs:
        one.ledger["time"]["devices"]["waiting_for_other_runs"] = float(shared)
    text, _ = page("budget", runs)
    assert shared == ("shared a process" in text) and shared != ("| wall (s) |" in text)


def test_a_folder_without_runs_ends_with_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["results", "budget", str(tmp_path), "--out", str(tmp_path / "docs")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and "no finished run" in capsys.readouterr().err
