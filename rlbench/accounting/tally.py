"""Sampled rollouts as the host knows them, and the fate of each."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..types import Fate


class Tally(NamedTuple):
    """Sampled rollouts, row by row."""

    problems: int
    prompt: np.ndarray  # i64[B] tokens
    completion: np.ndarray  # i64[B]
    environment: np.ndarray  # i64[B]
    tokens: np.ndarray  # i64[B]  their sum
    truncated: np.ndarray  # bool[B]  cut at the length limit
    timed_out: np.ndarray  # bool[B]  not judged in time
    broke: np.ndarray  # bool[B]  the verifier's infrastructure failed

    def fates(self, chosen: np.ndarray, teaches: np.ndarray) -> dict[Fate, np.ndarray]:
        """Fates of the rows, as bool[B] by fate: the first that applies.

        Args:
          chosen: bool[B], whether a row was trained on.
          teaches: bool[B], whether its advantage is not zero at every token.
        """
        return {
            Fate.INFRASTRUCTURE: self.broke,
            Fate.FILTERED: ~self.broke & ~chosen,
            Fate.ZERO_ADVANTAGE: ~self.broke & chosen & ~teaches,
            Fate.TRAINED: ~self.broke & chosen & teaches,
        }

    def take(self, rows: np.ndarray) -> "Tally":
        """These rows, in this order. -1 is one that pads: without tokens, as if it were broken."""

        def taken(column: np.ndarray, padding: Any) -> np.ndarray:
            return np.where(rows < 0, padding, column[rows])

        return Tally(self.problems, *(taken(column, name == "broke") for name, column in self.columns().items()))

    def columns(self) -> dict[str, np.ndarray]:
        """Everything that is said of each row."""
        return {name: column for name, column in self._asdict().items() if name != "problems"}

    @classmethod
    def joined(cls, tallies: Sequence["Tally"]) -> "Tally":
        """One after the other."""
        columns = zip(*(one.columns().values() for one in tallies), strict=True)
        return cls(sum(one.problems for one in tallies), *map(np.concatenate, columns))
