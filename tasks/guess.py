"""Guess: "20-50:" is answered with a number, which is told "higher" or "lower", until it is the hidden one.

Reward 1 for the hidden number within the turns that there are, else 0. What is no number ends the episode.
"""

import itertools
import re
from typing import NamedTuple

from rlbench.hashing import drawn, number_of
from rlbench.types import Bounds, ConfigError, Count, Problem, Status, Step

HELDOUT = 5  # one problem in so many is held out
FEWEST = 50  # ranges of which each split has some


class State(NamedTuple):
    """The hidden number, the numbers that it may still be, and the turns that are left."""

    hidden: int
    low: int
    high: int
    turns: int


class Guess:
    """Ranges of numbers, in each of which one is hidden; a hash of the range says which split it is in.

    The reference solution halves what is left of the range.

    Args:
      numbers: how many are in a range.
      largest: of all numbers; the least is 1.
      turns: guesses that may be made.
    """

    def __init__(self, *, numbers: Count, largest: Count, turns: Count):
        if turns < numbers.bit_length():
            raise ConfigError("turns", turns, f"at least {numbers.bit_length()}: {numbers} numbers are halved so often")
        if 1 + largest - numbers < FEWEST:
            raise ConfigError("largest", largest, f"at least {FEWEST - 1 + numbers}: there have to be {FEWEST} ranges")
        self.numbers, self.lows, self.turns = numbers, 1 + largest - numbers, turns
        digits = len(str(largest))
        letters = frozenset("0123456789-:higherlower")
        self.bounds = Bounds(letters, prompt=2 * digits + 2, completion=digits, turns=turns, observation=len("higher:"))

    def problem(self, seed: int, split: str) -> Problem:
        for attempt in itertools.count():
            first, place = drawn(f"{split} {seed} {attempt}", self.lows, self.numbers)
            low, high = 1 + first, first + self.numbers
            prompt, hidden = f"{low}-{high}:", low + place
            if (number_of(prompt) % HELDOUT == 0) == (split == "heldout"):
                return Problem(prompt, State(hidden, low, high, self.turns), key=(prompt, hidden))
        raise AssertionError  # one attempt or another is of the split

    def step(self, state: State, completion: str) -> Step:
        if completion == str(state.hidden):
            return Step(state, None, 1.0, Status.PASSED)
        if state.turns == 1 or not re.fullmatch("[1-9][0-9]{0,8}", completion):
            return Step(state, None, 0.0, Status.WRONG)
        guess = int(completion)
        higher = guess < state.hidden
        bound = {"low": max(state.low, guess + 1)} if higher else {"high": min(state.high, guess - 1)}
        return Step(state._replace(turns=state.turns - 1, **bound), "higher:" if higher else "lower:", 0.0, Status.OPEN)

    def solution(self, state: State) -> str:
        return str((state.low + state.high) // 2)
