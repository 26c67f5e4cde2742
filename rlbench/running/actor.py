"""The actor: plays episodes with the newest weights that it may use, and forms batches of them, on its own thread."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from ..accounting.ledger import Ledger
from ..accounting.timeline import Activity
from ..acting.collector import Batch, Collector
from ..acting.episode import Episodes
from ..acting.player import Play, Player
from ..checkpoint import Packed, Stateful
from ..interrupts import BEAT, LEFT, PATIENCE, UNINTERRUPTED, Stopped, next_of, thread_name
from ..types import ConfigError, Params, Problem, Rollouts, Step
from ..verifying.environment import Environment
from .arrivals import Cycle, Recording, Replay
from .schedule import Runner, room


class Acted(NamedTuple):
    """A batch, and what the actor was at when it formed."""

    batch: Batch
    seconds: float  # of acting since the batch before
    sampling: int  # rollouts in rows of the device
    judging: int  # that wait for their environment
    waiting: int  # that are over and wait for a batch
    dropped: int  # so far, too old


class Weights:
    """The way of the weights from the learner to the actor.

    Args:
      all_of_them: whether every version is kept until the actor has come beyond it; if not, the newest alone is.
    """

    def __init__(self, all_of_them: bool = False):
        self.wake: Callable[[], None] = lambda: None  # called when there are new ones
        self._newest = -1
        self._versions: dict[int, Params] = {}
        self._all, self._came = all_of_them, threading.Condition()

    def publish(self, version: int, params: Params) -> None:
        """There are new weights."""
        with self._came:
            if not self._all:
                self._versions.clear()
            self._versions[version] = params
            self._newest = version
            self._came.notify_all()
        self.wake()

    def look(self, version: int | None = None) -> tuple[int, Params]:
        """Weights of this version, or the newest; nobody comes back to earlier ones."""
        with self._came:
            version = self._newest if version is None else version
            self._versions = {other: params for other, params in self._versions.items() if other >= version}
            return version, self._versions[version]

    def keep(self, versions: Mapping[int, Params]) -> None:
        """There were these before, in a run that this one goes on with."""
        self._versions = {**versions}

    def older(self) -> dict[int, Params]:
        """Those before the newest that nobody has come beyond."""
        with self._came:
            return {version: params for version, params in self._versions.items() if version != self._newest}

    def beyond(self, version: int) -> bool:
        """True if there are later weights than these."""
        return self._newest > version

    def wait_for(self, version: int, stop: threading.Event, *others: threading.Event) -> None:
        """Until there are weights of this version or a later one, or one of other events was set: see `knock`.

        Raises:
          Stopped: `stop` was set.
        """
        events = stop, *others
        with self._came:
            while not self._came.wait_for(lambda: self._newest >= version or any(e.is_set() for e in events), BEAT):
                pass
        if stop.is_set():
            raise Stopped

    def knock(self) -> None:
        """Has whoever waits look at the events."""
        with self._came:
            self._came.notify_all()
        self.wake()


class Actor:
    """A thread that acts, and the queue of its batches.

    Args:
      problems_of: problems of the data stream with their seeds, given the place of the first, and how many.
      keep: which rollouts of a batch's number of them an algorithm keeps; None: all.
      rollouts: of a batch.
      group_size: attempts at a problem.
      steps: batches until the end.
      rounds: times a batch's rollouts that are sampled for one batch at the most.
      recording: told of every cycle.
      replay: decides what a cycle finds.
      saved: the state of an actor that this one goes on from.
    """

    def __init__(
        self,
        player: Player,
        problems_of: Callable[[int, int], Sequence[tuple[int, Problem]]],
        keep: Callable[[Rollouts], np.ndarray] | None,
        ledger: Ledger,
        runner: Runner,
        *,
        rollouts: int,
        group_size: int,
        steps: int,
        rounds: int,
        recording: Recording | None = None,
        replay: Replay | None = None,
        saved: Mapping[str, Any] | None = None,
    ):
        self.player, self.problems_of, self.keep, self.ledger, self.runner = player, problems_of, keep, ledger, runner
        self.rollouts, self.group_size, self.steps, self.rounds = rollouts, group_size, steps, rounds
        self.recording, self.replay = recording, replay
        self.weights = Weights(all_of_them=replay is not None)
        self.saved = saved
        self._batches: SimpleQueue[Acted | BaseException] = SimpleQueue()
        self.asked = threading.Event()  # the learner wants the state
        self._states: SimpleQueue[Packed | None] = SimpleQueue()
        if saved:
            self.weights.keep(self.player.devices.replicate(saved["weights"]))
            for acted in saved["batches"]:
                self.hand_over(acted)
        name = thread_name("actor", threading.current_thread().name)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begins to act, as soon as there are weights."""
        self._thread.start()

    def publish(self, version: int, params: Params) -> None:
        """There are new weights, from the learner's devices to the actor's where these are others."""
        self.weights.publish(version, self.player.devices.received(params))

    def hand_over(self, acted: Acted) -> None:
        """A batch has formed."""
        self._batches.put(acted)

    def next(self) -> Acted:
        """The next batch, waited for. Raises whatever ended the actor."""
        acted = next_of(self._batches)
        if isinstance(acted, BaseException):
            raise acted
        return acted

    def state(self) -> Packed | None:
        """Everything that another process needs to go on. None where acting has ended with an error: see `next`.

        To be called between two learner steps: acting pauses meanwhile.
        """
        self.asked.set()
        self.weights.knock()
        packed = next_of(self._states)
        if not packed:
            self._states.put(None)
        return packed

    def answer(self, cycles: dict[str, Any]) -> None:
        """Gives the learner, which waits for it, the state."""
        self.asked.clear()
        waiting = []
        while not self._batches.empty():
            waiting.append(self._batches.get())
        try:
            self._states.put(Packed.of({"batches": waiting, "weights": self.weights.older(), **cycles}, "actor"))
        finally:
            for acted in waiting:
                self._batches.put(acted)

    def close(self) -> None:
        """Ends acting. It is waited for, but after Ctrl-C not for longer than PATIENCE."""
        self.player.stop.set()
        self.weights.knock()
        self._thread.join(PATIENCE if UNINTERRUPTED.came else None)
        if self._thread.is_alive():
            LEFT.append(self._thread)

    def _work(self) -> None:
        """On the actor's thread."""
        player, account = self.player, self.player.account
        try:
            with (
                account.timeline.during(account.role, Activity.WAITING),
                player.verifier.environment(player.task, player.delay, player.stop) as environment,
            ):
                self.weights.wake = environment.wake
                self.weights.wait_for(0, player.stop)
                Cycles(self, environment).to_the_end()
        except Stopped:
            pass
        except BaseException as error:
            self._batches.put(error)
        finally:
            self._states.put(None)


