"""pass@k, against the formula it stands for."""

from math import comb

import numpy as np
import pytest

from rlbench.evaluation import Evaluation, evaluate, pass_at
from tests.fakes import Copy, actor_of, small_model


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


def test_a_reply_whose_verifier_broke_is_neither_right_nor_wrong(devices):
    import jax

    from rlbench.types import Status, Step

    class Breaks(Copy):
        """Cannot judge the prompts of "a", whatever it says of their reward; all others are right."""

        def step(self, state: str, reply: str) -> Step:
            return Step(state, None, 1.0, Status.INFRASTRUCTURE if state == "a" else Status.PASSED)

    model = small_model()
    settings = Evaluation(every=1, problems=6, samples=2, pass_at=[1], top_k=0, top_p=1.0, transcripts=0)
    report, likeliest, _ = evaluate(settings, actor_of(model, Breaks(), devices), model.init(jax.random.key(0)), 0)
    assert report["heldout/infrastructure_failures"] == 2 * 3
    assert report["heldout/accuracy"] == report["heldout/sampled_accuracy"] == report["heldout/pass@1"] == 1
    assert likeliest.solved.sum() == likeliest.judged.sum() == 4


def test_the_likeliest_reply_is_measured_apart_from_sampled_ones(devices):
    import jax

    model = small_model()
    actor = actor_of(model, Copy(), devices)
    params = model.init(jax.random.key(0))
    settings = Evaluation(every=1, problems=6, samples=40, pass_at=[1, 40], top_k=0, top_p=1.0, transcripts=0)
    report, likeliest, _ = evaluate(settings, actor, params, 0)
    # A fresh network is nearly uniform over the end and four letters, and right once in 5 * 5 replies of two tokens.
    assert 0.0 < report["heldout/sampled_accuracy"] < 0.2
    assert report["heldout/pass@1"] == pytest.approx(report["heldout/sampled_accuracy"])
    assert report["heldout/pass@40"] > report["heldout/pass@1"]
    assert likeliest.solved.mean() == report["heldout/accuracy"]
    assert evaluate(settings, actor, params, 0)[0] == report
    later, _, _ = evaluate(settings, actor, params, 1)
    assert later != report and later["heldout/accuracy"] == report["heldout/accuracy"]
