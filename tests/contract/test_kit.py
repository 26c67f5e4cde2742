"""The kit itself: each check catches the fault that it is for, and says what was expected, what came and where."""

import os
import random
from collections import OrderedDict

import jax
import jax.numpy as jnp
import pytest

from rlbench.contract.sources import Source
from rlbench.learning.estimators import (
    episode_reward,
    gae,
    group_varies,
    group_zscore,
    over_tokens,
    solved,
    whiten,
)
from rlbench.learning.objectives import masked_sum, token_mean
from rlbench.models.likelihood import token_logp
from rlbench.plugins import build
from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS, NotApplicable, algorithm_case
from rlbench.testing.outcome import Outcome, examine
from rlbench.types import Algorithm, Bounds, Loss, Problem, Status, Step
from tests.fakes import VERIFIER, small_model, verifier_of

MODEL = small_model(hidden=16)
SETTINGS = {"group_size": 4, "clip": 0.2, "kl_coef": 0.04, "advantage_eps": 1e-6, "loss_aggregation": "sequences"}
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


def first_rows_count_more(trainable, frozen, rollouts, scores):
    rank = jnp.arange(len(rollouts.group))[:, None].astype(jnp.float32)
    return token_mean(-rank * scores["advantage"] * logp_of(trainable, rollouts), rollouts, {})


def product_of_ratios(trainable, frozen, rollouts, scores):
    log_ratio = jnp.where(rollouts.mask, logp_of(trainable, rollouts) - rollouts.logp, 0.0)
    ratio = jnp.exp(log_ratio.sum(axis=1, keepdims=True))
    return token_mean(-ratio * scores["advantage"], rollouts, {})


def transformed(trainable, frozen, rollouts, scores):
    spectrum = jnp.abs(jnp.fft.rfft(logp_of(trainable, rollouts)))[:, :1]
    return token_mean(scores["advantage"] * spectrum, rollouts, {})


def two_networks_at_once(trainable, frozen, rollouts, scores):
    mixed = jax.tree.map(lambda x, y: (x + y) / 2, trainable["policy"], frozen["reference"])
    return token_mean(-scores["advantage"] * logp_of({"policy": mixed}, rollouts), rollouts, {})


def mean_of_rows_that_did_not_happen(trainable, frozen, rollouts, version):
    reward = rollouts.reward.sum(axis=1)
    return {"advantage": over_tokens(reward - reward.mean(), rollouts)}


def a_score_a_batch(trainable, frozen, rollouts, version):
    return {"advantage": group_zscore(rollouts, 1e-6), "mean": rollouts.reward.mean()}


def a_score_a_position(trainable, frozen, rollouts, version):
    return {"advantage": group_zscore(rollouts, 1e-6), "mean": rollouts.reward.mean(axis=0)}


def groups_are_neighbours(trainable, frozen, rollouts, version):
    reward = episode_reward(rollouts).reshape(-1, 2)
    return {"advantage": over_tokens((reward - reward.mean(axis=1, keepdims=True)).reshape(-1), rollouts)}


def group_numbers_matter(trainable, frozen, rollouts, version):
    return {"advantage": group_zscore(rollouts, 1e-6) * rollouts.group[:, None]}


def group_mean(rollouts):
    valid = rollouts.mask.any(axis=1)
    sums = jax.ops.segment_sum(episode_reward(rollouts), rollouts.group, len(rollouts.group))
    counts = jax.ops.segment_sum(valid.astype(jnp.float32), rollouts.group, len(rollouts.group))
    return (sums / jnp.maximum(counts, 1))[rollouts.group]


def divided_by_the_deviation(trainable, frozen, rollouts, version):
    centred = episode_reward(rollouts) - group_mean(rollouts)
    squares = jax.ops.segment_sum(centred**2, rollouts.group, len(rollouts.group))[rollouts.group]
    return {"advantage": over_tokens(jnp.where(squares >= 0, centred / jnp.sqrt(squares), 0.0), rollouts)}