class Cycles(Stateful):
    """Acting, cycle by cycle. A cycle looks for new weights and for answers; all else follows from these two."""

    STATE = ("asked", "seconds", "_held")

    def __init__(self, actor: Actor, environment: Environment):
        self.actor, self.runner, self.environment = actor, actor.runner, environment
        self.account = actor.player.account
        self.asked = 0  # problems of the data stream so far: where the next one stands, of which rollout ids are made
        self.seconds = 0.0  # since a batch formed
        self._held: dict[int, Step] = {}  # answers that a replay has no use for yet
        with self.account.timeline.during(self.account.role, Activity.HOST):
            player, rows = actor.player, actor.player.rows(actor.rollouts, actor.group_size)
            episodes = Episodes(self._capacity(), actor.group_size, player.limits)
            version, params = self._weights()
            self.play = Play(player, params, version, episodes, environment, rows)
            if self.runner.recompute_cache:
                self.play.prepare_reread()
            self.collector = Collector(
                *(episodes, actor.rollouts, actor.rounds, actor.keep),
                *(self.runner.max_staleness, self.runner.when_stale == "wait", actor.ledger, self.play.drop),
            )
            if actor.saved:
                self.restore(actor.saved)
                actor.saved = None

    def to_the_end(self) -> None:
        """Until all batches of the run have formed, and nobody needs the state any more."""
        try:
            while True:
                if self.actor.asked.is_set():
                    self.actor.answer(self.state())
                self._wait()
                if self.actor.asked.is_set():
                    continue
                with self.account.timeline.during(self.account.role, Activity.HOST):
                    began = time.perf_counter()
                    self.cycle()
                    self.seconds += time.perf_counter() - began
        finally:
            self._charge()
            self.collector.abandon()

    def state(self) -> dict[str, Any]:
        """All that acting goes on from."""
        play, actor = self.play, self.actor
        return super().state() | {
            "play": play.state(),
            "params": play.networks[actor.player.network] if actor.weights.beyond(play.version) else None,
            "collector": self.collector.state(),
            "ledger": actor.ledger.state(),
            "account": self.account.state(),
            "verifier": actor.player.verifier.state(),
            "recorded": actor.recording.size if actor.recording else 0,
            "replayed": actor.replay.taken if actor.replay else 0,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        super().restore(state)
        self.play.take_up(state["play"], self._held.keys())
        for part, name in ((self.collector, "collector"), (self.account, "account")):
            part.restore(state[name])
        self.actor.player.verifier.restore(state["verifier"])

    def _weights(self) -> tuple[int, Params]:
        """Those to begin with."""
        saved = self.actor.saved
        if saved and saved["params"] is not None:
            return saved["play"]["version"], self.actor.player.devices.replicate(saved["params"])
        return self.actor.weights.look()

    def _wait(self) -> None:
        """Until there is something to do, or the state is asked for.

        Raises:
          Stopped: there won't be.
        """
        actor = self.actor
        if self.collector.formed == actor.steps:
            version = actor.steps + 1  # which never comes
        elif actor.replay:
            version = actor.replay.peek().version
        elif self.play.idle and not self._room(self.play.newest):
            version = self.play.newest + 1
        else:
            return
        actor.weights.wait_for(version, actor.player.stop, actor.asked)

    def cycle(self) -> None:
        """Takes what is new, plays on for a moment, and forms the batches that are full."""
        play, actor = self.play, self.actor
        recorded = actor.replay.next() if actor.replay else None
        version, params = actor.weights.look(recorded.version if recorded else None)
        play.newest = version
        if version > play.version and (self.runner.swap == "chunk" or play.drained):
            play.swap(params, version)
            if self.runner.recompute_cache and not play.drained:
                play.reread()
        current = play.version == version
        if current and (play.idle or self.runner.max_staleness):
            self._ask(version)
        play.advance(admits=current)
        draining = not current and not play.samples.any()
        with self.account.during(Activity.DRAINING if draining else Activity.VERIFYING):
            steps = self._recorded(recorded) if recorded else self._arrived()
        arrived = play.observe(steps)
        if actor.recording:
            actor.recording.note(Cycle(version, arrived))
        # Without a lead, only what all rollouts have come to is looked at: then nothing, be it the number of passes
        # through the network, depends on the time that the environment took.
        if play.idle or (self.runner.max_staleness and len(arrived) and self.collector.due):
            self._charge()
            self.collector.collect()
            self._form(version)

    def _capacity(self) -> int:
        """Groups that may be under way at once, or wait for their batch."""
        rollouts = (self.runner.max_staleness + 1) * self.actor.rollouts
        groups = rollouts // self.actor.group_size + 1
        if not self.actor.keep:
            return groups
        return groups + min(rollouts, (self.actor.rounds - 1) * groups)  # of a group that waits, one may be kept

    def _room(self, version: int) -> int:
        """Problems that may be asked for."""
        actor, asked = self.actor, self.asked * self.actor.group_size
        rollouts = room(version, asked, self.collector.replaced, self.runner, actor.steps, actor.rollouts)
        return min(-(-rollouts // actor.group_size), len(self.collector.free))

    def _ask(self, version: int) -> None:
        """Asks for as many problems as there is room for."""
        if count := self._room(version):
            groups = self.collector.free[:count]
            self.play.ask(groups, self.actor.problems_of(self.asked, count), self.asked * self.actor.group_size)
            self.collector.opened(groups)
            self.asked += count

    def _arrived(self) -> list[tuple[int, Step]]:
        """Answers of the environment that are there; where there is nothing else to do, one at least."""
        return self.environment.take(wait=bool(self.play.judging) and not self.play.samples.any())

    def _recorded(self, cycle: Cycle) -> list[tuple[int, Step]]:
        """Answers that came in this cycle when it was recorded."""
        while not all(one in self._held for one in cycle.arrived.tolist()):
            if self.actor.player.stop.is_set():
                raise Stopped
            if not self.environment.waiting:
                what = "a record of this run, which goes another way"
                raise ConfigError("runner.replay", self.runner.replay, what)
            self._held.update(self.environment.take(wait=True))
        return [(one, self._held.pop(one)) for one in cycle.arrived.tolist()]

    def _form(self, version: int) -> None:
        """Hands over the batches that are full."""
        play, collector = self.play, self.collector
        while collector.formed < self.actor.steps:
            over = play.idle and not self._room(version)
            padded = over and version == collector.formed  # the learner waits, and nothing more will come
            if not (batch := collector.form(padded=padded)):
                return
            queues = int((play.at >= 0).sum()), len(play.judging), collector.waiting
            self.actor.hand_over(Acted(batch, self.seconds, *queues, collector.dropped))
            self.seconds = 0.0
            self.environment.forget()

    def _charge(self) -> None:
        """Has the ledger charge what was done since this was called last to the rollouts under way."""
        groups = self.collector.in_order(np.flatnonzero(self.collector.open))
        self.account.judged(self.environment.spent())
        for one in self.play.passes(groups):
            self.account.passed(one)
        self.actor.ledger.acted(self.play.episodes.ids[self.play.episodes.rows_of(groups)], self.account.take())
