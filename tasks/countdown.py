"""Countdown: "3 5 7=22:" is answered with "3*5+7". Reward 1 for an expression that is worth the target, else 0.

It has + - * / and parentheses, and some of the numbers, none more often than it is there. Fractions are exact.
The parser below judges it: no Python is run. What is longer than an expression needs to be is wrong.
"""

import itertools
import operator
import re
from collections import Counter
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from rlbench.hashing import drawn, number_of
from rlbench.types import Bounds, Problem, Status, Step

HELDOUT = 5  # one problem in so many is held out
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
LEVELS = ("+-", "*/")  # the second binds tighter
State = tuple[tuple[int, ...], int, str]  # the numbers, the target, and an expression that solves it
Operands = Annotated[int, Field(ge=2, le=8)]
Large = Annotated[int, Field(ge=9)]  # with less, a split might have no problem


class Countdown:
    """Random numbers and a target. A hash of the sorted numbers and the target says which split they are in."""

    def __init__(self, *, numbers: Operands, largest: Large, largest_target: Large):
        self.numbers, self.largest, self.targets = numbers, largest, range(1, largest_target + 1)
        room = numbers * (len(str(largest)) + 1)  # for the numbers, and a sign after each
        bounds = room + len(f"{largest_target}:"), room - 1 + 2 * (numbers - 2)
        self.bounds = Bounds(frozenset("0123456789+-*/() =:"), *bounds)

    def problem(self, seed: int, split: str) -> Problem:
        for attempt in itertools.count():
            values = drawn(f"{split} {seed} {attempt}", *[self.largest] * self.numbers, *[4] * self.numbers)
            numbers, signs = [1 + x for x in values[: self.numbers]], ["+-*/"[x] for x in values[self.numbers :]]
            solution = str(numbers[0])
            for before, sign, number in zip(["*", *signs], signs, numbers[1:]):
                loose = before in "+-" and sign in "*/"
                solution = f"({solution}){sign}{number}" if loose else f"{solution}{sign}{number}"
            target = worth(solution)
            prompt = f"{' '.join(map(str, sorted(numbers)))}={target}:"
            if target and target in self.targets and (number_of(prompt) % HELDOUT == 0) == (split == "heldout"):
                return Problem(prompt, (tuple(numbers), int(target), solution))
        raise AssertionError  # one attempt or another is of the split

    def step(self, state: State, completion: str) -> Step:
        right = len(completion) <= self.bounds.completion and worth(completion) == state[1]
        right = right and Counter(map(int, re.findall("[0-9]+", completion))) <= Counter(state[0])
        return Step(state, None, float(right), Status.PASSED if right else Status.WRONG)

    def solution(self, state: State) -> str:
        return state[2]


def worth(expression: str) -> Fraction | None:
    """The value of an expression; None of a text that is none, or divides by 0."""
    tokens = re.findall("[0-9]+|[^0-9]", expression)[::-1]
    try:
        value = worth_of(tokens, 0)
    except (IndexError, ValueError, ZeroDivisionError):
        return None
    return None if tokens else value


def worth_of(tokens: list[str], level: int) -> Fraction:
    """The value of the tokens at the end of a list, as far as operators of a level bind them; takes them away."""
    if level < len(LEVELS):
        value = worth_of(tokens, level + 1)
        while tokens and tokens[-1] in LEVELS[level]:
            value = OPERATIONS[tokens.pop()](value, worth_of(tokens, level + 1))
        return value
    if (token := tokens.pop()) == "(":
        value = worth_of(tokens, 0)
        return value if tokens.pop() == ")" else Fraction("no closing parenthesis")
    return Fraction(token if re.fullmatch("[1-9][0-9]*", token) else "no number")
