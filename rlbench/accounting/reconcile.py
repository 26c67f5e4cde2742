"""Checks that a ledger reconciles: totals are the sums of their parts, and room that holds what is in it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .account import Pass


class DoesNotReconcile(ArithmeticError):
    """Two ways of adding up the same thing differ."""

    def __init__(self, entry: str, left: float, right: float):
        super().__init__(entry, left, right)

    def __str__(self) -> str:
        entry, left, right = self.args
        return f"the ledger does not reconcile: {entry}: {left:.12g} is not {right:.12g}"


def check(counts: Mapping[str, Any], seconds: Mapping[str, Mapping[str, float]], wall: float) -> None:
    """Holds every total to the sum of its parts.

    Raises:
      DoesNotReconcile: naming the entry.
    """
    executed, useful, rollouts, tokens = (counts[name] for name in ("executed", "useful", "rollouts", "tokens"))
    total = executed["total"]
    fated = sum(executed["by_fate"].values()) + executed["padding"] + executed["overhead"] + executed["in_flight"]
    agree("executed FLOPs: by phase, total", sum(executed["by_phase"].values()), total)
    agree("executed FLOPs: by component, total", sum(executed["by_component"].values()), total)
    agree("executed FLOPs: by fate with padding, overhead and in flight, total", fated, total)
    agree("useful FLOPs: by phase, total", sum(useful["by_phase"].values()), useful["total"])
    agree("useful FLOPs: by component, total", sum(useful["by_component"].values()), useful["total"])
    fated = sum(rollouts["by_fate"].values()) + rollouts["in_flight"]
    agree("rollouts: by fate and in flight, generated", fated, rollouts["generated"])
    fated = sum(tokens["by_fate"].values()) + tokens["in_flight"]
    agree("tokens: by fate and in flight, by kind", fated, sum(tokens["by_kind"].values()))
    for who, states in seconds.items():
        agree(f"seconds: {who} by state, wall", sum(states.values()), wall, relative=0.02, absolute=0.01)


def fits(passes: Sequence[Pass]) -> None:
    """Holds the tokens of every pass to the slots that they took.

    Raises:
      DoesNotReconcile: there are more of them.
    """
    for one in passes:
        if one.fed.sum() > one.slots:
            raise DoesNotReconcile(f"{one.phase}: tokens, slots that hold them", one.fed.sum(), one.slots)


def agree(entry: str, left: float, right: float, relative: float = 1e-9, absolute: float = 0.0) -> None:
    if not math.isclose(left, right, rel_tol=relative, abs_tol=absolute):
        raise DoesNotReconcile(entry, float(left), float(right))