def rounded_mean(trainable, frozen, rollouts, version):
    return {"advantage": over_tokens(episode_reward(rollouts) - group_mean(rollouts), rollouts)}


def whitened(trainable, frozen, rollouts, version):
    return {"advantage": whiten(gae(rollouts, jnp.zeros(rollouts.mask.shape), 1.0, 1.0), rollouts)}


def whitened_after_the_group(trainable, frozen, rollouts, version):
    return {"advantage": whiten(rounded_mean(trainable, frozen, rollouts, version)["advantage"], rollouts)}


def with_a_second_head(trainable, frozen):
    return trainable["policy"] | {"second": trainable["policy"]["head"]}


def penalised(trainable, frozen, rollouts, version):
    """A KL term is taken off the reward."""
    away = rollouts.logp - token_logp(MODEL, frozen["reference"], rollouts)
    return rounded_mean(trainable, frozen, rollouts._replace(reward=rollouts.reward - 0.1 * away), version)


def with_an_offset(trainable, frozen, rollouts, version):
    return {"advantage": group_zscore(rollouts, 1e-6) + over_tokens(jnp.full(len(rollouts.group), 0.1), rollouts)}


def won(rollouts):
    return episode_reward(rollouts) > 0


def of_modest_groups(rollouts):
    return jax.ops.segment_sum(rollouts.reward.sum(axis=1), rollouts.group, len(rollouts.group))[rollouts.group] < 5


def of_neighbours(rollouts):
    return jnp.repeat(episode_reward(rollouts).reshape(-1, 4).max(axis=1) > 0, 4) & (jnp.arange(12) < 4)


def better_than_the_batch(rollouts):
    """Groups are whole, and masked rows play no part, but others' rewards do."""
    reward, valid = episode_reward(rollouts), rollouts.mask.any(axis=1)
    best = jax.ops.segment_max(jnp.where(valid, reward, -jnp.inf), rollouts.group, num_segments=len(reward))
    mean = jnp.where(valid, reward, 0).sum() / jnp.maximum(valid.sum(), 1)
    return best[rollouts.group] > mean


def none(trainable, frozen, rollouts, version):
    return {}


def without_source(model):
    """An idea."""


WITHOUT_KL = GOOD._replace(
    init=lambda key, policy, rollouts: ({"policy": policy}, {}),
    score=lambda t, f, r, v: {"advantage": group_zscore(r, 1e-6)},
    loss=lambda t, f, r, s: token_mean(-s["advantage"] * logp_of(t, r), r, {}),
)

