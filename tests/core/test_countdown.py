"""Countdown: what an expression is worth, which numbers it may use, and what is no expression."""

from fractions import Fraction

import pytest
from rlbench.tasks.countdown import worth

from rlbench.plugins import build
from rlbench.types import ConfigError, Status


def countdown(numbers=3, largest=9, largest_target=99):
    sizes = {"numbers": numbers, "largest": largest, "largest_target": largest_target}
    return build({"_target_": "rlbench.tasks.countdown.Countdown", **sizes}, "task")


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7), ("8-3-2", 3), ("8-(3-2)", 7), ("2+3*4", 14), ("(2+3)*4", 20), ("8/4/2", 1), ("8/(4/2)", 4),
        ("7/2", Fraction(7, 2)), ("((7))", 7), ("10*10", 100), ("3-8", -5),
    ],
)  # fmt: skip
def test_an_expression_is_worth_what_arithmetic_says(expression, value):
    assert worth(expression) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "+", "-3", "3+", "(3", "3)", "()", "(3+)", "3 3", "3**2", "3//2", "7/0", "7/(2-2)", "0", "03", "3 +4",
        "3+4\n", "x", "1e9", "\u0663", "3.0", "3(4)",
    ],
)  # fmt: skip
def test_anything_else_is_worth_nothing(text):
    assert worth(text) is None


@pytest.mark.parametrize(
    ("completion", "solved"),
    [
        ("3*5+7", True), ("7+5*3", True), ("7+(3*5)", True), ("15+7", False), ("3*5+6", False), ("7*3+5-5+1", False),
        ("3*5+7=22", False), ("22", False), ("5+5+5+7", False), ("(((3*5+7)))", False), ("(" * 100_000, False),
        ("9" * 100_000, False),
    ],
)  # fmt: skip
def test_each_number_may_be_used_once(completion, solved):
    step = countdown().step(((3, 5, 7), 22, "3*5+7"), completion)
    assert (step.reward, step.status) == (float(solved), Status.PASSED if solved else Status.WRONG)


def test_a_number_that_is_there_twice_may_be_used_twice():
    task = countdown()
    assert task.step(((2, 3, 3), 9, "3*3"), "3*3").reward == 1
    assert task.step(((2, 3, 4), 9, "3*3"), "3*3").reward == 0


def test_not_every_number_has_to_be_used():
    assert countdown().step(((2, 3, 5), 15, "3*5"), "3*5").reward == 1


@pytest.mark.parametrize("sizes", [(2, 9, 9), (3, 9, 99), (6, 100, 999), (8, 9, 9)])
def test_every_size_has_problems_that_its_solutions_solve(sizes):
    task = countdown(*sizes)
    for split in ("train", "heldout"):
        for problem in (task.problem(seed, split) for seed in range(50)):
            assert len(problem.prompt) <= task.bounds.prompt
            assert len(solution := task.solution(problem.state)) <= task.bounds.completion
            assert task.step(problem.state, solution).reward == 1


def test_sizes_that_leave_a_split_without_problems_are_refused():
    for sizes, key in (((1, 9, 9), "numbers"), ((3, 2, 99), "largest"), ((3, 9, 1), "largest_target")):
        with pytest.raises(ConfigError, match=rf"task\.{key}="):
            countdown(*sizes)
