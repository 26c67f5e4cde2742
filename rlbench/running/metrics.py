"""Metrics of a learner step: what its batch was like, how old it was, and what did not get into it."""

from typing import Any

import numpy as np

from ..acting.collector import Batch
from ..evaluation import mean
from .actor import Acted


def metrics_of(acted: Acted, version: int, max_staleness: int) -> dict[str, Any]:
    """Metrics of a learner step's batch, apart from those of the algorithm.

    Args:
      version: of the weights that are trained.
    """
    batch = acted.batch
    rollouts, trajectories = batch.rollouts, batch.trajectories
    valid, tally = trajectories.judged, trajectories.tally
    return {
        "reward": mean(trajectories.reward[valid]),
        "accuracy": mean(trajectories.solved[valid]),
        "truncated": mean(tally.truncated[valid]),
        "completion_tokens": mean(tally.completion[valid]),
        "entropy": mean(-rollouts.logp[rollouts.mask]),  # of what is trained on
        "infrastructure_failures": int(tally.broke.sum()),
        "kept": float((batch.rows >= 0).sum()) / max(len(trajectories), 1),
        **staleness(batch, version, max_staleness),
        **(survivorship(batch) | queues(acted) if max_staleness else {}),
        "act_seconds": acted.seconds,
    }


def staleness(batch: Batch, version: int, max_staleness: int) -> dict[str, Any]:
    """Ages of the tokens that are trained on, in learner steps: when they are, and when they were sampled."""
    mask = batch.rollouts.mask
    age, sampled = (version - batch.rollouts.version)[mask], batch.behind[mask]
    summary = {"staleness_mean": mean(age), "staleness_max": int(age.max(initial=0))}
    if not max_staleness:
        return summary
    return summary | {
        "staleness_sampled_mean": mean(sampled),
        "staleness_sampled_max": int(sampled.max(initial=0)),
        **{f"staleness/age_{steps}": mean(age == steps) for steps in range(max_staleness + 1)},
    }


def survivorship(batch: Batch) -> dict[str, Any]:
    """Rollouts that are trained on against all that were sampled to the end: fast and short ones come first."""
    everything = batch.trajectories.judged
    trained = np.zeros_like(everything)
    trained[batch.rows[batch.rows >= 0]] = True
    return {
        f"survivorship/{name}": ratio(mean(column[trained & everything]), mean(column[everything]))
        for name, column in (("length", batch.trajectories.tally.completion), ("accuracy", batch.trajectories.solved))
    }


def queues(acted: Acted) -> dict[str, Any]:
    """Rollouts that were elsewhere when the batch formed, and those dropped so far."""
    return {
        "queue/sampling": acted.sampling,
        "queue/judging": acted.judging,
        "queue/waiting": acted.waiting,
        "dropped": acted.dropped,
    }


def ratio(part: float | None, whole: float | None) -> float | None:
    """None where one is unknown, or there is nothing to divide by."""
    return part / whole if part is not None and whole else None
