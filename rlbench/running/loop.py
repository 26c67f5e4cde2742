"""The act-and-learn loop, as a stream of events. Synchronous training is the same loop with a lead of 0."""

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..accounting.timeline import Activity, Timeline
from ..learning.learner import Learner
from ..types import LearnerState
from .actor import Acted, Actor
from .behaviour import BehaviourRatio


class Learned(NamedTuple):
    """A learner step was taken."""

    version: int  # of the weights before it
    state: LearnerState  # after it
    acted: Acted  # what it was taken on
    metrics: dict[str, float]
    teaches: np.ndarray  # bool[B]
    seconds: float


def train(
    actor: Actor, learner: Learner, state: LearnerState, behaviour: BehaviourRatio, timeline: Timeline
) -> Iterator[Learned]:
    """Takes the actor's batches one by one, and yields every learner step, from that of the state on.

    With a lead of 0 the actor has the new weights when the caller comes back, so that whatever it does with the
    event is done in between; else at once.
    """
    sync = actor.runner.max_staleness == 0
    algorithm = learner.algorithm

    def publish(state: LearnerState) -> None:
        actor.publish(state.version, algorithm.acting(state.trainable, state.frozen))

    publish(state)
    for version in range(state.version, actor.steps):
        with timeline.during("learner", Activity.WAITING):
            acted = actor.next()
        rollouts, prompts = learner.devices.shard((acted.batch.rollouts, acted.batch.prompts))
        measured = {} if sync else behaviour.measure(state, rollouts)
        began = time.perf_counter()
        state, metrics, teaches = learner.spend(state, rollouts, prompts)
        if not sync:
            publish(state)
        yield Learned(version, state, acted, measured | metrics, teaches, time.perf_counter() - began)
        if sync:
            publish(state)


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """A block in which Python's garbage collector passes over all that there was before.

    What JAX and its libraries hold never becomes garbage, and to look through it takes milliseconds.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
