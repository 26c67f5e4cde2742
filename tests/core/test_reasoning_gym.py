"""Data sets of reasoning-gym: which can be used, and that no scorer of those runs what a completion says."""

import contextlib
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlbench.plugins import build
from rlbench.types import ConfigError, Status

pytest.importorskip("reasoning_gym", reason="wants the extra reasoning")

from reasoning_gym.factory import CURRICULA, DATASETS
from rlbench.tasks.reasoning_gym import EVALUATES, REFUSED, SIZE, Source, dataset_of, entry_of, size_of

USED = sorted(set(DATASETS) - set(REFUSED))
SLOW = {"acre", "futoshiki", "quantum_lock", "sokoban", "zebra_puzzles"}  # take seconds
EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in USED]
EVALUATED = [name for name, why in REFUSED.items() if why.startswith(EVALUATES)]
SCAN = 24  # fewer than by default, to be fast
WITHOUT = {"boxnet", "graph_color", "propositional_logic", "rush_hour"}  # of the used, those that give no answers
DOCS = Path(__file__).parents[2] / "docs/tasks.md"
CANARY = "RLBENCH_CANARY"
RUN = f"__import__('os').environ.setdefault('{CANARY}','1')"
NASTY = (
    RUN,
    f"[{RUN}]",
    "1e999999999",
    "-1e-999999999/7",
    "9" * 5000,
    "(" * 5000,
    "[" * 5000,
    "R9999999 " * 9,
    "a\0\ud800",
)


def gym(name, level=None, config=None, scan=SCAN, most=None):
    given = {"name": name, "level": level, "config": config, "scan": scan, "max_prompt_characters": most}
    return build({"_target_": "rlbench.tasks.reasoning_gym.ReasoningGym", **given}, "task")


def problems(task, count):
    return [task.problem(seed, split) for split in ("train", "heldout") for seed in range(count)]


@pytest.mark.parametrize("name", EACH)
def test_its_answer_is_right_and_a_wrong_one_earns_less(name):
    task = gym(name)
    assert bool(task.solution) == (name not in WITHOUT)
    for problem in problems(task, 3):
        if task.solution:
            step = task.step(problem.state, task.solution(problem.state))
            assert (step.reward, step.status) == (1.0, Status.PASSED), problem.prompt
        for wrong in ("?", "the answer", "nan", "None", ""):
            step = task.step(problem.state, wrong)
            assert 0 <= step.reward < 1 and step.status == Status.WRONG, (wrong, problem.prompt)


@pytest.mark.parametrize("name", EACH)
def test_a_scorer_neither_runs_a_completion_nor_hangs(name, monkeypatch):
    monkeypatch.delenv(CANARY, raising=False)
    source = Source(name, None, "{}")
    for text in NASTY:
        began = time.thread_time()
        with contextlib.suppress(Exception):  # a step makes it a wrong completion
            dataset_of(source).score_answer(text, entry_of(source, 0))
        assert time.thread_time() - began < 2, text[:20]
    assert CANARY not in os.environ


@pytest.mark.parametrize("name", EVALUATED)
def test_a_data_set_is_refused_that_runs_a_completion(name, monkeypatch):
    """The reason holds: once it does not, the data set can be used."""
    monkeypatch.delenv(CANARY, raising=False)
    kind, config = DATASETS[name]
    dataset = kind(config=config(seed=0))
    for text in NASTY[:2]:
        dataset.score_answer(text, dataset[0])
    assert CANARY in os.environ
    with pytest.raises(ConfigError, match=rf"task\.name={name}: its scorer evaluates"):
        gym(name)


@pytest.mark.parametrize(("name", "wrong"), [("game_of_life_halting", "?"), ("complex_arithmetic", "nan")])
def test_a_data_set_is_refused_whose_scorer_takes_what_is_wrong(name, wrong):
    kind, config = DATASETS[name]
    dataset = kind(config=config(seed=0))
    assert any(dataset.score_answer(wrong, dataset[place]) == 1 for place in range(9))


def test_every_refused_data_set_is_one_of_the_package_and_in_the_docs():
    assert set(REFUSED) <= set(DATASETS)
    assert len(USED) == 86
    table = re.findall(r"^\| (`.*`) \| (.*) \|$", DOCS.read_text().partition("cannot be used:")[2], re.MULTILINE)
    assert {name: why for names, why in table for name in re.findall(r"`(\w+)`", names)} == REFUSED


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in USED if name in CURRICULA and name != "sokoban"][::8]
)  # all: minutes
def test_every_curriculum_has_a_first_level_and_ends(name):
    assert problems(gym(name, level=0), 1)
    attributes = CURRICULA[name]().attributes.values()
    levels = max(len(attribute.levels) for attribute in attributes)
    with pytest.raises(ConfigError, match=rf"task\.level={levels}: below {levels}"):
        gym(name, levels)


