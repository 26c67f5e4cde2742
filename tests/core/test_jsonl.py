"""Prompts and answers from files: what is compared how, which line is bad, and which problem is in which split."""

import gzip
import json

import pytest

from rlbench.plugins import build
from rlbench.types import ConfigError, Status

GSM8K = {
    "question": "Natalia sold 48 clips in April, and half as many in May. How many did she sell?",
    "answer": "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72.\n#### 72",
}


def jsonl(path=None, heldout_path=None, heldout=0.5, comparison="number", suffix="\n"):
    given = {"path": path, "heldout_path": heldout_path, "heldout": heldout, "comparison": comparison, "suffix": suffix}
    return build({"_target_": "rlbench.tasks.jsonl.Jsonl", **given}, "task")


def rows(first, end):
    return [{"prompt": f"the number after {n}", "answer": str(n + 1)} for n in range(first, end)]


@pytest.fixture
def file(tmp_path):
    """Writes lines, and returns where."""

    def write(lines, name="problems.jsonl"):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return str(tmp_path / name)

    return write


@pytest.fixture
def reward(file):
    """Compares a completion with an answer, and returns what it earns."""

    def judge(comparison, answer, completion):
        path = file([{"prompt": letter, "answer": answer} for letter in "abcdefgh"])
        task = jsonl(path, comparison=comparison)
        step = task.step(task.problem(0, "train").state, completion)
        assert step.status == (Status.PASSED if step.reward == 1 else Status.WRONG)
        return step.reward

    return judge


@pytest.mark.parametrize(
    "completion",
    [
        "1200", "1,200", "1200.0", "1,200.00", "$1,200", "+1200", "€+1200", " 1200\n", "1200 km", "1200%", "1200.",
        "1,200 dollars a year", "It is 3 more than 1197.\n#### 1200", "#### 1 #### 1,200", "####1200",
    ],
)  # fmt: skip
def test_a_number_is_the_same_however_it_is_written(reward, completion):
    assert reward("number", "600*2=1200\n#### 1,200", completion) == 1


@pytest.mark.parametrize(
    "completion",
    [
        "", "1201", "-1200", "12,00", "1,2,0,0", "1200 or 1201", "600*2", "1.2e3", "1e3", "about 1200", "1200/1", "nan",
        "1200 #### 7", "#### ", "\u0661\u0662\u0660\u0660", "--1200", "0x4b0", "9" * 100_000, ",200",
        "__import__('os')",
    ],
)  # fmt: skip
def test_any_other_number_is_wrong_and_so_is_a_sum(reward, completion):
    assert reward("number", "1200", completion) == 0


def test_decimals_are_exact_and_signs_count(reward):
    assert reward("number", "-0.1", "-$0.10") == reward("number", "-0.1", "$-0.10") == 1
    assert reward("number", "0.1", "0.1000000000000000001") == 0


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("The Nile", 1.0), ("  the \n nile. ", 1.0), ("\uff34he Nile", 1.0), ("So it is:\n#### the nile", 1.0),
        ("Nile", 0.0), ("the nile!", 0.0), ("the nile or the Amazon", 0.0), ("", 0.0), (".", 0.0),
    ],
)  # fmt: skip
def test_a_text_is_the_same_apart_from_spelling(reward, completion, right):
    assert reward("text", "The Nile", completion) == right


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("B", 1.0), ("b", 1.0), ("(B)", 1.0), ("B.", 1.0), ("B)", 1.0), (" B: ", 1.0), ("not A\n#### B", 1.0),
        ("A", 0.0), ("AB", 0.0), ("B or C", 0.0), ("", 0.0), ("2", 0.0), ("\u0392", 0.0),
    ],
)  # fmt: skip
def test_a_choice_is_one_letter(reward, completion, right):
    assert reward("choice", "(b)", completion) == right


@pytest.mark.parametrize("name", ["problems.jsonl", "problems.jsonl.gz"])
def test_every_problem_of_a_file_is_in_one_split(file, name):
    task = jsonl(file(rows(0, 40), name))
    train, heldout = ({task.problem(seed, split).prompt for seed in range(100)} for split in ("train", "heldout"))
    assert len(train | heldout) == 40 and train.isdisjoint(heldout)
    assert 10 < len(heldout) < 30


def test_prompts_that_differ_in_spelling_alone_are_one_problem(file):
    task = jsonl(file([*rows(0, 20), *({**row, "prompt": row["prompt"].upper() + " "} for row in rows(0, 20))]))
    assert sum(len({task.problem(seed, split).key for seed in range(100)}) for split in ("train", "heldout")) == 20
    assert sum(len({task.problem(seed, split).prompt for seed in range(100)}) for split in ("train", "heldout")) == 20


