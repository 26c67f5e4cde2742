"""Steps as a run takes them: with a reward that can be learned from, or broken, with the reason."""

import math
from typing import Any

from ..types import MOST, Status, Step, Task
from .steps import Fault

SHOWN = 80  # characters of a text in a message


def payable(task: Task, completion: str, step: Step) -> Step:
    """The step, if its reward is a number that can be learned from; else a failure of the task, not of the completion.

    No reward is NaN or infinite, or beyond MOST, where float32 would make it so.
    """
    if math.isfinite(step.reward) and abs(step.reward) <= MOST:
        return step
    detail = f"{type(task).__name__} paid {step.reward:g} for {completion!r}"
    return step._replace(reward=0.0, status=Status.INFRASTRUCTURE, detail=detail)


def described(completion: str, prompt: str) -> str:
    """A completion, and the problem that it is of, for messages."""
    completion = f"completion {completion[:SHOWN]!r}"
    return f"problem {prompt[-SHOWN:]!r}, {completion}" if prompt else completion


def broken(fault: Fault, state: Any) -> Step:
    """The end of an episode whose step broke."""
    return Step(state, None, 0.0, Status.INFRASTRUCTURE, detail=f"{fault.reason} ({fault.about})")
