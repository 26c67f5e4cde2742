"""Bisection: "c-j:" hides a letter from c to j. A wrong guess is answered by ">" (it comes later) or "<" (earlier).

Reward 1 for the hidden letter, within as many guesses as halving the range needs; else 0. A completion that is not one
letter ends the game. An episode of several turns: each guess has to use what was said of the ones before.
"""

import random
import string
import zlib
from typing import NamedTuple

from rlbench.types import Bounds, ConfigError, Count, Problem, Status, Step

LETTERS = string.ascii_lowercase
HELDOUT = 5  # one range in so many is held out


class Game(NamedTuple):
    """Letters are numbers, from 0."""

    hidden: int
    first: int  # that is still possible
    last: int
    guesses: int  # that are left


class Bisection:
    """Hidden letters in random ranges.

    A range belongs to the split that a hash of it says, whichever letter it hides.

    Args:
      most: letters in a range; the fewest are 2.
    """

    def __init__(self, *, most: Count):
        if not 2 <= most <= len(LETTERS):
            raise ConfigError("most", most, f"from 2 to {len(LETTERS)} letters")
        self.most = most
        alphabet = frozenset(LETTERS).union("-:<>")
        self.bounds = Bounds(alphabet, prompt=4, completion=1, turns=most.bit_length(), observation=1)

    def problem(self, seed: int, split: str) -> Problem:
        draw = random.Random(f"{split} {seed}")
        while True:
            count = draw.randint(2, self.most)
            first = draw.randint(0, len(LETTERS) - count)
            last = first + count - 1
            prompt = f"{LETTERS[first]}-{LETTERS[last]}:"
            if (zlib.crc32(prompt.encode()) % HELDOUT == 0) == (split == "heldout"):
                game = Game(draw.randint(first, last), first, last, guesses=count.bit_length())
                return Problem(prompt, game, key=game)

    def step(self, state: Game, completion: str) -> Step:
        guess = LETTERS.find(completion) if len(completion) == 1 else -1
        if guess == state.hidden:
            return Step(state, None, 1.0, Status.PASSED)
        left = state._replace(guesses=state.guesses - 1)
        if guess < 0 or not left.guesses:
            return Step(left, None, 0.0, Status.WRONG)
        if guess < state.hidden:
            return Step(left._replace(first=max(state.first, guess + 1)), ">", 0.0, Status.OPEN)
        return Step(left._replace(last=min(state.last, guess - 1)), "<", 0.0, Status.OPEN)

    def solution(self, state: Game) -> str:
        return LETTERS[(state.first + state.last) // 2]
