"""Evaluation on held-out problems: the likeliest reply, and pass@k of sampled ones."""

from typing import NamedTuple

import numpy as np

from .acting.rollout import Actor, Transcript
from .types import Count, Fraction, Natural, Params


class Evaluation(NamedTuple):
    """What is measured on held-out problems, and how often."""

    every: Count  # learner steps; the start and the end are always measured
    problems: Count
    samples: Count  # sampled replies to each problem, beside the likeliest one
    pass_at: list[Count]  # values of k
    top_k: Natural
    top_p: Fraction


def evaluate(settings: Evaluation, actor: Actor, params: Params, version: int) -> dict[str, float]:
    """Accuracy of the likeliest replies, mean accuracy of sampled ones, and pass@k."""
    attempts = 1 + settings.samples
    problems = [(seed, actor.task.problem(seed, "heldout")) for seed in range(settings.problems)]
    first_id = version * settings.problems * attempts
    greedy = [True] + [False] * settings.samples
    batch = actor.play(params, problems, attempts, first_id=first_id, version=version, greedy=greedy)
    solved = solutions(batch.transcripts).reshape(settings.problems, attempts)
    right = solved[:, 1:].sum(axis=1)
    return {
        "heldout/accuracy": float(solved[:, 0].mean()),
        "heldout/sampled_accuracy": float(solved[:, 1:].mean()),
        **{f"heldout/pass@{k}": float(pass_at(k, settings.samples, right).mean()) for k in settings.pass_at},
    }


def solutions(transcripts: list[Transcript]) -> np.ndarray:
    """bool[rollouts]: which were solved."""
    return np.array([transcript.solved for transcript in transcripts])


def pass_at(k: int, samples: int, right: np.ndarray) -> np.ndarray:
    """Unbiased pass@k, 1 - C(n - c, k) / C(n, k), as a stable product (arXiv:2107.03374, section 2.1).

    Args:
      right: how many of the samples solved each problem.
    """
    misses = samples - right
    factors = 1.0 - k / np.arange(1, samples + 1)  # the product over n - c < i <= n
    taken = np.arange(1, samples + 1) > misses[:, None]
    return np.where(misses < k, 1.0, 1.0 - np.where(taken, factors, 1.0).prod(axis=1))
