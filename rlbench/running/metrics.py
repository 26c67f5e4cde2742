"""Metrics of a learner step: what its batch was like, how old it was, and what did not get into it."""

from collections.abc import Sequence
from typing import Any

from ..acting.collector import Batch
from ..acting.episode import Trajectory
from ..evaluation import mean
from ..types import Status
from .actor import Acted


def metrics_of(acted: Acted, version: int, max_staleness: int) -> dict[str, Any]:
    """Metrics of a learner step's batch, apart from those of the algorithm.

    Args:
      version: of the weights that are trained.
    """
    batch = acted.batch
    rollouts, trajectories = batch.rollouts, batch.trajectories
    valid = judged(trajectories)
    return {
        "reward": mean([t.reward for t in valid]),
        "accuracy": mean([t.solved for t in valid]),
        "truncated": mean([t.truncated for t in valid]),
        "completion_tokens": mean([t.completion_tokens for t in valid]),
        "entropy": mean(-rollouts.logp[rollouts.mask]),  # of what is trained on
        "infrastructure_failures": len(trajectories) - len(valid),
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
    trained = judged([batch.trajectories[row] for row in batch.rows[batch.rows >= 0]])
    everything = judged(batch.trajectories)
    return {
        f"survivorship/{name}": ratio(*(mean([getattr(t, of) for t in those]) for those in (trained, everything)))
        for name, of in (("length", "completion_tokens"), ("accuracy", "solved"))
    }


def queues(acted: Acted) -> dict[str, Any]:
    """Rollouts that were elsewhere when the batch formed, and those dropped so far."""
    return {
        "queue/sampling": acted.sampling,
        "queue/judging": acted.judging,
        "queue/waiting": acted.waiting,
        "dropped": acted.dropped,
    }


def judged(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Those whose verifier did not break."""
    return [t for t in trajectories if t.status != Status.INFRASTRUCTURE]


def ratio(part: float | None, whole: float | None) -> float | None:
    """None where one is unknown, or there is nothing to divide by."""
    return part / whole if part is not None and whole else None
