"""Steps as a run takes them: with a reward that can be learned from, or broken, with the reason."""

import math
from collections.abc import Sequence
from typing import Any

from ..types import MOST, Status, Step, Task
from .steps import Fault
from .watchdog import described


def plain(steps: Sequence[Any]) -> bool:
    """True if all of these are steps that end an episode and can be learned from, as far as a quick look tells.

    It looks at columns and at the very types. What does not pass is looked at one by one.
    """
    if set(map(type, steps)) != {Step}:
        return False
    _, _, rewards, statuses, seconds, details, solved, labels = zip(*steps, strict=True)
    return (
        set(map(type, rewards)) == set(map(type, seconds)) == {float}
        and set(map(type, statuses)) == {Status}
        and set(map(type, details)) == {str}
        and set(map(type, solved)) <= {bool, type(None)}
        and all(type(one) is tuple and not one for one in labels)
        and Status.OPEN not in statuses
        and math.isfinite(sum(rewards))
        and -MOST <= min(rewards) <= max(rewards) <= MOST
    )


def payable(task: Task, completion: str, step: Step) -> Step:
    """The step, if its reward is a number that can be learned from; else a failure of the task, not of the completion.

    No reward is NaN or infinite, or beyond MOST, where float32 would make it so.
    """
    if math.isfinite(step.reward) and abs(step.reward) <= MOST:
        return step
    detail = f"{type(task).__name__} paid {step.reward:g} for {completion!r}"
    return step._replace(reward=0.0, status=Status.INFRASTRUCTURE, detail=detail)


def broken(fault: Fault, state: Any) -> Step:
    """The end of an episode whose step broke."""
    return Step(state, None, 0.0, Status.INFRASTRUCTURE, detail=f"{fault.reason} ({described(*fault.about)})")
