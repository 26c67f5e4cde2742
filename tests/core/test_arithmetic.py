"""The task of arithmetic: its splits, its parser, its credit."""

import itertools
import math

import pytest

from rlbench.plugins import build
from rlbench.types import ConfigError

OPERATIONS = ["add", "subtract", "multiply", "square_root"]


def arithmetic(operations=("add",), digits=2, partial_credit=False):
    node = {"_target_": "rlbench.tasks.arithmetic.Arithmetic"}
    return build(node | {"operations": list(operations), "digits": digits, "partial_credit": partial_credit}, "task")


@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_splits_share_no_problem(operation, digits):
    """Every operand pair there is: its split depends on nothing but the problem, and not on the order of a sum."""
    from rlbench.tasks.arithmetic import ask, content, held_out

    sides: dict[bool, set] = {True: set(), False: set()}
    for a, b in itertools.product(range(10**digits), repeat=2):
        symmetric = operation in ("add", "multiply")
        sides[held_out(content(operation, a, b))].add(frozenset((a, b)) if symmetric else ask(operation, a, b))
    assert sides[True].isdisjoint(sides[False])
    share = len(sides[True]) / sum(map(len, sides.values()))
    assert 0.05 < share < 0.35, "about one in five is held out"


@pytest.mark.parametrize("operations", [*([name] for name in OPERATIONS), OPERATIONS])
def test_drawn_problems_are_on_their_side(operations):
    task = arithmetic(operations, digits=1)
    train = {task.problem(seed, "train").prompt for seed in range(500)}
    heldout = {task.problem(seed, "heldout").prompt for seed in range(500)}
    assert train and heldout and train.isdisjoint(heldout)


@pytest.mark.parametrize(
    ("operation", "compute"),
    [
        ("add", lambda prompt: sum(map(int, prompt[:-1].split("+")))),
        ("subtract", lambda prompt: int(prompt[:-1].split("-")[0]) - int(prompt[:-1].split("-")[1])),
        ("multiply", lambda prompt: math.prod(map(int, prompt[:-1].split("*")))),
        ("square_root", lambda prompt: math.isqrt(int(prompt.removeprefix("the square root of ")[:-1]))),
    ],
)
def test_answers_are_right(operation, compute):
    task = arithmetic([operation])
    for seed in range(200):
        problem = task.problem(seed, "train")
        assert int(task.solution(problem.state)) == compute(problem.prompt)


def test_operations_are_mixed():
    prompts = [arithmetic(OPERATIONS).problem(seed, "train").prompt for seed in range(100)]
    for mark in "+-*t":
        assert 10 < sum(mark in prompt for prompt in prompts) < 45


@pytest.mark.parametrize(
    "completion", ["12", " 12", "12 ", "+12", "012", "12.0", "12=12", "6+6", "١٢", "1 2", "", "-12", "=12"]
)
def test_only_the_number_itself_is_right(completion):
    assert arithmetic().step("12", completion).reward == (1.0 if completion == "12" else 0.0)


def test_zero_has_no_sign():
    assert arithmetic().step("0", "-0").reward == 0
    assert arithmetic().step("0", "0").reward == 1


@pytest.mark.parametrize(
    ("completion", "reward"),
    [("123", 1.0), ("124", 1 / 3), ("193", 1 / 6), ("923", 0.0), ("12", 0.0), ("1234", 0.0), ("12a", 0.0)],
)
def test_partial_credit_is_for_leading_digits_of_the_right_length(completion, reward):
    assert arithmetic(partial_credit=True).step("123", completion).reward == pytest.approx(reward)
    assert arithmetic().step("123", completion).reward == (1.0 if completion == "123" else 0.0)


def test_no_operation_is_an_error():
    with pytest.raises(ConfigError, match=r"task\.operations"):
        arithmetic([])
