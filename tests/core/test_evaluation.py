"""Evaluation: distinct problems, and pass@k against the formula it stands for."""

from math import comb

import numpy as np
import pytest

from rlbench.evaluation import Evaluation, distinct_problems, evaluate, majority, pass_at
from rlbench.types import Bounds, Problem
from tests.fakes import Copy, player_of, problems_of, small_model


@pytest.mark.parametrize("samples", [1, 4, 9])
def test_pass_at_k_is_one_minus_the_chance_of_k_misses(samples):
    for k in range(1, samples + 1):
        expected = [1 - comb(samples - right, k) / comb(samples, k) for right in range(samples + 1)]
        np.testing.assert_allclose(
            pass_at(k, np.full(samples + 1, samples), np.arange(samples + 1)), expected, atol=1e-12
        )


def test_pass_at_k_is_stable_for_many_samples():
    assert pass_at(500, np.array([1000]), np.array([1]))[0] == pytest.approx(0.5)


def test_each_problem_has_its_own_number_of_samples():
    np.testing.assert_allclose(pass_at(2, np.array([2, 4]), np.array([1, 1])), [1.0, 0.5])


def test_the_most_frequent_answer_has_the_vote():
    """Of sampled ones that were judged; of equally frequent ones the first. Columns: greedy, and four samples."""
    said = np.array(["7", *"3455", "7", *"1122", "7", *"1222", "7", *"9999", "7", *"1234"], object)[:, None]
    valid, solved = np.ones((5, 5), bool), np.zeros((5, 5), bool)
    solved[0, 3:] = True  # "5" has two votes of four
    solved[1, 1:3] = True  # "1" came before "2"
    solved[2, 0] = solved[2, 1] = True  # the greedy one has no vote
    valid[3, 1:] = False  # nothing was judged
    valid[4, 1], solved[4, 2] = False, True
    assert majority(said, valid, solved).tolist() == [True, True, False, True]


def test_a_completion_whose_verifier_broke_is_neither_right_nor_wrong(devices):
    import jax

    from rlbench.types import Status, Step

    class Breaks(Copy):
        """Cannot judge the prompts of "a", whatever it says of their reward; all others are right."""

        def step(self, state: str, completion: str) -> Step:
            return Step(state, None, 1.0, Status.INFRASTRUCTURE if state == "a" else Status.PASSED)

    model = small_model()
    settings = Evaluation(every=1, problems=6, samples=2, pass_at=[1], target=0.9, top_k=0, top_p=1.0, trajectories=0)
    actor, problems = player_of(model, Breaks(), devices), problems_of(Copy(), 6)
    report, greedy, _ = evaluate(settings, problems, actor, model.init(jax.random.key(0)), 0)
    assert report["eval/infrastructure_failures"] == 2 * 3
    assert report["eval/accuracy"] == report["eval/sampled_accuracy"] == report["eval/pass@1"] == 1
    assert greedy.solved.sum() == greedy.judged.sum() == 4


def test_the_greedy_completion_is_measured_apart_from_sampled_ones(devices):
    import jax

    model = small_model()
    actor = player_of(model, Copy(), devices)
    params = model.init(jax.random.key(0))
    settings = Evaluation(
        every=1, problems=6, samples=40, pass_at=[1, 40], target=0.9, top_k=0, top_p=1.0, trajectories=0
    )
    problems = problems_of(Copy(), 6)
    report, greedy, _ = evaluate(settings, problems, actor, params, 0)
    # A fresh network is nearly uniform over the end and four letters, right in one of 5 * 5 completions of two tokens.
    assert 0.0 < report["eval/sampled_accuracy"] < 0.2
    assert report["eval/pass@1"] == pytest.approx(report["eval/sampled_accuracy"])
    assert report["eval/pass@40"] > report["eval/pass@1"]
    assert greedy.solved.mean() == report["eval/accuracy"]
    assert evaluate(settings, problems, actor, params, 0)[0] == report
    later, _, _ = evaluate(settings, problems, actor, params, 1)
    assert later != report and later["eval/accuracy"] == report["eval/accuracy"]


class Numbered(Copy):
    """Problems by their numbers: what each asks, and its key."""

    bounds = Bounds(alphabet=frozenset("0123456789guess"), prompt=5, completion=1)

    def __init__(self, ask=str, key=lambda seed: None):
        self.ask, self.key = ask, key
        self.drawn = 0

    def problem(self, seed: int, split: str) -> Problem:
        self.drawn += 1
        return Problem(self.ask(seed), seed, self.key(seed))


def numbers_of(task, count) -> list[int]:
    return [number for number, _ in distinct_problems(task, "heldout", count)]


def test_a_prompt_that_comes_again_is_passed_over():
    assert numbers_of(Numbered(lambda seed: str(seed // 3)), 5) == [0, 3, 6, 9, 12]


def test_a_key_tells_problems_apart_whatever_they_ask_in():
    """One in two words is one; two in the same words are two."""
    assert numbers_of(Numbered(key=lambda seed: (seed // 2, "sum")), 3) == [0, 2, 4]
    assert numbers_of(Numbered(lambda seed: "guess", key=lambda seed: seed % 4), 8) == [0, 1, 2, 3]


@pytest.mark.parametrize(("different", "count", "drawn"), [(30, 10, 10), (30, 64, 30 + 300), (3, 64, 3 + 100)])
def test_a_split_is_exhausted_after_a_bounded_number_of_repetitions(different, count, drawn):
    task = Numbered(lambda seed: str(seed % different))
    assert numbers_of(task, count) == [*range(min(different, count))]
    assert task.drawn == drawn


def test_every_held_out_sum_of_digits_is_found():
    """55 unordered pairs of digits, of which a hash holds out 14."""
    from tests.core.test_arithmetic import arithmetic

    found = distinct_problems(arithmetic(digits=1), "heldout", 256)
    assert len(found) == 14 == len({frozenset(problem.prompt[:-1].split("+")) for _, problem in found})


def test_the_functions_of_code_are_asked_once_each():
    """In other words, too: "subtract 3, add 9" and "add 6" with one more operation may be one function."""
    from tests.core.test_code import code

    found = [problem for _, problem in distinct_problems(code(), "heldout", 64)]
    grid = range(-50, 50)
    assert len({tuple(eval(problem.state.solution, {"x": x}) for x in grid) for problem in found}) == len(found) == 64


@pytest.mark.parametrize("asked", [3, 5])
def test_devices_need_not_divide_the_problems(devices, asked):
    """Three problems, and five, on four devices: the same numbers as on one."""
    import jax

    from rlbench.devices import Devices

    model, problems = small_model(), problems_of(Copy(), asked)
    params = model.init(jax.random.key(0))
    settings = Evaluation(every=1, problems=64, samples=2, pass_at=[1], target=0.9, top_k=0, top_p=1.0, trajectories=64)
    one, four = (
        evaluate(settings, problems, player_of(model, Copy(), where), where.replicate(params), 0)
        for where in (devices, Devices())
    )
    assert one.metrics == four.metrics and one.metrics["eval/problems"] == asked
    assert len(four.greedy.judged) == len(four.trajectories) == asked
