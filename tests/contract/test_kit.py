"""The kit itself: each check catches the fault that it is for."""

import random

import jax
import jax.numpy as jnp
import pytest

from rlbench.learning.estimators import over_tokens
from rlbench.learning.objectives import masked_sum, token_mean
from rlbench.models.likelihood import token_logp
from rlbench.plugins import build
from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS, algorithm_case
from rlbench.types import Algorithm, Bounds, Loss, Problem, Status, Step
from tests.fakes import VERIFIER, small_model

MODEL = small_model(hidden=16)
SETTINGS = {"group_size": 4, "clip": 0.2, "kl_coef": 0.04, "epsilon": 1e-6, "mean_over": "sequences"}
GOOD = build({"_target_": "rlbench.algos.grpo.grpo"} | SETTINGS, "algo", MODEL)


def logp_of(trainable, rollouts):
    return token_logp(MODEL, trainable["policy"], rollouts)


def a_mean_a_microbatch(trainable, frozen, rollouts, scores):
    loss = GOOD.loss(trainable, frozen, rollouts, scores)
    return Loss(loss.total / loss.weight, jnp.float32(1), {})


def every_token_counts(trainable, frozen, rollouts, scores):
    return Loss((logp_of(trainable, rollouts) - rollouts.logp).sum(), masked_sum(rollouts.logp, rollouts)[1], {})


def masked_by_multiplying(trainable, frozen, rollouts, scores):
    ratio = jnp.exp(logp_of(trainable, rollouts) - rollouts.logp) * rollouts.mask.astype(jnp.float32)
    return Loss(ratio.sum(), rollouts.mask.sum().astype(jnp.float32), {})


def absent_rows_count(trainable, frozen, rollouts, scores):
    loss = GOOD.loss(trainable, frozen, rollouts, scores)
    return loss._replace(weight=jnp.float32(len(rollouts.group)))


def moves_without_advantage(trainable, frozen, rollouts, scores):
    return token_mean(-logp_of(trainable, rollouts), rollouts, {})


def infinite_slope(trainable, frozen, rollouts, scores):
    return token_mean(jnp.sqrt(jnp.abs(0.0 * logp_of(trainable, rollouts))), rollouts, {})


def metric_of_every_token(trainable, frozen, rollouts, scores):
    loss = GOOD.loss(trainable, frozen, rollouts, scores)
    return loss._replace(metrics={"logp": (rollouts.logp, rollouts.mask)})


def looks_at_numbers(trainable, frozen, rollouts, scores):
    loss = GOOD.loss(trainable, frozen, rollouts, scores)
    return loss if rollouts.reward.sum() > 0 else loss._replace(total=-loss.total)


def mean_of_rows_that_did_not_happen(trainable, frozen, rollouts, version):
    reward = rollouts.reward.sum(axis=1)
    return {"advantage": over_tokens(reward - reward.mean(), rollouts)}


WITHOUT_KL = GOOD._replace(loss=lambda t, f, r, s: token_mean(-s["advantage"] * logp_of(t, r), r, {}))

FAULTS: list[tuple[str, Algorithm]] = [
    ("halves", GOOD._replace(loss=a_mean_a_microbatch)),
    ("masking", GOOD._replace(loss=every_token_counts)),
    ("masking", GOOD._replace(loss=masked_by_multiplying)),
    ("absent rows", GOOD._replace(loss=absent_rows_count)),
    ("absent rows", WITHOUT_KL._replace(score=mean_of_rows_that_did_not_happen)),
    ("nothing happened", GOOD._replace(loss=absent_rows_count)),
    ("zero advantage", GOOD._replace(loss=moves_without_advantage)),
    ("finite", GOOD._replace(loss=infinite_slope)),
    ("shapes", GOOD._replace(loss=metric_of_every_token)),
    ("one compilation", GOOD._replace(loss=looks_at_numbers)),
]


@pytest.mark.parametrize(("check", "algorithm"), FAULTS)
def test_a_fault_of_an_algorithm_is_caught(check, algorithm):
    with pytest.raises((AssertionError, jax.errors.TracerBoolConversionError)):
        ALGORITHM_CHECKS[check](algorithm_case(algorithm, MODEL))


class Good:
    """The answer is the prompt."""

    bounds = Bounds(alphabet=frozenset("0123456789"), prompt=3, reply=3)

    def problem(self, seed: int, split: str) -> Problem:
        number = str(2 * (seed % 200) + (split == "heldout"))
        return Problem(number, number)

    def step(self, state: str, reply: str) -> Step:
        return Step(state, None, float(reply == state), Status.PASSED if reply == state else Status.WRONG)

    def gold(self, state: str) -> str:
        return state


class HalfPaid(Good):
    def step(self, state, reply):
        return super().step(state, reply)._replace(reward=0.5)


class Generous(Good):
    def step(self, state, reply):
        return Step(state, None, 1.0, Status.PASSED)


class Fickle(Good):
    def problem(self, seed, split):
        return super().problem(random.randrange(10**6), split)


class Leaky(Good):
    def problem(self, seed, split):
        return super().problem(seed, "train")


class Verbose(Good):
    def problem(self, seed, split):
        return Problem("what is " + super().problem(seed, split).prompt, "1")


def test_a_good_task_passes():
    for check in TASK_CHECKS.values():
        check(Good(), VERIFIER)


@pytest.mark.parametrize(
    ("check", "task"),
    [("gold", HalfPaid), ("garbage", Generous), ("deterministic", Fickle), ("splits", Leaky), ("bounds", Verbose)],
)
def test_a_fault_of_a_task_is_caught(check, task):
    with pytest.raises(AssertionError):
        TASK_CHECKS[check](task(), VERIFIER)
