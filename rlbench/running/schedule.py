"""The schedule: how far acting may run ahead of learning.

Batch number j is trained on at version j of the weights, which counts learner steps. So the age of a token when it
is trained on is known when its batch forms, however long that batch then waits in the queue: acting/collector.py.
"""

from typing import Literal, NamedTuple

from ..types import Natural, Positive


class Runner(NamedTuple):
    """The lead that acting may have over learning, and what becomes of data that falls behind."""

    max_staleness: Natural  # the most learner steps that any token may be old when it is trained on
    swap: Literal["drained", "chunk"]  # when new weights are taken: when no row has an episode, or between two chunks
    when_stale: Literal["wait", "drop"]  # for rollouts that would become too old
    recompute_cache: bool  # whether rows read their text again with new weights
    replay: str | None  # an arrivals.jsonl that decides what chance decides otherwise
    acting_devices: list[Natural] | None  # places among the devices; None: all
    learning_devices: list[Natural] | None
    watchdog_seconds: Positive  # without anything new, after which the run is ended


def room(version: int, asked: int, replaced: int, runner: Runner, steps: int, size: int) -> int:
    """Rollouts that may be asked for.

    So many that all of them, but those that others replace, fit into the batches that the next `max_staleness` learner
    steps and this one are taken on. None of them is then too old for its batch, if batches take the oldest first.

    Args:
      version: of the newest weights.
      asked: rollouts so far.
      replaced: rollouts of them that were filtered out or dropped, and for which others are asked.
      steps: batches of the run.
      size: rollouts of a batch.
    """
    batches = min(version + runner.max_staleness + 1, steps)
    return max(0, batches * size + replaced - asked)
