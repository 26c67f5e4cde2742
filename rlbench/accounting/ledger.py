"""The ledger of a run: where every FLOP, byte, second and rollout went. docs/ledger.md defines each number."""

import contextlib
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..checkpoint import Stateful
from ..crashes import Lost
from ..interrupts import UNINTERRUPTED
from ..types import Fate, Phase, Size
from . import SCHEMA
from .account import NOTHING, Pass, Room, Spent, Verification, attended
from .flops import Flops
from .in_flight import InFlight
from .peaks import Peak
from .reconcile import DoesNotReconcile, check, fits
from .tally import Tally
from .timeline import IDLE, DeviceState, Timeline
from .useful import useful_flops

# Shares of the peak, as the field names them: hardware and model FLOPs utilisation (arXiv:2205.05198, section 6.3).
UTILISATION = {"executed": "hfu", "executed_while_busy": "hfu_while_busy", "useful": "mfu"}
OVERHEAD = (Phase.OPTIMIZER, Phase.WARM_START, Phase.EVALUATION)  # phases that no rollout is charged for


class Gain(NamedTuple):
    """Outcome of the run on held-out problems."""

    points: float  # of accuracy, in percent
    solved: int  # problems that are solved at the end and were not before the first step


@dataclass
class Totals:
    """Everything that a ledger adds up."""

    executed: Flops = field(default_factory=Counter)
    useful: Flops = field(default_factory=Counter)
    by_fate: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # executed operations
    padding: float = 0.0
    overhead: float = 0.0
    left_out: float = 0.0  # of the backward pass, of rows that teach nothing: useful ones, which were not executed
    generated: Counter[str] = field(default_factory=Counter)
    attributes: Counter[str] = field(default_factory=Counter)
    rollouts: Counter[str] = field(default_factory=Counter)  # by fate
    tokens: Counter[str] = field(default_factory=Counter)  # by fate
    prefill_saved: int = 0  # tokens that would have been read again if the cache had not gone on from turn to turn
    verification: Verification = NOTHING
    evaluating: Verification = NOTHING
    evaluation_seconds: float = 0.0
    in_flight: InFlight = field(default_factory=lambda: InFlight.blank(np.zeros(0, np.int64)))

    def spend(self, flops: Flops, useful: Flops) -> None:
        self.executed.update(flops)
        self.useful.update(useful)

    def aside(self, phase: Phase, flops: Flops, useful: Flops) -> None:
        """Enters operations that no rollout is charged for under one phase, whatever theirs were."""
        for total, count in ((self.executed, flops), (self.useful, useful)):
            for name, operations in by_component(count).items():
                total[phase, name] += operations
        self.overhead += flops.total()

    def charge(self, rows: int, flops: Flops, passes: Sequence[Pass]) -> tuple[np.ndarray, np.ndarray]:
        """Splits operations over the rows that went through, a phase's evenly over its slots; the rest is padding.

        Returns operations f64[rows], and tokens i64[rows] that went through.
        """
        slots: Counter[str] = Counter()
        fed: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(rows))
        through = np.zeros(rows, np.int64)
        for one in passes:
            slots[one.phase] += one.slots
            fed[one.phase] += np.repeat(one.fed / one.copies, one.copies)
            through += np.repeat(one.fed, one.copies)
        charged = np.zeros(rows)
        for (phase, _), operations in flops.items():
            if phase in OVERHEAD:
                self.overhead += operations
                continue
            own = fed[phase] * (operations / max(slots[phase], 1))  # where nothing went through, all is padding
            self.padding += operations - own.sum()
            charged += own
        return charged, through

    def settle(self, ids: np.ndarray, otherwise: Fate, teaches: np.ndarray | None = None) -> dict[Fate, np.ndarray]:
        """Gives rollouts that are over their fates, and each fate what sampling them took. Returns the rows of each."""
        places = self.in_flight.places(ids)
        tally, flops = self.in_flight.tally.take(places), self.in_flight.flops[places]
        fates = tally.fates(otherwise, teaches)
        for fate, mine in fates.items():
            self.by_fate[fate] += float(flops[mine].sum())
            self.rollouts[fate] += int(mine.sum())
            self.tokens[fate] += int(tally.tokens[mine].sum())
        self.in_flight = self.in_flight.without(places)
        return fates


