"""Sampled rollouts as the host knows them, and the fate of each."""

from typing import Any, NamedTuple

import numpy as np

from ..types import Fate


class Tally(NamedTuple):
    """Sampled rollouts, row by row."""

    prompt: np.ndarray  # i64[B] tokens
    completion: np.ndarray  # i64[B]
    environment: np.ndarray  # i64[B]
    tokens: np.ndarray  # i64[B]  their sum
    truncated: np.ndarray  # bool[B]  cut at the length limit
    timed_out: np.ndarray  # bool[B]  not judged in time
    broke: np.ndarray  # bool[B]  the verifier's infrastructure failed

    def fates(self, otherwise: Fate, teaches: np.ndarray | None = None) -> dict[Fate, np.ndarray]:
        """Fates of the rows, as bool[B] by fate: the first that applies.

        Args:
          otherwise: the fate of those that nothing else became of.
          teaches: bool[B] of a batch that was trained on, where the advantage is not zero at every token.
        """
        idle = ~self.broke & (False if teaches is None else ~teaches)
        return {Fate.INFRASTRUCTURE: self.broke, Fate.ZERO_ADVANTAGE: idle, otherwise: ~self.broke & ~idle}

    def take(self, rows: np.ndarray) -> "Tally":
        """These rows, in this order. -1 is one that pads: without tokens, as if it were broken."""

        def taken(column: np.ndarray, padding: Any) -> np.ndarray:
            return np.append(column, padding)[rows]

        return Tally(*(taken(column, name == "broke") for name, column in self._asdict().items()))

    @classmethod
    def blank(cls, rows: int) -> "Tally":
        """Rows of which nothing is known yet."""
        counts, flags = np.zeros((4, rows), np.int64), np.zeros((3, rows), bool)
        return cls(*counts, *flags)