FAULTS: list[tuple[str, Algorithm]] = [
    ("halves", GOOD._replace(loss=a_mean_a_microbatch)),
    ("masking", GOOD._replace(loss=every_token_counts)),
    ("masking", GOOD._replace(loss=masked_by_multiplying)),
    ("masked rows", GOOD._replace(loss=absent_rows_count)),
    ("masked rows", WITHOUT_KL._replace(score=mean_of_rows_that_did_not_happen)),
    ("no valid row", GOOD._replace(loss=absent_rows_count)),
    ("zero advantage", GOOD._replace(loss=moves_without_advantage)),
    ("idle rows", GOOD._replace(idle_without_advantage=True)),  # there is a KL
    ("idle rows", WITHOUT_KL._replace(idle_without_advantage=True, loss=moves_without_advantage)),
    ("finite", GOOD._replace(loss=infinite_slope)),
    ("structure", GOOD._replace(loss=metric_of_every_token)),
    ("structure", WITHOUT_KL._replace(score=a_score_a_batch)),
    ("structure", WITHOUT_KL._replace(score=a_score_a_position)),
    ("structure", WITHOUT_KL._replace(keep=episode_reward)),
    ("structure", GOOD._replace(loss=looks_at_numbers)),
    ("structure", WITHOUT_KL._replace(acting=with_a_second_head)),
    ("structure", WITHOUT_KL._replace(init=lambda key, policy, rollouts: (OrderedDict(policy=policy), {}))),
    ("structure", WITHOUT_KL._replace(init=lambda key, policy, rollouts: ({"policy": policy}, [policy["norm"]]))),
    ("no recompilation", WITHOUT_KL._replace(init=lambda key, policy, rollouts: (OrderedDict(policy=policy), {}))),
    ("accounting", WITHOUT_KL._replace(loss=transformed)),
    ("accounting", GOOD._replace(score=WITHOUT_KL.score, loss=two_networks_at_once)),
    ("accounting", WITHOUT_KL._replace(init=lambda key, policy, rollouts: ({"policy": policy}, {"policy": policy}))),
    ("permutation", WITHOUT_KL._replace(loss=first_rows_count_more)),
    ("permutation", WITHOUT_KL._replace(score=groups_are_neighbours)),
    ("permutation", WITHOUT_KL._replace(score=group_numbers_matter)),
    ("group of one", WITHOUT_KL._replace(score=divided_by_the_deviation)),
    ("equal rewards", WITHOUT_KL._replace(score=divided_by_the_deviation)),
    ("equal rewards", WITHOUT_KL._replace(score=rounded_mean)),
    ("equal rewards", WITHOUT_KL._replace(score=with_an_offset)),
    ("staleness", WITHOUT_KL._replace(loss=product_of_ratios)),
    ("keep", WITHOUT_KL._replace(keep=won)),
    ("keep", WITHOUT_KL._replace(keep=of_modest_groups)),
    ("keep", WITHOUT_KL._replace(keep=of_neighbours)),
    ("keep", WITHOUT_KL._replace(keep=better_than_the_batch)),
]


def name_of(value) -> str | None:
    """Of a fault, for the test's."""
    functions = [
        getattr(value, name).__name__ for name in ("init", "score", "loss", "acting", "keep") if hasattr(value, name)
    ]
    return "-".join(name for name in functions if name != "<lambda>") if functions else None


@pytest.mark.parametrize(("check", "algorithm"), FAULTS, ids=name_of)
def test_a_fault_of_an_algorithm_is_caught(check, algorithm):
    with pytest.raises((AssertionError, jax.errors.TracerBoolConversionError)):
        ALGORITHM_CHECKS[check](algorithm_case(algorithm, MODEL))


def test_a_docstring_without_a_source_is_caught():
    with pytest.raises(AssertionError, match=r"expected a source .* came the docstring 'An idea.'"):
        ALGORITHM_CHECKS["docstring"](algorithm_case(GOOD, MODEL, maker=without_source))


@pytest.mark.parametrize(
    "source", ["arXiv:1707.06347", "arXiv:cs/9901001", "doi:10.1007/BF00992696", "https://example.org/post"]
)
def test_a_source_is_an_identifier_or_an_address(source):
    def maker(model): ...

    maker.__doc__ = f"An idea ({source})."
    ALGORITHM_CHECKS["docstring"](algorithm_case(GOOD, MODEL, maker=maker))


@pytest.mark.parametrize(
    "algorithm",
    [
        WITHOUT_KL._replace(keep=group_varies),
        WITHOUT_KL._replace(keep=solved, score=none, loss=moves_without_advantage),
    ],
    ids=["groups that teach", "rows, where groups do not matter"],
)
def test_what_may_be_kept(algorithm):
    ALGORITHM_CHECKS["keep"](algorithm_case(algorithm, MODEL))


@pytest.mark.parametrize(
    ("check", "algorithm", "why"),
    [
        ("zero advantage", WITHOUT_KL._replace(score=none, loss=moves_without_advantage), "no .advantage."),
        ("equal rewards", WITHOUT_KL._replace(score=whitened), "does not depend on groups"),
        ("equal rewards", WITHOUT_KL._replace(score=whitened_after_the_group), "other groups' rewards"),
        ("equal rewards", GOOD._replace(score=penalised, loss=WITHOUT_KL.loss), "more than rewards"),
        ("keep", GOOD, "every rollout"),
        ("idle rows", GOOD, "does not say idle_without_advantage"),
    ],
)
def test_what_does_not_apply_says_why(check, algorithm, why):
    with pytest.raises(NotApplicable, match=why):
        ALGORITHM_CHECKS[check](algorithm_case(algorithm, MODEL))