class Ledger(Stateful):
    """Adds up a run. Work is charged to rollouts by their ids, as it happens; each has its fate when that is known.

    `acted`, `judged` and `settled` are called from the actor's thread, everything else from the learner's. Ctrl-C
    waits for the end of an entry, so that a run that is interrupted still reconciles.

    Args:
      sizes: of the networks, by component, for useful FLOPs.
      peak: of all devices together.
      devices: how many there are.
      accelerator: whether they are something other than the CPU that verifies.
    """

    STATE = ("totals",)

    def __init__(self, sizes: Mapping[str, Size], peak: Peak, timeline: Timeline, *, devices: int, accelerator: bool):
        self.sizes, self.peak, self.timeline = sizes, peak, timeline
        self.devices, self.accelerator = devices, accelerator
        self.totals = Totals()
        self.lost = Lost()  # to crashes, and done again, so that it is in no other number
        self._ended = False
        self._lock = threading.Lock()

    def acted(self, ids: np.ndarray, spent: Spent) -> None:
        """Rollouts were played for a while, whatever became of them so far.

        Args:
          ids: i64[n], ascending: those that the rows of all passes are of.
        """
        fits(spent.passes)
        with self._entry() as totals:
            if self._ended:
                return
            totals.in_flight = totals.in_flight.including(ids)
            places = totals.in_flight.places(ids)
            charged, through = totals.charge(len(ids), spent.flops, spent.passes)
            totals.in_flight.flops[places] += charged
            totals.in_flight.fed[places] += through
            totals.spend(spent.flops, useful_flops(spent.passes, self.sizes, spent.flops))
            totals.prefill_saved += sum(one.cached for one in spent.passes)
            totals.verification = totals.verification.plus(spent.verification)

    def judged(self, ids: np.ndarray, tally: Tally, problems: int, *, whole: bool = True) -> None:
        """Rollouts are over.

        Args:
          problems: that they are attempts at.
          whole: False of rollouts that were given up before they were over.

        Raises:
          DoesNotReconcile: the tokens that went through the network are not those of the trajectories.
        """
        with self._entry() as totals:
            if self._ended:
                return
            totals.in_flight = totals.in_flight.including(ids)
            places = totals.in_flight.places(ids)
            fed = totals.in_flight.fed[places]
            if whole and not np.array_equal(fed, tally.tokens - 1):  # the last token goes through no network
                entry = "tokens sampled: through the network, in the trajectories"
                raise DoesNotReconcile(entry, fed.sum(), (tally.tokens - 1).sum())
            totals.in_flight.enter(places, tally)
            totals.generated.update(
                problems=problems,
                rollouts=len(ids),
                prompt=int(tally.prompt.sum()),
                completion=int(tally.completion.sum()),
                environment=int(tally.environment.sum()),
            )
            totals.attributes.update(truncated=int(tally.truncated.sum()), timed_out=int(tally.timed_out.sum()))

    def settled(self, ids: np.ndarray, fate: Fate) -> None:
        """Rollouts that are over have this fate, and are not trained on."""
        with self._entry() as totals:
            if not self._ended:
                totals.settle(ids, fate)

    def learned(
        self, ids: np.ndarray, teaches: np.ndarray, room: Room, epochs: int, spent: Spent, idle: float | None = None
    ) -> None:
        """A learner step on a batch is done.

        Args:
          ids: i64[B] of its rows; -1 is padding.
          teaches: bool[B], where the advantage is not zero at every token.
          room: of its rows.
          idle: share of the microbatches that were left out of the backward pass, since none of their rows teaches;
            None: whatever teaches nothing went through it, too.
        """
        there = ids >= 0
        rows = np.full(len(ids), -1)
        with self._entry() as totals:
            rows[there] = totals.in_flight.places(ids[there])
            tally = totals.in_flight.tally.take(rows)
            passes = learning_passes(tally, room, epochs, None if idle is None else teaches, idle or 0.0)
            fits(passes)
            useful = useful_flops(passes, self.sizes, spent.flops)
            totals.spend(spent.flops, useful)
            if idle:
                everything = useful_flops(learning_passes(tally, room, epochs), self.sizes, spent.flops)
                totals.left_out += float(everything.total() - useful.total())
            charged, _ = totals.charge(len(ids), spent.flops, passes)
            for fate, mine in totals.settle(ids[there], Fate.TRAINED, teaches[there]).items():
                totals.by_fate[fate] += float(charged[there][mine].sum())

    def warmed(self, executed: Mapping[str, float], useful: Mapping[str, float]) -> None:
        """Charges the warm start, by component, in whichever run it was made."""
        with self._entry() as totals:
            totals.aside(
                Phase.WARM_START,
                Counter({("", name): operations for name, operations in executed.items()}),
                Counter({("", name): operations for name, operations in useful.items()}),
            )

    def evaluated(self, spent: Spent, seconds: float) -> None:
        """An evaluation is done, and took so long."""
        with self._entry() as totals:
            totals.aside(Phase.EVALUATION, spent.flops, useful_flops(spent.passes, self.sizes, spent.flops))
            totals.evaluating = totals.evaluating.plus(spent.verification)
            totals.evaluation_seconds += seconds

    def end(self) -> None:
        """Nothing more is entered. Rollouts that were sampled and never trained on are stale."""
        with self._entry() as totals:
            self._ended = True
            totals.settle(totals.in_flight.ids[totals.in_flight.judged], Fate.STALE)
            totals.by_fate[Fate.STALE] += float(totals.in_flight.flops.sum())  # of rollouts that were cut off
            totals.in_flight = InFlight.blank(np.zeros(0, np.int64))

    @contextlib.contextmanager
    def _entry(self) -> Iterator[Totals]:
        with UNINTERRUPTED, self._lock:
            yield self.totals

    def counts(self) -> dict[str, Any]:
        """The compute and the rollouts of the report, with what is still in flight."""
        with self._entry() as totals:
            return self._counts(totals)

    def spent(self) -> float:
        """Operations executed so far for learning: all but warm start and evaluation, what is in flight included."""
        with self._entry() as totals:
            aside = (Phase.WARM_START, Phase.EVALUATION)
            return float(sum(count for (phase, _), count in totals.executed.items() if phase not in aside))

    @staticmethod
    def _counts(totals: Totals) -> dict[str, Any]:
        flying = totals.in_flight
        executed, useful = margins(totals.executed), margins(totals.useful)
        return {
            "executed": executed
            | {
                "cells": nested(totals.executed),
                "by_fate": {fate.value: totals.by_fate[fate] for fate in Fate},
                "padding": totals.padding,
                "overhead": totals.overhead,
                "left_out": totals.left_out,
                "in_flight": float(flying.flops.sum()),
                "total": float(totals.executed.total()),
            },
            "useful": useful | {"total": float(totals.useful.total())},
            "rollouts": {
                "problems": totals.generated["problems"],
                "generated": totals.generated["rollouts"],
                "by_fate": {fate.value: totals.rollouts[fate] for fate in Fate},
                "in_flight": int(flying.judged.sum()),
                "attributes": {name: totals.attributes[name] for name in ("truncated", "timed_out")},
            },
            "tokens": {
                "by_kind": {kind: totals.generated[kind] for kind in ("prompt", "completion", "environment")},
                "by_fate": {fate.value: totals.tokens[fate] for fate in Fate},
                "in_flight": int(flying.tally.tokens[flying.judged].sum()),
                "prefill_saved": totals.prefill_saved,
            },
        }

    def row(self, wall: float, seconds: dict[str, dict[str, float]]) -> dict[str, float]:
        """The ledger so far, as metrics of a learner step. Everything is a total since the start of the run.

        Args:
          wall: seconds of the run, by a clock of its own.
          seconds: of the timeline at that moment.

        Raises:
          DoesNotReconcile: a total differs from the sum of its parts.
        """
        counts = self.counts()
        check(counts, seconds, wall)
        return {
            "rollouts": counts["rollouts"]["generated"],
            "tokens": sum(counts["tokens"]["by_kind"].values()),
            "flops": counts["executed"]["total"],
            "useful_flops": counts["useful"]["total"],
            **{f"flops/phase/{name}": value for name, value in counts["executed"]["by_phase"].items()},
            **{f"flops/component/{name}": value for name, value in counts["executed"]["by_component"].items()},
            **{f"flops/fate/{name}": value for name, value in counts["executed"]["by_fate"].items()},
            "flops/padding": counts["executed"]["padding"],
            "flops/overhead": counts["executed"]["overhead"],
            "flops/left_out": counts["executed"]["left_out"],
            **{f"rollouts/fate/{name}": value for name, value in counts["rollouts"]["by_fate"].items()},
            **{f"tokens/fate/{name}": value for name, value in counts["tokens"]["by_fate"].items()},
            **{f"tokens/kind/{name}": value for name, value in counts["tokens"]["by_kind"].items()},
            "tokens/prefill_saved": counts["tokens"]["prefill_saved"],
            **{f"rollouts/{name}": value for name, value in counts["rollouts"]["attributes"].items()},
            **{f"verification/{name}": value for name, value in self.totals.verification._asdict().items()},
            **{f"seconds/{name}": value for name, value in seconds["devices"].items()},
        }

    def report(
        self,
        wall: float,
        seconds: dict[str, dict[str, float]],
        memory: dict[str, Any],
        gain: Gain | None,
        uncounted: Sequence[str],
    ) -> dict[str, Any]:
        """The whole ledger, as in ledger.json.

        Args:
          wall: seconds of the run, by a clock of its own.
          seconds: of the timeline at that moment.
          memory: the section of that name.
          gain: None where it was not measured.
          uncounted: operations that were not counted.

        Raises:
          DoesNotReconcile: a total differs from the sum of its parts.
        """
        counts = self.counts()
        check(counts, seconds, wall)
        executed, useful, rollouts, tokens = (counts[name] for name in ("executed", "useful", "rollouts", "tokens"))
        judged, evaluation = self.totals.verification, self.totals.evaluation_seconds
        own = wall - seconds["devices"][DeviceState.QUEUE]  # seconds in which no other run of the process computed
        away = IDLE | {DeviceState.QUEUE}
        busy = sum(value for state, value in seconds["devices"].items() if state not in away)
        # The seconds of the warm start are not the run's, so its operations are left out of rates.
        done, needed = (count["total"] - count["by_phase"].get(Phase.WARM_START, 0.0) for count in (executed, useful))
        rates = {"executed": done / own, "executed_while_busy": ratio(done, busy) or 0.0, "useful": needed / own}
        price = {
            "flops": done - executed["by_phase"].get(Phase.EVALUATION, 0.0),
            "seconds": own - evaluation,
            "rollouts": rollouts["generated"],
            "verification_cpu_seconds": judged.cpu_seconds,
        }
        points, solved = gain or (0.0, 0)
        return {
            "schema": SCHEMA,
            "compute": {
                "executed": executed,
                "useful": useful,
                "uncounted": list(uncounted),
                "peak": self.peak._asdict(),
                "flops_per_second": rates,
                "utilisation": {UTILISATION[name]: rate / self.peak.flops_per_second for name, rate in rates.items()},
            },
            "memory": memory,
            "rollouts": rollouts,
            "tokens": tokens,
            "verification": {
                **judged._asdict(),
                "of_evaluation": self.totals.evaluating._asdict(),
                **self._pace(judged.cpu_seconds, busy - seconds["devices"][DeviceState.EVALUATION]),
            },
            "time": {
                "wall": wall,
                "evaluation": evaluation,
                "idle": own - busy,
                "idle_fraction": (own - busy) / own,
                **seconds,
            },
            "lost_to_crash": self.lost._asdict(),
            "price": {
                "gain": gain._asdict() if gain else None,
                "per_point": {name: ratio(value, points) for name, value in price.items()},
                "per_solved": {name: ratio(value, solved) for name, value in price.items()},
            },
        }

    def _pace(self, cpu_seconds: float, busy: float) -> dict[str, float | None]:
        """Verification against the seconds that devices were busy acting and learning."""
        unit = "accelerator" if self.accelerator else "device"
        return {
            f"cpu_seconds_per_{unit}_second": ratio(cpu_seconds, busy * self.devices),
            "cores_to_keep_up": math.ceil(ratio(cpu_seconds, busy) or 0.0),
        }


