"""Evaluation on held-out problems: the greedy completion, and pass@k of sampled ones."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .acting.episode import Trajectories
from .acting.player import Player
from .contract.task import problem_of
from .types import Count, Fraction, Natural, Params, Problem, Task


class Evaluation(NamedTuple):
    """Settings of the measurements on held-out problems."""

    every: Count  # learner steps; the start and the end are always measured
    problems: Count  # distinct ones, if the task has so many
    samples: Count  # sampled completions to each problem, beside the greedy one
    pass_at: list[Count]  # values of k
    target: Fraction  # accuracy; the time until it is reached is told
    top_k: Natural
    top_p: Fraction
    trajectories: Natural  # problems of which a completion is kept


class Outcomes(NamedTuple):
    """Counts of completions by outcome."""

    judged: np.ndarray  # bool[completions]  the verifier did not break
    solved: np.ndarray  # bool[completions]


class Measured(NamedTuple):
    """Result of an evaluation."""

    metrics: dict[str, float | None]  # None where the verifier broke over everything
    greedy: Outcomes  # of each problem's greedy completion
    trajectories: list[dict[str, Any]]  # of a few completions, as trackers take them


SUCCESS = "eval/success/"  # of a label
KEPT = ("problem", "prompt", "completions", "reward", "status", "detail", "labels", "truncated")  # of a trajectory


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
    settings: Evaluation, problems: Sequence[tuple[int, Problem]], player: Player, params: Params, version: int
) -> Measured:
    """Accuracy of greedy completions, mean accuracy of sampled ones, and pass@k.

    Where devices do not divide the problems, some are played again for nothing: nobody looks at their rollouts.
    """
    attempts, asked = 1 + settings.samples, len(problems)
    again = [problems[index % asked] for index in range(-asked % len(player.devices.devices))]
    first_id = version * (asked + len(again)) * attempts
    greedy = [True] + [False] * settings.samples
    batch = player.play(params, [*problems, *again], attempts, first_id=first_id, version=version, greedy=greedy)
    trajectories = batch.trajectories
    valid = trajectories.judged[: asked * attempts].reshape(-1, attempts)
    solved = valid & trajectories.solved[: asked * attempts].reshape(-1, attempts)
    judged, right = valid[:, 1:].sum(axis=1), solved[:, 1:].sum(axis=1)
    metrics = {
        "eval/problems": asked,
        "eval/accuracy": mean(solved[:, 0][valid[:, 0]]),
        "eval/sampled_accuracy": mean(solved[:, 1:][valid[:, 1:]]),
        **{f"eval/pass@{k}": mean(pass_at(k, judged, right)[judged >= k]) for k in settings.pass_at},
        f"eval/majority@{settings.samples}": mean(majority(trajectories.completions, valid, solved)),
        "eval/infrastructure_failures": int((~valid).sum()),
    }
    metrics |= by_label(trajectories.labels[: asked * attempts], valid.ravel(), solved.ravel())
    kept = samples_of(trajectories, attempts, min(settings.trajectories, asked))
    return Measured(metrics, Outcomes(valid[:, 0], solved[:, 0]), kept)


def by_label(labels: np.ndarray, valid: np.ndarray, solved: np.ndarray) -> dict[str, float | None]:
    """For each label of the task, the number of its rollouts that were judged, and the share of them that is solved.

    Args:
      labels: object[rollouts] of tuples, or None.
      valid: bool[rollouts] that were judged.
      solved: bool[rollouts].
    """
    found: dict[str, list[bool]] = {}
    for mine, right in zip(labels[valid], solved[valid].tolist(), strict=True):
        for label in sorted(set(mine or ())):
            found.setdefault(label, []).append(right)
    counts = {f"eval/rollouts/{label}": len(rights) for label, rights in sorted(found.items())}
    return counts | {f"{SUCCESS}{label}": mean(rights) for label, rights in sorted(found.items())}


def majority(completions: np.ndarray, valid: np.ndarray, solved: np.ndarray) -> np.ndarray:
    """True for each problem that the most frequent of its sampled answers solves; of equally frequent ones the first.

    An answer is the text of all completions of a rollout. Those of problems without a judged one are left out.

    Args:
      said: object[rollouts, turns] texts.
      valid: bool[problems, 1 + samples], of which column 0 is greedy and has no vote; so has what was not judged.
      solved: bool[problems, 1 + samples].
    """
    won = []
    for problem, (judged, right) in enumerate(zip(valid[:, 1:], solved[:, 1:], strict=True)):
        first = problem * valid.shape[1] + 1
        votes = Counter(tuple(completions[first + one]) for one in np.flatnonzero(judged))
        if votes:
            (answer, _), *_ = votes.most_common(1)
            won.append(any(right[one] for one in np.flatnonzero(judged) if tuple(completions[first + one]) == answer))
    return np.array(won, bool)


def samples_of(trajectories: Trajectories, attempts: int, problems: int) -> list[dict[str, Any]]:
    """One completion to each of the first problems, in turn the greedy one and each of the sampled ones.

    The same at every evaluation, so that a reader sees an answer change.
    """
    count = min(problems, len(trajectories) // attempts)
    chosen = [(index % attempts == 0, trajectories[index * attempts + index % attempts]) for index in range(count)]
    return [{"greedy": greedy, **{name: getattr(trajectory, name) for name in KEPT}} for greedy, trajectory in chosen]


def mean(values: Sequence[float] | np.ndarray) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(values)) if len(values) else None


def pass_at(k: int, samples: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Unbiased pass@k, 1 - C(n - c, k) / C(n, k), as a stable product (arXiv:2107.03374, section 2.1).

    Args:
      samples: n, how many completions to each problem were judged; at least k where the result is used.
      right: c, how many of them solved it.
    """
    misses = (samples - right)[:, None]
    i = np.arange(1, samples.max(initial=1) + 1)
    taken = (i > misses) & (i <= samples[:, None])
    return 1.0 - np.where(taken, 1.0 - np.minimum(k / i, 1.0), 1.0).prod(axis=1)
