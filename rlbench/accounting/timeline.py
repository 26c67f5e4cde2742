"""Time as a partition: at each instant a thread is in one state, and so are the devices that the threads share."""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from ..interrupts import UNINTERRUPTED


class Activity(StrEnum):
    """Activity of a thread."""

    COMPUTING = "computing"  # from a program's dispatch until its result is here
    VERIFYING = "verifying"  # waiting for the task's verdicts
    DRAINING = "draining"  # the same, while new weights wait for it
    EVALUATING = "evaluating"  # computing, for an evaluation
    COMPILING = "compiling"
    HOST = "host"  # Python: tokens to text and back, packing, logging
    QUEUEING = "queueing"  # for its turn at devices that other runs use, too
    WAITING = "waiting"  # the actor for weights, the learner for rollouts


class DeviceState(StrEnum):
    """State of the devices that acting and learning share; the first that applies."""

    BOTH = "actor_and_learner"
    ACTOR = "actor_only"
    LEARNER = "learner_only"
    EVALUATION = "evaluation_only"
    QUEUE = "waiting_for_other_runs"  # of the same process, which compute meanwhile
    VERIFICATION = "waiting_for_verification"
    DRAIN = "waiting_for_drain"
    COMPILATION = "waiting_for_compilation"
    HOST = "waiting_for_host"
    ROLLOUTS = "waiting_for_rollouts"


COMPUTES = frozenset((Activity.COMPUTING, Activity.EVALUATING))
IDLE = frozenset(state for state in DeviceState if state.startswith("waiting")) - {DeviceState.QUEUE}
ROLES = ("actor", "learner")
WAITS_FOR = {"actor": "waiting_for_weights", "learner": "waiting_for_rollouts"}


def device_state(actor: Activity, learner: Activity) -> DeviceState:
    """The state of shared devices, from what the two threads do."""
    acts = actor == Activity.COMPUTING
    trains = learner in (Activity.COMPUTING, Activity.EVALUATING)
    if acts or trains:
        alone = DeviceState.LEARNER if learner == Activity.COMPUTING else DeviceState.EVALUATION
        return DeviceState.BOTH if acts and trains else DeviceState.ACTOR if acts else alone
    for doing, state in (
        (Activity.QUEUEING, DeviceState.QUEUE),
        (Activity.VERIFYING, DeviceState.VERIFICATION),
        (Activity.DRAINING, DeviceState.DRAIN),
        (Activity.COMPILING, DeviceState.COMPILATION),
        (Activity.HOST, DeviceState.HOST),
    ):
        if doing in (actor, learner):
            return state
    return DeviceState.ROLLOUTS


class Timeline:
    """Adds up what the two threads of a run do, and what that makes of the devices that they share.

    Where acting and learning have devices of their own, each thread's partition is that of its devices.

    Args:
      clock: seconds; only differences count.
      share: seconds that a thread has the devices while it computes, where other runs compute at the same time. The
        rest is theirs, so that the seconds of all runs add up to those of the devices.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, share: Callable[[], float] | None = None):
        self.clock, self._share = clock, share or clock
        self._doing = [Activity.WAITING, Activity.HOST]  # of each of ROLES
        self._lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """Starts at zero seconds."""
        self._seconds: defaultdict[tuple[Activity, ...], float] = defaultdict(float)  # by what each of ROLES does
        self._last = self._switched = self.clock()
        self._shared = self._share()

    def state(self) -> dict[tuple[Activity, ...], float]:
        """Seconds so far, by what each of ROLES did."""
        with UNINTERRUPTED, self._lock:
            self._advance()
            return dict(self._seconds)

    def restore(self, state: Mapping[tuple[Activity, ...], float]) -> None:
        """Starts behind seconds of an earlier time."""
        self.begin()
        self._seconds.update(state)

    def switch(self, role: str, doing: Activity) -> Activity:
        """From now on the role does this. Returns what it did before."""
        place = ROLES.index(role)
        with UNINTERRUPTED, self._lock:
            self._advance()
            before, self._doing[place] = self._doing[place], doing
            self._switched = self._last
        return before

    def still(self) -> float:
        """Seconds since a role began to do something else; 0 while one compiles or queues: that takes what it takes."""
        doing = {*self._doing} & {Activity.COMPILING, Activity.QUEUEING}
        return 0.0 if doing else self.clock() - self._switched

    def doing(self, role: str) -> str:
        """Name of what a role does."""
        return word(role, self._doing[ROLES.index(role)])

    @contextlib.contextmanager
    def during(self, role: str, doing: Activity) -> Iterator[None]:
        """The role does this within the block, and afterwards what it did before."""
        before = self.switch(role, doing)
        try:
            yield
        finally:
            self.switch(role, before)

    def seconds(self) -> dict[str, dict[str, float]]:
        """Seconds by state: of the shared "devices", of the "actor" and of the "learner"; each adds up to all."""
        with UNINTERRUPTED, self._lock:
            self._advance()
            sums = dict(self._seconds)
        partition: dict[str, dict[str, float]] = {
            "devices": dict.fromkeys(map(str, DeviceState), 0.0),
            **{role: dict.fromkeys((word(role, doing) for doing in Activity), 0.0) for role in ROLES},
        }
        for (actor, learner), seconds in sums.items():
            partition["devices"][device_state(actor, learner)] += seconds
            partition["actor"][word("actor", actor)] += seconds
            partition["learner"][word("learner", learner)] += seconds
        return partition

    def _advance(self) -> None:
        """Enters the time since it was last called."""
        now, shared = self.clock(), self._share()
        doing = tuple(self._doing)
        passed, mine = now - self._last, sum(one in COMPUTES for one in doing) * (shared - self._shared)
        if 0 < mine < passed:
            self._seconds[tuple(Activity.QUEUEING if one in COMPUTES else one for one in doing)] += passed - mine
            passed = mine
        self._seconds[doing] += passed
        self._last, self._shared = now, shared


def word(role: str, doing: Activity) -> str:
    """Name of a role's activity."""
    return WAITS_FOR[role] if doing is Activity.WAITING else doing.value
