"""Ctrl-C waits for what has to be whole, and comes once."""

import contextlib
import os
import signal
import threading

import pytest

from rlbench.interrupts import UNINTERRUPTED, Interrupts, patiently


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_interrupts_at_once_where_nothing_is_held():
    held = Interrupts()
    with held.installed(), pytest.raises(KeyboardInterrupt):
        press()


def test_it_waits_for_the_end_of_the_outermost_block():
    held, steps = Interrupts(), []

    def write() -> None:
        with held:
            with held:
                press()
                steps.append("inner")
            steps.append("outer")
        steps.append("after")

    with held.installed(), pytest.raises(KeyboardInterrupt):
        write()
    assert steps == ["inner", "outer"]


def test_a_second_one_is_ignored_until_the_block_is_left():
    held, before = Interrupts(), signal.getsignal(signal.SIGINT)
    with held.installed():
        with pytest.raises(KeyboardInterrupt):
            press()
        press()
    assert signal.getsignal(signal.SIGINT) is before
    with held.installed(), pytest.raises(KeyboardInterrupt):
        press()


def test_another_thread_neither_takes_it_over_nor_is_held():
    held, before, seen = Interrupts(), signal.getsignal(signal.SIGINT), []

    def elsewhere() -> None:
        with held.installed(), held:
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]


def test_one_that_was_lost_is_noticed_before_the_next_call_into_native_code():
    """Whatever is raised while native code looks for an attribute is dropped."""
    with UNINTERRUPTED.installed():
        with contextlib.suppress(KeyboardInterrupt):
            press()
        with pytest.raises(KeyboardInterrupt):
            patiently(lambda: 1)
    assert patiently(lambda: 1) == 1
