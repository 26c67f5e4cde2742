"""Guessing a number: what is told, what ends an episode, and how many turns halving takes."""

import pytest

from rlbench.plugins import build
from rlbench.types import ConfigError, Status
from tests.fakes import VERIFIER


def guess(numbers=15, largest=99, turns=4):
    sizes = {"numbers": numbers, "largest": largest, "turns": turns}
    return build({"_target_": "rlbench.tasks.guess.Guess", **sizes}, "task")


def hidden(task, number):
    """A state in which a number of 20 to 34 is hidden."""
    return task.problem(0, "train").state._replace(hidden=number, low=20, high=34)


def played(task, number, *guesses):
    """Observations of some guesses, and the last step."""
    state, told = hidden(task, number), []
    for completion in guesses:
        step = task.step(state, completion)
        state = step.state
        told.append(step.next_observation)
    return told, step


def test_a_guess_is_told_higher_or_lower_until_it_is_right():
    told, last = played(guess(), 30, "27", "31", "30")
    assert told == ["higher:", "lower:", None]
    assert (last.reward, last.status) == (1.0, Status.PASSED)


def test_after_the_last_turn_it_is_over():
    told, last = played(guess(), 30, "1", "99", "29", "31")
    assert told == ["higher:", "lower:", "higher:", None]
    assert (last.reward, last.status) == (0.0, Status.WRONG)


def test_the_last_turn_counts():
    assert played(guess(), 30, "1", "99", "29", "30")[1].reward == 1


@pytest.mark.parametrize("completion", ["", " 27", "027", "27:", "x", "-27", "٢٧", "9" * 100_000])
def test_what_is_no_number_ends_it(completion):
    told, last = played(guess(), 30, completion)
    assert (told, last.reward, last.status) == ([None], 0.0, Status.WRONG)


@pytest.mark.parametrize(("numbers", "turns"), [(1, 1), (2, 2), (15, 4), (16, 5), (50, 6)])
def test_halving_finds_every_number(numbers, turns):
    task = guess(numbers, 150, turns)
    states = [task.problem(0, "train").state._replace(hidden=50 + n, low=50, high=49 + numbers) for n in range(numbers)]
    assert [step.reward for step in VERIFIER.play(task, states)] == [1.0] * numbers


def test_halving_uses_what_was_told_even_after_a_silly_guess():
    task = guess(turns=6)
    state = hidden(task, 30)
    for completion in ("28", "5"):
        state = task.step(state, completion).state
    assert 29 <= int(task.solution(state)) <= 34


def test_fewer_turns_than_halving_takes_are_refused():
    with pytest.raises(ConfigError, match=r"task\.turns=3: at least 4: 15 numbers"):
        guess(turns=3)
    with pytest.raises(ConfigError, match=r"task\.largest=20: at least 64"):
        guess(largest=20)


def test_every_number_of_a_range_may_be_hidden():
    """The range alone says the split: else the policy learned which numbers are never right."""
    task = guess()
    for split in ("train", "heldout"):
        states = [task.problem(seed, split).state for seed in range(2000)]
        assert {state.hidden - state.low for state in states} == set(range(15))
