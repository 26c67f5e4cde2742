"""Rollouts that have no fate yet, by their ids: what was spent on each, and what is known of it."""

from typing import NamedTuple

import numpy as np

from .tally import Tally


class InFlight(NamedTuple):
    """Columns of rollouts, in the order of their ids."""

    ids: np.ndarray  # i64[n]
    flops: np.ndarray  # f64[n]  executed to sample it, so far
    fed: np.ndarray  # i64[n]  tokens of it that went through the network, so far
    judged: np.ndarray  # bool[n]  it is over, and entered in the tally
    tally: Tally

    @classmethod
    def blank(cls, ids: np.ndarray) -> "InFlight":
        """Rollouts that nothing was spent on yet."""
        rows = len(ids)
        return cls(ids, np.zeros(rows), np.zeros(rows, np.int64), np.zeros(rows, bool), Tally.blank(rows))

    def including(self, ids: np.ndarray) -> "InFlight":
        """With those of these ids that are new, too."""
        new = ids if not len(self.ids) else ids[self.ids.take(np.searchsorted(self.ids, ids), mode="clip") != ids]
        return self._merged(self.blank(new)) if len(new) else self

    def places(self, ids: np.ndarray) -> np.ndarray:
        """i64[len(ids)]: where each stands.

        Raises:
          KeyError: one is not in flight.
        """
        places = np.searchsorted(self.ids, ids)
        if not np.array_equal(self.ids.take(places, mode="clip"), ids):
            raise KeyError(f"rollouts that are not in flight: {np.setdiff1d(ids, self.ids)}")
        return places

    def enter(self, places: np.ndarray, tally: Tally) -> None:
        """These rollouts are over."""
        for mine, column in zip(self.tally, tally, strict=True):
            mine[places] = column
        self.judged[places] = True

    def without(self, places: np.ndarray) -> "InFlight":
        """Without these."""
        stays = np.ones(len(self.ids), bool)
        stays[places] = False
        return self._taken(np.flatnonzero(stays))

    def _merged(self, other: "InFlight") -> "InFlight":
        columns = [np.concatenate(both) for both in zip(self[:-1], other[:-1], strict=True)]
        tally = Tally(*map(np.concatenate, zip(self.tally, other.tally, strict=True)))
        merged = InFlight(columns[0], columns[1], columns[2], columns[3], tally)
        ascending = (merged.ids[1:] > merged.ids[:-1]).all()
        return merged if ascending else merged._taken(np.argsort(merged.ids))

    def _taken(self, places: np.ndarray) -> "InFlight":
        return InFlight(
            self.ids[places], self.flops[places], self.fed[places], self.judged[places], self.tally.take(places)
        )