class Good:
    """The answer is the prompt, and pays 1."""

    bounds = Bounds(alphabet=frozenset("0123456789"), prompt=14, completion=14)

    def problem(self, seed: int, split: str) -> Problem:
        number = str(2 * seed + (split == "heldout"))
        return Problem(number, number)

    def step(self, state: str, completion: str) -> Step:
        return Step(state, None, float(completion == state), Status.PASSED if completion == state else Status.WRONG)

    def solution(self, state: str) -> str:
        return state


class HalfPaid(Good):
    def step(self, state, completion):
        return super().step(state, completion)._replace(reward=0.5)


class Generous(Good):
    def step(self, state, completion):
        return Step(state, None, 1.0, Status.PASSED)


class Fickle(Good):
    def problem(self, seed, split):
        return super().problem(random.randrange(10**6), split)


class Hashed(Good):
    """The answer is the prompt, and pays 1; numbers are another process's."""

    def problem(self, seed, split):
        return super().problem(hash(f"{seed}") % 10**6, split)


class Moody(Good):
    def step(self, state, completion):
        return Step(state, None, random.random(), Status.WRONG)


class Unpicklable(Good):
    def problem(self, seed, split):
        return Problem(str(seed), lambda: seed)

    def solution(self, state):
        return str(state())


class Leaky(Good):
    def problem(self, seed, split):
        return super().problem(seed, "train")


class Reworded(Good):
    def problem(self, seed, split):
        return super().problem(seed, split)._replace(key=seed)


class FickleInKey(Good):
    def problem(self, seed, split):
        return super().problem(seed, split)._replace(key=random.random())


class Verbose(Good):
    def problem(self, seed, split):
        return Problem("what is " + super().problem(seed, split).prompt, "1")


class Endless(Good):
    def step(self, state, completion):
        return Step(state, "1", 0.0, Status.OPEN)


class Silent(Good):
    """Numbers."""


class Consumes(Good):
    """The answer is the prompt, and pays 1. It is taken out of the state when it is compared."""

    def problem(self, seed, split):
        return Problem((number := super().problem(seed, split).prompt), [number])

    def step(self, state, completion):
        return super().step(state.pop(), completion)

    def solution(self, state):
        return state[0]


class Honest(Consumes):
    """The answer is the prompt, and pays 1. What judges numbers that end with 9 or 8 is out of order."""

    def step(self, state, completion):
        if state[0][-1] in "98":
            return Step(state, None, 0.0, Status.INFRASTRUCTURE, detail="no service")
        return super().step(state, completion)


class Spends(Good):
    """The answer is the prompt, and pays 1, but once."""

    def __init__(self):
        self.unspent = set()

    def problem(self, seed, split):
        problem = super().problem(seed, split)
        self.unspent.add(problem.state)
        return problem

    def step(self, state, completion):
        spent = state not in self.unspent
        self.unspent.discard(state)
        return Step(state, None, 0.0, Status.WRONG) if spent else super().step(state, completion)


class Impatient(Good):
    """The answer is the prompt, and pays 1; a completion of a single character is none."""

    def step(self, state, completion):
        return super().step(state, completion) if completion != "?" else Step(state, None, 0.0, completion)["status"]


STRICT = verifier_of(max_failures=0.1)


def test_a_good_task_passes():
    for check in TASK_CHECKS.values():
        check(Good(), STRICT)


