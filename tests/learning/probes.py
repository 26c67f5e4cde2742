"""Tasks with known answers, each of which asks one question of an algorithm. The alphabet is "ab=".

Prompts end with "=": attention over equal tokens is the same wherever they stand, so that a model
without a mark could not tell how far it is into "aaa".
"""

from rlbench.types import Bounds, Problem, Status, Step


def over(state, right: bool) -> Step:
    return Step(state, None, float(right), Status.PASSED if right else Status.WRONG)


class ConstantReward:
    """Every reply earns the same: is nothing learned where there is nothing to learn?"""

    bounds = Bounds(alphabet=frozenset("ab="), prompt=2, reply=1)

    def problem(self, seed: int, split: str) -> Problem:
        return Problem("a=", None)

    def step(self, state: None, reply: str) -> Step:
        return over(state, right=True)

    def gold(self, state: None) -> str:
        return "a"


class DelayedReward:
    """The first reply decides, the second is paid: does credit go back through a turn?"""

    bounds = Bounds(alphabet=frozenset("ab="), prompt=2, reply=1, turns=2, observation=2)

    def problem(self, seed: int, split: str) -> Problem:
        return Problem("a=", None)

    def step(self, state: str | None, reply: str) -> Step:
        return Step(reply, "b=", 0.0, Status.OPEN) if state is None else over(state, right=state == "a")

    def gold(self, state: str | None) -> str:
        return "a"


class RewardOfThePrompt:
    """The right reply is the prompt: does what is learned depend on what is asked?"""

    bounds = Bounds(alphabet=frozenset("ab="), prompt=2, reply=1)

    def problem(self, seed: int, split: str) -> Problem:
        letter = "ab"[seed % 2]
        return Problem(letter + "=", letter)

    def step(self, state: str, reply: str) -> Step:
        return over(state, right=reply == state)

    def gold(self, state: str) -> str:
        return state
