"""Collects finished episodes into batches, until one is full of rollouts that an algorithm keeps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..accounting.tally import Tally
from ..contract.algorithm import shapes
from ..types import Rollouts, Status
from .episode import Trajectory


class Batch(NamedTuple):
    """Rollouts on the host, and what was sampled for them."""

    rollouts: Rollouts
    trajectories: list[Trajectory]
    rows: np.ndarray  # i64[B]  where each row of the rollouts stands among the trajectories; -1 is padding

    def tally(self, group_size: int) -> Tally:
        """The batch in the ledger's terms."""
        columns: list[Any] = list(zip(*self.trajectories, strict=True))
        all_of: Any = Trajectory(*columns)
        rows = len(self.trajectories)
        prompt = np.fromiter(all_of.prompt_tokens, np.int64, rows)
        completion = np.fromiter(all_of.completion_tokens, np.int64, rows)
        environment = np.fromiter(all_of.observation_tokens, np.int64, rows)
        return Tally(
            problems=rows // group_size,
            prompt=prompt,
            completion=completion,
            environment=environment,
            tokens=prompt + completion + environment,
            truncated=np.fromiter(all_of.truncated, bool, rows),
            timed_out=np.fromiter(all_of.timed_out, bool, rows),
            broke=np.fromiter(map(Status.INFRASTRUCTURE.__eq__, all_of.status), bool, rows),
        )


def fill(play: Callable[[], tuple[Batch, np.ndarray]], rounds: int) -> Batch:
    """Rounds of sampling until as many rollouts are kept as a round has, or the rounds are over.

    What is kept beyond that is left out; what is missing is padded with masked rows.

    Args:
      play: plays a round: its batch, of as many rows each time, and bool[B], which of them are kept.

    Returns the kept rollouts, with the trajectories of all.
    """
    batches: list[Batch] = []
    rows: list[np.ndarray] = []
    size = missing = 1  # until a round says how many
    while missing > 0 and len(batches) < rounds:
        batch, keeps = play()
        size = len(keeps)
        rows.append(size * len(batches) + np.flatnonzero(keeps))
        batches.append(batch)
        missing = size - sum(map(len, rows))
    if len(rows[0]) == size:
        return batches[0]  # whole, as most are
    kept = np.concatenate([*rows, np.full(max(missing, 0), -1)])[:size]
    trajectories = [trajectory for batch in batches for trajectory in batch.trajectories]
    return Batch(gathered([batch.rollouts for batch in batches], kept), trajectories, kept)


def gathered(parts: Sequence[Rollouts], rows: np.ndarray) -> Rollouts:
    """Rows of several Rollouts as one, padded to the longest; -1 is a masked row.

    Rows of a group stay one, under another number; a padding row is a group of its own.
    """
    length = max(part.tokens.shape[1] for part in parts)
    blank = Rollouts(*(np.zeros(shape.shape, shape.dtype) for shape in shapes(1, length)))
    size = len(parts[0].group)
    apart = [part._replace(group=part.group + number * size) for number, part in enumerate(parts)]

    def column(name: str) -> np.ndarray:
        arrays = [getattr(part, name) for part in (*apart, blank)]
        if arrays[0].ndim > 1:
            arrays = [np.pad(array, ((0, 0), (0, length - array.shape[1]))) for array in arrays]
        return np.concatenate(arrays)[rows]

    chosen = Rollouts(*map(column, Rollouts._fields))
    own = size * len(parts) + np.arange(len(rows))
    _, group = np.unique(np.where(rows < 0, own, chosen.group), return_inverse=True)
    return chosen._replace(group=group.astype(np.int32))