def learning_passes(
    tally: Tally, room: Room, epochs: int, teaches: np.ndarray | None = None, idle: float = 0.0
) -> list[Pass]:
    """Passes through a network when a batch is scored and trained on: of prompts that groups share, and of the rest.

    Args:
      teaches: bool[B]: groups of which no row does are not needed on the way back; None: all are.
      idle: share of the positions that did not take that way.
    """
    rows, group = len(tally.tokens), room.group
    prompt = np.repeat(tally.prompt.reshape(-1, group).max(axis=1), group) if room.prompt else np.zeros(rows, np.int64)
    fed = np.maximum(tally.tokens - prompt - 1, 0)  # outputs at t - 1 judge token t, so that the last goes nowhere
    used = np.where(tally.broke, 0, tally.completion)  # outputs
    at_prompt = ((used > 0) & (prompt > 0)).astype(np.int64)  # the first token is judged by its prompt's last
    heads = prompt[::group]
    parts: list[Any] = [
        (rows // group * room.prompt, heads, attended(heads), at_prompt.reshape(-1, group).max(axis=1), group),
        (rows * room.rest, fed, attended(fed, prompt), used - at_prompt, 1),
    ]
    parts = [part for part in parts if part[0]]
    wanted = np.ones(rows // group, bool) if teaches is None else teaches.reshape(-1, group).any(axis=1)
    back: list[Any] = [
        (round(slots * (1 - idle)), *(np.where(np.repeat(wanted, group // copies), x, 0) for x in columns), copies)
        for slots, *columns, copies in parts
    ]
    phases = [(Phase.SCORE, parts, 1), (Phase.FORWARD, parts, epochs), (Phase.BACKWARD, back, epochs)]
    return [Pass(phase, *part)._replace(times=times) for phase, some, times in phases for part in some]


def margins(flops: Flops) -> dict[str, dict[str, float]]:
    """Sums over components, and over phases."""
    phases: Counter[str] = Counter()
    for (phase, _), operations in flops.items():
        phases[phase] += operations
    return {
        "by_phase": {phase.value: float(phases[phase]) for phase in Phase if phase in phases},
        "by_component": {name: float(operations) for name, operations in sorted(by_component(flops).items())},
    }


def by_component(flops: Flops) -> Counter[str]:
    """Sums over phases."""
    components: Counter[str] = Counter()
    for (_, component), operations in flops.items():
        components[component] += operations
    return components


def nested(flops: Flops) -> dict[str, dict[str, float]]:
    """{phase: {component: operations}}."""
    tree: dict[str, dict[str, float]] = {}
    for (phase, component), operations in sorted(flops.items()):
        tree.setdefault(phase, {})[component] = float(operations)
    return tree


def ratio(value: float, by: float) -> float | None:
    """None where there is nothing to divide by."""
    return value / by if by > 0 else None
