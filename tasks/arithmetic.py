"""Arithmetic: "12+34=" and "the square root of 81=", judged by comparing digits.

Reward 1 for the right number, else 0; with partial credit, a wrong number of the right length earns up
to half for its leading digits. A completion is a number and nothing else: an optional minus sign, then digits
without leading zeros ("-0" is no number either). White space, words or a sum that is still to be worked
out are wrong.
"""

import itertools
import math
import re
from collections.abc import Sequence
from typing import Literal

from rlbench.hashing import drawn, number_of
from rlbench.types import Bounds, ConfigError, Count, Problem, Status, Step

NUMBER = re.compile(r"0|-?[1-9][0-9]*", re.ASCII)
HELDOUT = 5  # one problem in so many is held out

Operation = Literal["add", "subtract", "multiply", "square_root"]


class Arithmetic:
    """Sums, differences, products and integer square roots of random operands.

    A problem belongs to the split that a hash of its operands says, so training and held-out problems
    are disjoint; a + b and b + a, a * b and b * a count as one problem.

    Args:
      operations: each problem draws one of them.
      digits: of every operand; of the root, for square roots.
      partial_credit: whether a wrong number of the right length earns part of the reward.
    """

    def __init__(self, *, operations: Sequence[Operation], digits: Count, partial_credit: bool):
        if not operations:
            raise ConfigError("operations", "[]", "at least one of add, subtract, multiply, square_root")
        self.operations, self.partial_credit = tuple(operations), partial_credit
        self.operands = range(10 ** (digits - 1) if digits > 1 else 0, 10**digits)
        top, low = self.operands[-1], self.operands[0]
        worst = [ask(operation, top, top) for operation in self.operations]
        completions = [answer(operation, *pair) for operation in self.operations for pair in ((top, top), (low, top))]
        self.bounds = Bounds(
            alphabet=frozenset("0123456789").union("-" if "subtract" in self.operations else "", *worst),
            prompt=max(map(len, worst)),
            completion=max(map(len, completions)),
        )

    def problem(self, seed: int, split: str) -> Problem:
        operands = self.operands
        for attempt in itertools.count():
            which, *pair = drawn(f"{split} {seed} {attempt}", len(self.operations), len(operands), len(operands))
            operation, (a, b) = self.operations[which], (operands[place] for place in pair)
            key = content(operation, a, b)
            if held_out(key) == (split == "heldout"):
                return Problem(ask(operation, a, b), answer(operation, a, b), key)
        raise AssertionError  # one attempt or another is of the split

    def step(self, state: str, completion: str) -> Step:
        if completion == state:
            return Step(state, None, 1.0, Status.PASSED)
        return Step(state, None, credit(state, completion) if self.partial_credit else 0.0, Status.WRONG)

    def solution(self, state: str) -> str:
        return state


def ask(operation: Operation, a: int, b: int) -> str:
    match operation:
        case "add":
            return f"{a}+{b}="
        case "subtract":
            return f"{a}-{b}="
        case "multiply":
            return f"{a}*{b}="
        case "square_root":
            return f"the square root of {a * a}="


def answer(operation: Operation, a: int, b: int) -> str:
    match operation:
        case "add":
            return str(a + b)
        case "subtract":
            return str(a - b)
        case "multiply":
            return str(a * b)
        case "square_root":
            return str(math.isqrt(a * a))


def content(operation: Operation, a: int, b: int) -> str:
    """A problem apart from the order in which it is told."""
    if operation in ("add", "multiply"):
        a, b = min(a, b), max(a, b)
    if operation == "square_root":
        b = a
    return f"{operation} {a} {b}"


def held_out(content: str) -> bool:
    """True if a problem is held out, by its content alone."""
    return number_of(content) % HELDOUT == 0


def credit(right: str, completion: str) -> float:
    """Up to half the reward for the leading digits of a wrong number of the right length."""
    if not NUMBER.fullmatch(completion) or len(completion) != len(right):
        return 0.0
    agree = next(i for i, (x, y) in enumerate(zip(right, completion, strict=True)) if x != y)
    return 0.5 * agree / len(right)