def test_a_task_that_changes_states_and_cannot_judge_some_passes_up_to_a_fraction():
    for check in TASK_CHECKS.values():
        check(Honest(), verifier_of(max_failures=0.25))
    with pytest.raises(
        AssertionError, match=r"at most 0\.1 \(verifier\.max_failures\) of 100 reference solutions .* came 19, "
    ):
        TASK_CHECKS["solution"](Honest(), STRICT)


def test_an_error_of_a_step_is_a_failure_at_its_line():
    source = Source(Impatient, {"step": Impatient.step})
    (result,) = examine({"garbage": TASK_CHECKS["garbage"]}, (Impatient(), VERIFIER), source)
    assert result.came.startswith("TypeError: tuple indices must be")
    assert result.where == f"{os.path.relpath(__file__)}:{Impatient.step.__code__.co_firstlineno + 1} step"


@pytest.mark.parametrize(
    ("check", "task"),
    [
        ("docstring", Silent),
        ("solution", HalfPaid),
        ("garbage", Generous),
        ("determinism", Fickle),
        ("determinism", Hashed),
        ("determinism", Moody),
        ("determinism", Spends),
        ("picklable", Unpicklable),
        ("determinism", FickleInKey),
        ("splits", Leaky),
        ("splits", Reworded),
        ("bounds", Verbose),
        ("bounds", Endless),
    ],
)
def test_a_fault_of_a_task_is_caught(check, task):
    with pytest.raises(AssertionError):
        TASK_CHECKS[check](task(), VERIFIER)


def result_of(check: str, algorithm: Algorithm):
    functions = {name: function for name, function in algorithm._asdict().items() if callable(function)}
    (result,) = examine(
        {check: ALGORITHM_CHECKS[check]}, (algorithm_case(algorithm, MODEL),), Source(without_source, functions)
    )
    return result


def line_of(function) -> str:
    """file:line of a function of this file, as seen from where the tests run, and its name."""
    return f"{os.path.relpath(__file__)}:{function.__code__.co_firstlineno} {function.__name__}"


def test_a_failure_says_what_was_expected_what_came_and_where_to_look():
    result = result_of("no valid row", GOOD._replace(loss=absent_rows_count))
    assert result.outcome == Outcome.FAILED
    assert (result.expected, result.came) == ("weight 0 where no valid row", "12")
    assert result.where == line_of(absent_rows_count)


def test_an_error_within_a_plugin_is_a_failure_at_its_line():
    def forgetful(trainable, frozen, rollouts, version):
        return {"advantage": rollouts.rewards}

    result = result_of("structure", WITHOUT_KL._replace(score=forgetful))
    assert result.came == "AttributeError: 'Rollouts' object has no attribute 'rewards'"
    assert result.where == f"{os.path.relpath(__file__)}:{forgetful.__code__.co_firstlineno + 1} forgetful"


def test_what_does_not_apply_is_no_failure_and_keeps_its_reason():
    result = result_of("zero advantage", WITHOUT_KL._replace(score=none, loss=moves_without_advantage))
    assert result.outcome == Outcome.NOT_APPLICABLE and "advantage" in result.reason


def test_a_structure_that_does_not_hold_is_told_once():
    """All checks that call the functions wait for it, and say so; those that don't are asked."""
    case = algorithm_case(WITHOUT_KL._replace(score=a_score_a_batch), MODEL, maker=without_source)
    results = list(examine(ALGORITHM_CHECKS, (case,), Source(without_source, {"score": a_score_a_batch})))
    failures = {result.check: result for result in results if result.outcome == Outcome.FAILED}
    assert list(failures) == ["docstring", "structure"]
    told = failures["structure"]
    assert (told.expected, told.came) == ('"mean" [B] or [B, T], a row a rollout', "f32[]")
    assert told.where == line_of(a_score_a_batch)
    others = [result for result in results if result.check not in (*failures, "keep", "after")]
    assert {(result.outcome, result.reason) for result in others} == {
        (Outcome.NOT_APPLICABLE, "not run, since the check structure failed")
    }
