"""Tasks with known answers, each of which asks one question of an algorithm. The alphabet is "ab=".

Prompts end with "=": attention over equal tokens is the same wherever they stand, so that a model
without a mark could not tell how far it is into "aaa".
"""

from rlbench.types import Bounds, Problem, Status, Step


def over(state, right: bool) -> Step:
    return Step(state, None, float(right), Status.PASSED if right else Status.WRONG)


class ConstantReward:
    """Every completion earns the same: is nothing learned where there is nothing to learn?"""

    bounds = Bounds(alphabet=frozenset("ab="), prompt=2, completion=1)

    def problem(self, seed: int, split: str) -> Problem:
        return Problem("a=", None)

    def step(self, state: None, completion: str) -> Step:
        return over(state, right=True)

    def solution(self, state: None) -> str:
        return "a"


class DelayedReward:
    """The first completion decides, the second is paid: does credit go back through a turn?"""

    bounds = Bounds(alphabet=frozenset("ab="), prompt=2, completion=1, turns=2, observation=2)

    def problem(self, seed: int, split: str) -> Problem:
        return Problem("a=", None)

    def step(self, state: str | None, completion: str) -> Step:
        return Step(completion, "b=", 0.0, Status.OPEN) if state is None else over(state, right=state == "a")

    def solution(self, state: str | None) -> str:
        return "a"


class RewardOfThePrompt:
    """The right completion is the prompt: does what is learned depend on what is asked?"""

    bounds = Bounds(alphabet=frozenset("ab="), prompt=2, completion=1)

    def problem(self, seed: int, split: str) -> Problem:
        letter = "ab"[seed % 2]
        return Problem(letter + "=", letter)

    def step(self, state: str, completion: str) -> Step:
        return over(state, right=completion == state)

    def solution(self, state: str) -> str:
        return state
