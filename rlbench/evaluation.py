"""Evaluation on held-out problems: the likeliest reply, and pass@k of sampled ones."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .acting.rollout import Actor, Transcript
from .contract.task import problem_of
from .types import Count, Fraction, Natural, Params, Problem, Status, Task


class Evaluation(NamedTuple):
    """Settings of the measurements on held-out problems."""

    every: Count  # learner steps; the start and the end are always measured
    problems: Count  # distinct ones, if the task has so many
    samples: Count  # sampled replies to each problem, beside the likeliest one
    pass_at: list[Count]  # values of k
    target: Fraction  # accuracy; the time until it is reached is told
    top_k: Natural
    top_p: Fraction
    transcripts: Natural  # problems of which a reply is kept


class Outcomes(NamedTuple):
    """Counts of replies by outcome."""

    judged: np.ndarray  # bool[replies]  the verifier did not break
    solved: np.ndarray  # bool[replies]


class Measured(NamedTuple):
    """Result of an evaluation."""

    metrics: dict[str, float | None]  # None where the verifier broke over everything
    likeliest: Outcomes  # of each problem's likeliest reply
    transcripts: list[dict[str, Any]]  # of a few replies, as trackers take them


KEPT = ("problem", "prompt", "replies", "reward", "status", "detail", "truncated")  # of a transcript


def distinct_problems(task: Task, split: str, count: int) -> list[tuple[int, Problem]]:
    """The first `count` problems of a split that differ in identity, with their numbers, which count up from 0.

    Fewer where the split has no more: it is taken to be exhausted once ten times as many numbers in a row as there
    are problems so far, and at least 100, brought no new one. Of equally likely problems one is then left out with
    a probability of exp(-10).
    """
    found: dict[Hashable, tuple[int, Problem]] = {}
    number = repeated = 0  # `repeated` in a row
    while len(found) < count and repeated < max(100, 10 * len(found)):
        problem = problem_of(task, number, split)
        repeated = repeated + 1 if problem.identity in found else 0
        found.setdefault(problem.identity, (number, problem))
        number += 1
    return [*found.values()]


def evaluate(
    settings: Evaluation, problems: Sequence[tuple[int, Problem]], actor: Actor, params: Params, version: int
) -> Measured:
    """Accuracy of the likeliest replies, mean accuracy of sampled ones, and pass@k.

    Where devices do not divide the problems, some are played again for nothing: nobody looks at their rollouts.
    """
    attempts, asked = 1 + settings.samples, len(problems)
    again = [problems[index % asked] for index in range(-asked % len(actor.devices.devices))]
    first_id = version * (asked + len(again)) * attempts
    greedy = [True] + [False] * settings.samples
    batch = actor.play(params, [*problems, *again], attempts, first_id=first_id, version=version, greedy=greedy)
    transcripts = batch.transcripts[: asked * attempts]
    happened, solved = outcomes(transcripts)
    happened, solved = happened.reshape(-1, attempts), solved.reshape(-1, attempts)
    judged, right = happened[:, 1:].sum(axis=1), solved[:, 1:].sum(axis=1)
    metrics = {
        "heldout/problems": asked,
        "heldout/accuracy": mean(solved[:, 0][happened[:, 0]]),
        "heldout/sampled_accuracy": mean(solved[:, 1:][happened[:, 1:]]),
        **{f"heldout/pass@{k}": mean(pass_at(k, judged, right)[judged >= k]) for k in settings.pass_at},
        "heldout/infrastructure_failures": int((~happened).sum()),
    }
    kept = samples_of(transcripts, attempts, settings.transcripts)
    return Measured(metrics, Outcomes(happened[:, 0], solved[:, 0]), kept)


def samples_of(transcripts: Sequence[Transcript], attempts: int, problems: int) -> list[dict[str, Any]]:
    """One reply to each of the first problems, in turn the likeliest and each of the sampled ones.

    The same at every evaluation, so that a reader sees an answer change.
    """
    count = min(problems, len(transcripts) // attempts)
    chosen = [(index % attempts == 0, transcripts[index * attempts + index % attempts]) for index in range(count)]
    return [{"likeliest": likeliest, **{name: getattr(said, name) for name in KEPT}} for likeliest, said in chosen]


def outcomes(transcripts: list[Transcript]) -> Outcomes:
    """Of all rollouts."""
    happened = np.array([transcript.status != Status.INFRASTRUCTURE for transcript in transcripts])
    return Outcomes(happened, happened & np.array([transcript.solved for transcript in transcripts]))


def mean(values: Sequence[float] | np.ndarray) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(values)) if len(values) else None


def pass_at(k: int, samples: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Unbiased pass@k, 1 - C(n - c, k) / C(n, k), as a stable product (arXiv:2107.03374, section 2.1).

    Args:
      samples: n, how many replies to each problem were judged; at least k where the result is used.
      right: c, how many of them solved it.
    """
    misses = (samples - right)[:, None]
    i = np.arange(1, samples.max(initial=1) + 1)
    taken = (i > misses) & (i <= samples[:, None])
    return 1.0 - np.where(taken, 1.0 - np.minimum(k / i, 1.0), 1.0).prod(axis=1)
