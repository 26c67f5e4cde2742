"""The schedule: how far acting runs ahead, in numbers."""

import pytest

from rlbench.running.schedule import Runner, room

SYNC = Runner(0, "drained", "wait", False, None, None, None, 600.0)


def asked(runner: Runner, versions: int, steps: int = 100, size: int = 8, replaced: int = 0) -> list[int]:
    """Rollouts asked for at every version, where nothing is held back."""
    total, counts = 0, []
    for version in range(versions):
        counts.append(room(version, total, replaced, runner, steps, size))
        total += counts[-1]
    return counts


def test_synchronous_training_asks_for_a_batch_a_version():
    assert asked(SYNC, 4) == [8, 8, 8, 8]


@pytest.mark.parametrize("lead", [1, 3])
def test_a_lead_is_taken_once(lead):
    assert asked(SYNC._replace(max_staleness=lead), 4) == [8 * (lead + 1), 8, 8, 8]


def test_no_more_is_asked_for_than_the_run_needs():
    assert asked(SYNC._replace(max_staleness=3), 6, steps=3) == [24, 0, 0, 0, 0, 0]
    assert sum(asked(SYNC, 9, steps=5)) == 5 * 8


def test_what_was_filtered_out_or_dropped_is_asked_for_again():
    assert room(0, 8, 0, SYNC, 9, 8) == 0
    assert room(0, 8, 3, SYNC, 9, 8) == 3