def test_a_second_file_is_what_is_held_out(file):
    task = jsonl(file(rows(0, 10)), file(rows(10, 15), "other.jsonl"), heldout=0.0)
    assert len({task.problem(seed, "train").prompt for seed in range(50)}) == 10
    assert {task.problem(seed, "heldout").state for seed in range(50)} == {"11", "12", "13", "14", "15"}
    with pytest.raises(ConfigError, match=r"task\.heldout_path=.*a prompt is in path, too: 'the number after 9"):
        jsonl(file(rows(0, 10)), file(rows(9, 15), "other.jsonl"))


def test_gsm8k_s_format(file):
    task = jsonl(file([GSM8K, *rows(0, 20)]))
    (problem,) = {p.key: p for s in range(50) for p in [task.problem(s, "train"), task.problem(s, "heldout")]
                  if "Natalia" in p.prompt}.values()  # fmt: skip
    assert problem.prompt == GSM8K["question"] + "\n"
    assert task.solution(problem.state) == GSM8K["answer"]
    for completion, right in ((GSM8K["answer"], 1), ("72", 1), ("72 clips", 1), ("24", 0), ("48+24", 0)):
        assert task.step(problem.state, completion).reward == right
    assert (task.bounds.prompt, task.bounds.completion) == (len(problem.prompt), len(GSM8K["answer"]))


def test_numbers_of_json_are_read_as_they_stand(file):
    task = jsonl(file([f'{{"prompt": "p{n}", "answer": 0.{n}00}}' for n in range(1, 9)]))
    assert task.problem(0, "train").state.endswith("00")


@pytest.mark.parametrize(
    ("line", "comparison", "why"),
    [
        ("not json", "number", "line 3: Expecting value"), ("[1]", "number", "line 3: has to be a JSON object"),
        ('{"prompt": "x"}', "number", 'line 3: has to hold texts "prompt"'),
        ('{"prompt": "", "answer": "1"}', "number", 'line 3: has to hold texts "prompt"'),
        ('{"prompt": "x", "answer": null}', "text", 'line 3: has to hold texts "prompt"'),
        ('{"prompt": "x", "answer": NaN}', "number", 'line 3: has to hold texts "prompt"'),
        ('{"prompt": "x", "answer": "many"}', "number", r"line 3: its answer is no number \(task.comparison\): 'many'"),
        ('{"prompt": "x", "answer": "1/2"}', "number", "line 3: its answer is no number"),
        ('{"prompt": "x", "answer": "5 #### "}', "text", "line 3: its answer is no text"),
        ('{"prompt": "x", "answer": "yes"}', "choice", "line 3: its answer is no choice"),
        ('{"prompt": "\\ud800", "answer": "1"}', "number", "line 3: .*surrogates not allowed"),
        ("[" * 100_000, "number", "line 3: "),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_its_number(file, line, comparison, why):
    good = {"prompt": "y", "answer": "1" if comparison == "number" else "a"}
    with pytest.raises(ConfigError, match=r"task\.path=.*problems\.jsonl: .*" + why):
        jsonl(file([good, "", line]), comparison=comparison)


def test_a_line_that_is_no_utf8_is_named(tmp_path):
    (tmp_path / "problems.jsonl").write_bytes(b'{"prompt": "y", "answer": "1"}\n{"prompt": "\xff", "answer": "1"}')
    with pytest.raises(ConfigError, match="line 2: 'utf-8' codec"):
        jsonl(str(tmp_path / "problems.jsonl"))


def test_a_file_that_is_none_is_named_by_its_key(file, tmp_path):
    with pytest.raises(ConfigError, match=r"task\.path=/nowhere\.jsonl: .*No such file"):
        jsonl("/nowhere.jsonl")
    with pytest.raises(ConfigError, match=r"task\.heldout_path=/nowhere\.jsonl: .*No such file"):
        jsonl(file(rows(0, 9)), "/nowhere.jsonl")
    with pytest.raises(ConfigError, match="it has none"):
        jsonl(file([""]))
    with pytest.raises(ConfigError, match=r"task\.heldout=0\.0: leaves no problem to the split 'heldout'"):
        jsonl(file(rows(0, 9)), heldout=0.0)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows(0, 99)).encode())[:-20])
    with pytest.raises(ConfigError, match=r"task\.path=.*cut"):
        jsonl(str(tmp_path / "cut.jsonl.gz"))
