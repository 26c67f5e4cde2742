"""Time is a partition: of each thread, and of the devices that they share."""

import threading
import time

import pytest

from rlbench.accounting.timeline import Activity, DeviceState, Timeline, device_state


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_every_instant_has_one_state():
    clock = Clock()
    timeline = Timeline(clock)
    clock.now += 1  # the learner sets up
    with timeline.during("learner", Activity.WAITING), timeline.during("actor", Activity.HOST):
        clock.now += 2
        with timeline.during("actor", Activity.COMPUTING):
            clock.now += 4
        with timeline.during("actor", Activity.VERIFYING):
            clock.now += 8
            with timeline.during("learner", Activity.COMPUTING):
                clock.now += 16
    with timeline.during("actor", Activity.COMPUTING), timeline.during("learner", Activity.EVALUATING):
        clock.now += 32
    with timeline.during("learner", Activity.EVALUATING):
        clock.now += 64
    seconds = timeline.seconds()
    assert {state: value for state, value in seconds["devices"].items() if value} == {
        DeviceState.HOST: 1 + 2,
        DeviceState.ACTOR: 4,
        DeviceState.VERIFICATION: 8,
        DeviceState.LEARNER: 16,
        DeviceState.BOTH: 32,
        DeviceState.EVALUATION: 64,
    }
    assert seconds["actor"]["verifying"] == 24, "seen from the thread, also while the devices were busy"
    assert seconds["actor"]["waiting_for_weights"] == 1 + 64
    assert seconds["learner"]["waiting_for_rollouts"] == 2 + 4 + 8
    assert {who: sum(states.values()) for who, states in seconds.items()} == dict.fromkeys(seconds, 127.0)


def test_it_can_begin_again():
    clock = Clock()
    timeline = Timeline(clock)
    clock.now += 5
    timeline.begin()
    clock.now += 1
    assert sum(timeline.seconds()["devices"].values()) == 1


@pytest.mark.parametrize("actor", Activity)
@pytest.mark.parametrize("learner", Activity)
def test_devices_wait_only_while_nobody_computes(actor, learner):
    computes = actor == Activity.COMPUTING or learner in (Activity.COMPUTING, Activity.EVALUATING)
    assert device_state(actor, learner).startswith("waiting") == (not computes)


def test_two_threads_add_up():
    timeline = Timeline()

    def switch(role):
        for doing in list(Activity) * 2000:
            timeline.switch(role, doing)

    began = time.perf_counter()
    timeline.begin()
    threads = [threading.Thread(target=switch, args=(role,)) for role in ("actor", "learner")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, wall = timeline.seconds(), time.perf_counter() - began
    assert [sum(states.values()) for states in seconds.values()] == pytest.approx([wall] * 3, abs=1e-3)