@pytest.mark.slow
@pytest.mark.parametrize(("names", "count"), [(sorted(set(USED) - SLOW), 40), (sorted(SLOW), 2)], ids=["fast", "slow"])
def test_every_data_set_gives_the_same_problems_in_another_process(names, count):
    code = (
        "import sys, hashlib; from rlbench.tasks.reasoning_gym import Source, entry_of\n"
        "for name in sys.argv[2:]:\n"
        "    entries = [entry_of(Source(name, None, '{}'), place) for place in range(int(sys.argv[1]))]\n"
        "    texts = ''.join(entry['question'] + str(entry['answer']) for entry in entries)\n"
        "    print(name, hashlib.md5(texts.encode()).hexdigest())\n"
    )
    ones, others = (
        subprocess.run(
            [sys.executable, "-c", code, str(count), *names],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    )  # fmt: skip
    assert len(ones) == len(names)
    assert ones == others


def test_partial_credit_is_passed_on():
    task = gym("spell_backward", config={"spell_backward": {"min_word_len": 4, "max_word_len": 4}})
    problem = task.problem(0, "train")
    right = task.solution(problem.state)
    step = task.step(problem.state, right[:3])
    assert (step.reward, step.status) == (0.75, Status.WRONG)


def test_what_a_scorer_raises_at_is_wrong_and_told():
    task = gym("prime_factorization")
    step = task.step(task.problem(0, "train").state, "x")
    assert (step.reward, step.status) == (0.0, Status.WRONG)
    assert step.detail.startswith("ValueError: invalid literal")


def test_a_completion_that_is_longer_than_the_longest_answer_is_wrong():
    task = gym("chain_sum")
    problem = task.problem(0, "train")
    right = task.solution(problem.state)
    assert task.step(problem.state, right.rjust(task.bounds.completion)).reward == 1, "its scorer allows for spaces"
    assert task.step(problem.state, right.rjust(task.bounds.completion + 1)).reward == 0


def test_levels_are_those_of_the_package():
    easy, hard = gym("chain_sum", level=0), gym("chain_sum", level=4)
    assert easy.bounds.prompt < hard.bounds.prompt
    with pytest.raises(ConfigError, match=r"task\.level=11: below 11: those are the levels of chain_sum"):
        gym("chain_sum", level=11)
    with pytest.raises(ConfigError, match=r"task\.level=0: null: acre has no levels"):
        gym("acre", level=0)


def test_a_level_that_the_data_set_itself_refuses_is_named():
    with pytest.raises(ConfigError, match=r"task\.level=2: the data set says: rotation must be in range"):
        gym("caesar_cipher", level=2)


def test_settings_go_before_levels():
    task = gym("chain_sum", level=4, config={"chain_sum": {"min_terms": 2, "max_terms": 2}})
    assert all(problem.prompt.count(" + ") + problem.prompt.count(" - ") == 1 for problem in problems(task, 20))


def test_two_data_sets_are_asked_equally_often():
    names = ["chain_sum", "spell_backward"]
    task = gym(names)
    asked = [task.problem(seed, split).state.source.name for split in ("train", "heldout") for seed in range(200)]
    assert 150 < asked.count("chain_sum") < 250 and set(asked) == set(names)
    assert task.bounds.prompt == max(gym(name).bounds.prompt for name in names)
    for problem in problems(task, 20):
        assert task.step(problem.state, task.solution(problem.state)).reward == 1


def test_without_answers_in_one_of_two_there_are_no_reference_solutions():
    assert gym(["chain_sum", "graph_color"]).solution is None


def test_longer_prompts_are_left_out():
    task = gym("letter_counting", scan=60, most=120)
    assert task.bounds.prompt <= 120 < gym("letter_counting", scan=60).bounds.prompt
    assert all(len(problem.prompt) <= 120 for problem in problems(task, 50))
    with pytest.raises(ConfigError, match="a split has no problem of at most 20 characters among the first 24"):
        gym("letter_counting", most=20)


def test_problems_beyond_what_was_scanned_are_left_out():
    """Of two scanned problems, bounds are tight: most others are longer, and none is asked."""
    task = gym("chain_sum", scan=9)
    assert all(len(problem.prompt) <= task.bounds.prompt for problem in problems(task, 100))
    assert all(task.bounds.alphabet.issuperset(problem.prompt) for problem in problems(task, 100))


def test_splits_share_no_prompt_though_they_share_numbers():
    task = gym("chain_sum", config={"chain_sum": {"max_terms": 2, "max_digits": 1}})
    train, heldout = ({task.problem(seed, split).prompt for seed in range(500)} for split in ("train", "heldout"))
    assert train.isdisjoint(heldout) and len(heldout) > 20


def test_a_data_set_that_is_made_as_a_whole_has_a_size():
    assert size_of(Source("gsm_symbolic", None, "{}")) == SIZE
    assert size_of(Source("chain_sum", None, "{}")) > 1 << 30


@pytest.mark.parametrize("name", ["arc_1d", "string_manipulation"])
def test_a_task_can_be_pickled_though_its_data_set_cannot(name):
    task = pickle.loads(pickle.dumps(gym(name)))
    problem = pickle.loads(pickle.dumps(task.problem(5, "heldout")))
    assert task.step(problem.state, task.solution(problem.state)).reward == 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": "chan_sum"}, r"task\.name=chan_sum: a data set of reasoning-gym; nearest: chain_sum"),
        ({"name": []}, r"task\.name=\[\]: a data set, or a list"),
        ({"name": ["lcm", "lcm"]}, r"task\.name=.*a list of different ones"),
        ({"name": "lcm", "config": {"gcd": {}}}, r"task\.config\.gcd=.*: not of a data set in task\.name"),
        ({"name": "lcm", "config": {"lcm": {"x": 1}}}, r"task\.config\.lcm=.*unexpected keyword argument 'x'"),
        ({"name": "lcm", "config": {"lcm": {"min_value": 0}}}, r"task\.config\.lcm=.*min_value must be"),
        ({"name": "composite"}, r"task\.name=composite: give task\.name a list"),
    ],
)
def test_it_is_told_what_is_wrong_with_a_config(given, why):
    with pytest.raises(ConfigError, match=why):
        gym(**given)


def test_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    dataset_of.cache_clear()
    with pytest.raises(ConfigError, match=r"task\.name=lcm: needs pip install 'rlbench\[reasoning\]'"):
        gym("lcm")
