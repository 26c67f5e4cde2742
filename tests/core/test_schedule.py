"""The schedule: how far acting runs ahead, and that nothing is lost."""

import threading
import time

import pytest

from rlbench.running.schedule import stream


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_batches_come_in_order_and_no_more_are_in_flight_than_allowed(max_staleness):
    started, trained, most = [], 0, 0

    def act(index):
        started.append(index)
        return index

    for index in stream(act, 10, max_staleness):
        assert index == trained
        time.sleep(0.01)  # long enough for the actor to run as far ahead as it may
        most = max(most, len(started) - trained)
        trained += 1
    assert started == list(range(10))
    assert most == max_staleness + 1


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_no_batch_is_staler_than_allowed_and_the_bound_is_reached(max_staleness):
    version = 0

    def act(index):
        return version

    staleness = []
    for sampled in stream(act, 10, max_staleness):
        time.sleep(0.01)
        staleness.append(version - sampled)
        version += 1
    assert max(staleness) == max_staleness


def test_acting_and_learning_overlap():
    """With a batch in flight beside the one being trained, one of them acts while the other learns."""
    learning, acting_meanwhile = threading.Event(), threading.Event()

    def act(index):
        if index == 1 and learning.wait(5):
            acting_meanwhile.set()

    for index, _ in enumerate(stream(act, 2, max_staleness=1)):
        if index == 0:
            learning.set()
            assert acting_meanwhile.wait(5)


def test_an_error_of_the_actor_reaches_the_learner():
    def act(index):
        if index == 2:
            raise RuntimeError("no more")
        return index

    seen = []
    with pytest.raises(RuntimeError, match="no more"):
        seen.extend(stream(act, 5, 1))


def test_leaving_early_starts_no_further_batch():
    started = []
    batches = stream(lambda index: started.append(index), 100, 2)
    next(batches)
    batches.close()
    count = len(started)
    time.sleep(0.02)
    assert len(started) == count <= 3
