"""Collects finished episodes into batches: groups that an algorithm keeps, none of them too old."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..accounting.ledger import Ledger
from ..checkpoint import Stateful
from ..types import Fate, Rollouts
from .episode import Episodes, Trajectories


class Batch(NamedTuple):
    """Rollouts on the host, and what was sampled for them."""

    rollouts: Rollouts
    trajectories: Trajectories  # of all that became known, those that are not trained on too, in the order of ids
    rows: np.ndarray  # i64[B]  where each row of the rollouts stands among the trajectories; -1 is padding
    ids: np.ndarray  # i64[B]  of the rows; -1 is padding
    behind: np.ndarray  # i32[B, T]  learner steps by which weights were old when they sampled each token
    prompts: np.ndarray  # i32[N]  tokens of the prompt that each B / N neighbouring rows share: a group, or one row


def batch_of(episodes: Episodes, rows: np.ndarray, aside: Sequence[Trajectories] = ()) -> Batch:
    """Episodes as a batch.

    Args:
      rows: i64[B], -1 is padding.
      aside: other rollouts that became known meanwhile.
    """
    there = rows >= 0
    ids = np.where(there, episodes.ids[rows], -1)
    known = Trajectories.in_order([episodes.trajectories(rows[there]), *aside])
    places = np.searchsorted(known.ids, ids)
    rollouts = episodes.rollouts(rows)
    behind = np.where(there[:, None], episodes.behind[rows, : rollouts.tokens.shape[1]], 0)
    prompts = np.where(there, episodes.prompt_length[rows], 1).astype(np.int32)
    if whole(rows, episodes.group_size):
        prompts = prompts[:: episodes.group_size]
    return Batch(rollouts, known, np.where(there, places, -1), ids, behind, prompts)


def whole(rows: np.ndarray, group_size: int) -> bool:
    """True if neighbouring rows are whole groups, or padding in the room of one."""
    if len(rows) % group_size:
        return False
    group = np.where(rows >= 0, rows // group_size, -1).reshape(-1, group_size)
    return bool((group == group[:, :1]).all())


class Collector(Stateful):
    """Forms batches, number 0, 1, ..., of the groups in a pool of episodes.

    A batch has the oldest groups first, cuts the last where it has to, and orders what it has by ids. What does
    not depend on who was faster: which groups are filtered out, and with max_staleness 0 all of a batch.

    Args:
      size: B, rollouts of a batch.
      rounds: times that number are sampled for a batch at the most.
      keep: which rollouts, at most B, the algorithm keeps; None: all.
      max_staleness: learner steps that a token may be old when it is trained on.
      waits: whether a batch waits for episodes that would become too old; if not, these are dropped.
      ledger: told what becomes of rollouts.
      give_up: has rollouts played no further.
    """

    STATE = ("formed", "dropped", "open", "ready", "_filtered", "_replaced", "_kept", "_aside")

    def __init__(
        self,
        episodes: Episodes,
        size: int,
        rounds: int,
        keep: Callable[[Rollouts], np.ndarray] | None,
        max_staleness: int,
        waits: bool,
        ledger: Ledger,
        give_up: Callable[[np.ndarray], None],
    ):
        self.episodes, self.size, self.rounds, self.keep = episodes, size, rounds, keep
        self.ledger, self.give_up = ledger, give_up
        self.max_staleness, self.waits = max_staleness, waits
        self.formed = 0  # batches
        self.dropped = 0  # rollouts that were too old
        groups = len(episodes.prompts)
        self.open, self.ready = np.zeros((2, groups), bool)  # groups that are played; that wait for their batch
        self._filtered = self._replaced = 0  # rollouts: since the last batch formed; before
        self._kept = np.zeros(len(episodes.ids), bool)
        self._aside: list[Trajectories] = []  # that became known since the last batch and are not trained on

    @property
    def free(self) -> np.ndarray:
        """Groups that have no episodes."""
        return np.flatnonzero(~self.open & ~self.ready)

    @property
    def replaced(self) -> int:
        """Rollouts that were filtered out or dropped, and for which others are to be sampled."""
        return self._replaced + min(self._filtered, (self.rounds - 1) * self.size) + self.dropped

    @property
    def waiting(self) -> int:
        """Rollouts that wait for their batch."""
        return int((self._kept & np.repeat(self.ready, self.episodes.group_size)).sum())

    def opened(self, groups: np.ndarray) -> None:
        """Groups are played from now on."""
        self.open[groups] = True

    def in_order(self, groups: np.ndarray) -> np.ndarray:
        """Groups in the order of their ids."""
        return groups[np.argsort(self.episodes.ids[groups * self.episodes.group_size])]

    @property
    def due(self) -> bool:
        """True if groups are over that something depends on: whether others are sampled for them, or a batch forms."""
        over = int(self._over.sum())
        return over > 0 and (bool(self.keep) or self.waiting + over * self.episodes.group_size >= self.size)

    def collect(self) -> None:
        """Takes in groups all of whose episodes are over."""
        episodes, over = self.episodes, self.in_order(np.flatnonzero(self._over))
        if not len(over):
            return
        self.open[over], self.ready[over] = False, True
        rows = episodes.rows_of(over)
        self.ledger.judged(episodes.ids[rows], episodes.tally(rows), len(over))
        self._kept[rows] = self._asked_for(rows)
        if not (kept := self._kept[rows]).all():
            self._set_aside(rows[~kept], Fate.FILTERED)
            self._filtered += int((~kept).sum())
            self._close(over[~kept.reshape(len(over), -1).any(axis=1)])

    def form(self, *, padded: bool = False) -> Batch | None:
        """The next batch, if there is one.

        Args:
          padded: form it of what there is, with masked rows for what is missing.
        """
        if self.ready.any():
            self._drop(self.ready & self._too_old(self.formed))
        if not padded and (self.waiting < self.size or (self.waits and self._waits())):
            return None
        ready = self.in_order(np.flatnonzero(self.ready))
        ready = ready[np.argsort(self._oldest(ready), kind="stable")]
        rows = self.episodes.rows_of(ready)
        rows = rows[self._kept[rows]]
        mine, cut = rows[: self.size], rows[self.size :]
        groups = np.unique(mine // self.episodes.group_size)
        cut = cut[np.isin(cut // self.episodes.group_size, groups)]
        if len(cut):
            self._set_aside(cut, Fate.FILTERED)
            self._replaced += len(cut)
        mine = mine[np.argsort(self.episodes.ids[mine])]
        padding = np.full(self.size - len(mine), -1)
        batch = batch_of(self.episodes, np.concatenate([mine, padding]), self._aside)
        self._close(groups)
        self._replaced = self.replaced - self.dropped
        self._aside, self._filtered = [], 0
        self.formed += 1
        if not self.waits:
            self._drop(self.open & self._too_old(self.formed))
        return batch

    def abandon(self) -> None:
        """Enters what is left over at the end of the run."""
        groups = self.in_order(np.flatnonzero(self.open & self._begun()))
        self._judge_unfinished(groups)

    @property
    def _over(self) -> np.ndarray:
        """bool[groups]: those under way all of whose episodes are over."""
        return self.open & self.episodes.over.reshape(len(self.open), -1).all(axis=1)

    def _asked_for(self, rows: np.ndarray) -> np.ndarray:
        """bool[n]: which of some rollouts the algorithm keeps; asked for a batch's number of them at a time."""
        if not self.keep:
            return np.ones(len(rows), bool)
        whole = self.size - self.size % self.episodes.group_size
        kept = []
        for first in range(0, len(rows), whole):
            mine = rows[first : first + whole]
            padded = np.concatenate([mine, np.full(self.size - len(mine), -1)])
            kept.append(self.keep(self.episodes.rollouts(padded))[: len(mine)])
        return np.concatenate(kept)

    def _oldest(self, groups: np.ndarray) -> np.ndarray:
        """Version of the oldest weights that a group was sampled with; -1 of one that did not begin."""
        oldest = self.episodes.oldest.reshape(len(self.open), -1)[groups]
        return np.where(oldest >= 0, oldest, oldest.max(axis=1, keepdims=True)).min(axis=1)

    def _begun(self) -> np.ndarray:
        return self._oldest(np.arange(len(self.open))) >= 0

    def _too_old(self, batch: int) -> np.ndarray:
        """bool[groups]: those with a token that is too old for a batch."""
        oldest = self._oldest(np.arange(len(self.open)))
        return (oldest >= 0) & (oldest < batch - self.max_staleness)

    def _waits(self) -> bool:
        """True if the next batch has to wait for episodes under way: without them, later ones could not have them all.

        Of the groups that were sampled by version u or an earlier one, no more may be left after this batch than the
        batches up to number u + max_staleness hold. This one takes the oldest that are over.
        """
        size, group_size = self.size, self.episodes.group_size
        oldest = self._oldest(np.arange(len(self.open)))
        over = (self._kept.reshape(-1, group_size) & self.ready[:, None]).sum(axis=1)
        for version in np.unique(oldest[self.open & (oldest >= 0)]):
            old = (oldest >= 0) & (oldest <= version)
            taken = min(size, int(over[old].sum()))
            left = int(over[old].sum()) + group_size * int((self.open & old).sum()) - taken
            if left > (version + self.max_staleness - self.formed) * size:
                return True
        return False

    def _drop(self, which: np.ndarray) -> None:
        """Gives up groups that are too old."""
        groups = self.in_order(np.flatnonzero(which))
        if not len(groups):
            return
        unfinished, finished = groups[self.open[groups]], groups[self.ready[groups]]
        self.give_up(self.episodes.rows_of(unfinished))
        self._judge_unfinished(unfinished)
        rows = self.episodes.rows_of(unfinished)
        self.ledger.settled(self.episodes.ids[rows], Fate.STALE)
        kept = self.episodes.rows_of(finished)
        kept = kept[self._kept[kept]]
        self._set_aside(kept, Fate.STALE)
        self.dropped += len(rows) + len(kept)
        self._close(groups)

    def _judge_unfinished(self, groups: np.ndarray) -> None:
        """Enters groups that nobody plays any further."""
        if len(rows := self.episodes.rows_of(groups)):
            self.ledger.judged(self.episodes.ids[rows], self.episodes.tally(rows), len(groups), whole=False)

    def _set_aside(self, rows: np.ndarray, fate: Fate) -> None:
        """Rollouts that are over are not trained on."""
        if len(rows):
            ids = self.episodes.ids[rows]
            self.ledger.settled(ids, fate)
            self._aside.append(self.episodes.trajectories(rows))
            self._kept[rows] = False

    def _close(self, groups: np.ndarray) -> None:
        self.open[groups] = self.ready[groups] = False
        rows = self.episodes.rows_of(groups)
        self._kept[rows] = False
        self.episodes.close(rows)
