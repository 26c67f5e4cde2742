"""The policy of a run, used afterwards: evaluated, sampled from, as a start, as a teacher."""

import json
import shutil
import subprocess

import pytest

from rlbench.models.trained import TrainedPolicy
from tests import forked
from tests.cli.test_cli import TINY, command, settings

WORDS = [*TINY, "checkpoint.keep=1", "warm_start.steps=60", "evaluation.samples=4", "evaluation.pass_at=[1,4]"]


@pytest.fixture(scope="module")
def source(cache, tmp_path_factory):
    """The folder of a run that is over."""
    root = tmp_path_factory.mktemp("source")
    done = forked.run(*command(cache, *WORDS, "hydra.run.dir=run")[2:], **settings(root))
    assert done.returncode == 0, done.stderr
    return root / "run"


@pytest.fixture
def trained(source, tmp_path):
    """A copy of it."""
    return shutil.copytree(source, tmp_path / "run")


@pytest.fixture
def rlbench(cache, tmp_path):
    return lambda *words: forked.run(*command(cache, *words)[2:], **settings(tmp_path))


@pytest.fixture
def tool(tmp_path):
    return lambda name, *words: forked.run(f"rlbench.afterwards.{name}", *words, **settings(tmp_path))


def evaluations(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_it_is_evaluated_as_the_run_itself_did(trained, tool):
    done = tool("evaluate", trained)
    assert done.returncode == 0, done.stderr
    (line,), last = evaluations(trained), rows(trained)[-1]
    metrics = {name: value for name, value in last.items() if name.startswith("eval/")}
    assert {name: line[name] for name in line if name.startswith("eval/")} == metrics
    assert "eval/majority@4" in metrics and line["step"] == last["step"] == 3 and line["words"] == []
    kept = [json.loads(text) for text in (trained / "trajectories.jsonl").read_text().splitlines()]
    assert line["trajectories"] == [
        {name: one[name] for name in one if name != "step"} for one in kept if one["step"] == 3
    ]
    assert "majority@4" in done.stdout


def test_on_other_problems_with_other_numbers_of_samples(trained, tool):
    words = ["task.digits=2", "evaluation.problems=20", "evaluation.samples=8", "evaluation.pass_at=[8]"]
    assert tool("evaluate", "--best", trained, *words).returncode == 0
    (line,) = evaluations(trained)
    assert line["eval/problems"] == 20 and {"eval/pass@8", "eval/majority@8"} < line.keys() and line["words"] == words
    before = {path.name for path in trained.iterdir()}
    assert tool("evaluate", trained).returncode == 0 and {path.name for path in trained.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["model.width=32"], "a run whose parameters have the shapes of this model's"),
        (["task.digit=2"], "task.digit=2: no such key"),
        (["tokenizer.alphabet='0123456789+-=a'"], "a run with the same tokenizer as this one"),
    ],
)
def test_what_does_not_fit_is_one_line(trained, tool, words, line):
    done = tool("evaluate", trained, *words)
    assert done.returncode == 2 and line in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_a_run_is_one_line(tmp_path, trained, tool):
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = tool("evaluate", folder)
        assert done.returncode == 2 and "the folder of a run" in done.stderr and done.stderr.count("\n") == 1
    shutil.rmtree(trained / "checkpoints")
    done = tool("evaluate", trained)
    assert done.returncode == 2 and "with a checkpoint (there is none)" in done.stderr


def test_nothing_is_unpickled_to_use_a_policy(trained, monkeypatch):
    """Or a folder of somebody else's could run what it likes."""
    monkeypatch.setattr("rlbench.checkpoint.Opener", None)
    monkeypatch.setattr("pickle.Unpickler", None)
    monkeypatch.setattr("pickle.loads", None)
    assert TrainedPolicy.of(trained).step == 3


def test_completions_to_typed_prompts_have_verdicts(trained, cache, tmp_path):
    words = [*command(cache)[:1], "-m", "rlbench.afterwards.sample", str(trained), "--completions", "3"]
    typed = "1+2=\n\n1+x=\n1+2+3+4+5=\n"
    done = subprocess.run(words, **settings(tmp_path), input=typed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["greedy", "sampled", "sampled"]
    assert all(line.split()[-2] in ("passed", "wrong") for line in lines[:3])
    assert lines[3].endswith("=") and lines[4].split()[0] == "greedy"
    assert all(line.endswith("no problem of the task: not judged") for line in lines[7:10])
    assert lines[10] == "  10 tokens; the task's prompts have at most 4" and len(lines) == 11


def test_a_run_starts_from_it(trained, rlbench, tmp_path):
    done = rlbench(*WORDS, f"start.from={trained}", "seed=3", "algo=ppo", "hydra.run.dir=next")
    assert done.returncode == 0, done.stderr
    before, after = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "next", trained))
    assert before["accuracy_before"] == after["accuracy_after"]
    first, last = rows(tmp_path / "next")[0], rows(trained)[-1]
    assert first["eval/accuracy"] == last["eval/accuracy"] and "flops/phase/warm_start" not in first


def test_a_start_that_does_not_fit_is_one_line(trained, rlbench, tmp_path):
    for words, line in (
        ([f"start.from={trained}", "model.width=32"], "a run whose parameters have the shapes"),
        ([f"start.from={tmp_path}"], "the folder of a run with a checkpoint (there is none)"),
    ):
        done = rlbench(*WORDS, *words)
        assert done.returncode == 2 and "rlbench: start.from=" in done.stderr and line in done.stderr


def test_a_teacher_is_a_run_of_any_size(trained, rlbench, tmp_path):
    """The KL to it falls; its parameters are held, and counted as a network of their own."""
    student = ["model.width=8", "model.hidden=8", "warm_start.steps=0", "steps=30", "optimizer=muon"]
    words = ["algo=opd", f"algo.teacher={trained}", "batch.rollouts=64", "optimizer.learning_rate=1e-2"]
    done = rlbench(*WORDS, *student, *words, "hydra.run.dir=student")
    assert done.returncode == 0, done.stderr
    lines = rows(tmp_path / "student")
    assert lines[-1]["teacher_kl"] < 0.7 * lines[1]["teacher_kl"]
    ledger, source = (json.loads((folder / "ledger.json").read_text()) for folder in (tmp_path / "student", trained))
    networks = ledger["memory"]["components"]
    assert networks["teacher"]["parameters"] == source["memory"]["components"]["policy"]["parameters"]
    assert networks["policy"]["parameters"] < networks["teacher"]["parameters"]
    assert ledger["compute"]["executed"]["by_component"]["teacher"] > 0


def test_a_teacher_that_is_none_is_one_line(rlbench, tmp_path):
    done = rlbench(*WORDS, "algo=opd", f"algo.teacher={tmp_path}")
    assert done.returncode == 2 and "rlbench: algo.teacher=" in done.stderr and done.stderr.count("\n") == 1
