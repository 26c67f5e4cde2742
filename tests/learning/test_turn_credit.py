"""Credit by turns on a problem whose gradient is known: expectations of estimators over all groups that there are.

A prompt is answered at once, or after one or two calls of a tool; the first call pays. The policy chooses when to
stop. Nothing is sampled: expectations are sums over every group of every trajectory, by its probability.
"""

import itertools
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.learning.estimators import turn_of
from rlbench.models.likelihood import token_logp
from rlbench.types import Algorithm, Array, Model, Rollouts
from tests.fakes import algorithm_of

ASKED, TOLD, TOLD_AGAIN, RIGHT, WRONG, CALL = range(2, 8)  # tokens: of the environment, and of the policy
GROUP = 3
Pays = dict[int, dict[int, tuple[float, int | None]]]
# What a token chosen after another pays, and what the environment says then; None: the episode is over.
TOOL: Pays = {
    ASKED: {RIGHT: (0.8, None), WRONG: (0.0, None), CALL: (0.2, TOLD)},
    TOLD: {RIGHT: (0.8, None), WRONG: (0.0, None), CALL: (0.0, TOLD_AGAIN)},
    TOLD_AGAIN: {RIGHT: (0.8, None), WRONG: (0.0, None), CALL: (0.0, None)},
}
# Three questions, as long as the answers are right.
QUESTIONS: Pays = {
    said: {RIGHT: (1 / 3, following), WRONG: (0.0, None), CALL: (0.0, None)}
    for said, following in ((ASKED, TOLD), (TOLD, TOLD_AGAIN), (TOLD_AGAIN, None))
}


def bigram() -> Model:
    """A policy that looks at the last token alone. Its parameters f32[8, 8] are what it says after each."""

    def nothing(*_, **__):
        raise AssertionError("not asked of a table")

    return Model(
        init=nothing, apply=lambda params, tokens: params[tokens], extend=nothing, cache=nothing, resized=nothing,
        size=nothing, emits=np.arange(8) >= RIGHT, temperature=1.0, dtype="float32", chunk_tokens=10**9,
    )  # fmt: skip


MODEL = bigram()


def episodes(pays: Pays, said: int = ASKED) -> list[tuple[list[int], list[float]]]:
    """Every trajectory from here on: its tokens, the environment's among them, and their rewards."""
    found = []
    for token, (reward, answer) in pays[said].items():
        rest = [([], [])] if answer is None else episodes(pays, answer)
        found += [([said, token, *tokens], [0.0, reward, *rewards]) for tokens, rewards in rest]
    return found


def trajectories(params: Array, pays: Pays = TOOL) -> Rollouts:
    """All of them as rows, just sampled."""
    rows, width = episodes(pays), 6
    tokens = np.array([tokens + [0] * (width - len(tokens)) for tokens, _ in rows], np.int32)
    reward = np.array([rewards + [0.0] * (width - len(rewards)) for _, rewards in rows], np.float32)
    zeros = np.zeros(tokens.shape, np.int32)
    fresh = Rollouts(tokens, tokens >= RIGHT, zeros.astype(np.float32), reward, zeros[:, 0], zeros)
    return jax.tree.map(jnp.asarray, fresh._replace(logp=token_logp(MODEL, params, fresh)))


def policy(seed: int) -> Array:
    """Uniform, or random."""
    return min(seed, 1) * 0.5 * jax.random.normal(jax.random.key(seed), (8, 8))


def probability(params: Array, rows: Rollouts) -> Array:
    """f32[trajectories]."""
    return jnp.exp(token_logp(MODEL, params, rows).sum(axis=1))


def true_gradient(seed: int, pays: Pays = TOOL) -> np.ndarray:
    """Gradient of the expected reward."""
    rows = trajectories(policy(seed), pays)
    return np.asarray(jax.grad(lambda params: probability(params, rows) @ rows.reward.sum(axis=1))(policy(seed)))


def estimated(algorithm: Algorithm, seed: int, pays: Pays = TOOL) -> tuple[np.ndarray, float]:
    """The expectation of the gradient that an algorithm follows on one group, and the sum of its entries' variances."""
    params, rows = policy(seed), trajectories(policy(seed), pays)
    groups = jnp.array([*itertools.product(range(len(rows.group)), repeat=GROUP)])

    def gradient(members: Array) -> Array:
        group = jax.tree.map(lambda x: x[members], rows)
        scores = algorithm.score({"policy": params}, {"reference": params}, group, jnp.int32(0))

        def objective(params: Array) -> Array:
            loss = algorithm.loss({"policy": params}, {}, group, scores)
            return -loss.total / loss.weight

        return jax.grad(objective)(params)

    chances = probability(params, rows)[groups].prod(axis=1)
    gradients = jax.jit(jax.vmap(gradient))(groups)
    mean = jnp.tensordot(chances, gradients, axes=1)
    return np.asarray(mean), float(chances @ ((gradients - mean) ** 2).sum(axis=(1, 2)))


def by_number_of_turn(rollouts: Rollouts, *, others: bool = False, deviation: bool = False) -> Array:
    """The usual turn-level advantage, f32[B, T]: rewards less the mean of those of the same turn, added up from it on.

    Args:
      others: the mean is that of the others; 0 where there are none.
      deviation: each is divided by the deviation of those of its turn + 1e-6 (arXiv:2505.11821).
    """
    turn = turn_of(rollouts)
    number = jnp.arange(3)
    at = (turn[:, :, None] == number) & rollouts.mask[:, :, None]  # [B, T, K]
    reward, there = (rollouts.reward[:, :, None] * at).sum(axis=1), at.any(axis=1)  # [B, K]
    count = there.sum(axis=0)
    if others:
        mean = (reward.sum(axis=0) - reward) / jnp.maximum(count - there, 1)
    else:
        mean = reward.sum(axis=0) / jnp.maximum(count, 1)
    above = jnp.where(there, reward - mean, 0.0)
    if deviation:
        above /= jnp.sqrt((above**2).sum(axis=0) / jnp.maximum(count - 1, 1)) + 1e-6
    summed = jax.lax.cumsum(above, axis=1, reverse=True)
    return jnp.where(rollouts.mask, jnp.take_along_axis(summed, turn, axis=1), 0.0)


def usual(**how: bool) -> Algorithm:
    """Turn-level GRPO with the usual advantage in place of ours."""
    ours = algorithm_of("turn_level_grpo", MODEL)

    def score(trainable, frozen, rollouts, version):
        return {"advantage": by_number_of_turn(rollouts, **how)}

    return ours._replace(score=score)


ALGORITHMS = {
    "turn_level_grpo": partial(algorithm_of, "turn_level_grpo", MODEL),
    "turn_level_grpo, mean over sequences": partial(
        algorithm_of, "turn_level_grpo", MODEL, loss_aggregation="sequences"
    ),
    "turn_level_grpo, mean over tokens": partial(algorithm_of, "turn_level_grpo", MODEL, loss_aggregation="tokens"),
    "rloo": partial(algorithm_of, "rloo", MODEL, kl_coef=0.0),
    "dr_grpo": partial(algorithm_of, "dr_grpo", MODEL, length=1.0),
    "grpo, sums": partial(algorithm_of, "grpo", MODEL, kl_coef=0.0, loss_aggregation="sums"),
    "by number of turn": usual,
    "by number of turn, mean of the others": partial(usual, others=True),
    "by number of turn, / deviation": partial(usual, deviation=True),
}


@pytest.mark.parametrize("pays", [TOOL, QUESTIONS], ids=["tool", "questions"])
@pytest.mark.parametrize("seed", range(3))
def test_turn_level_grpo_follows_the_true_gradient(seed, pays):
    expectation, _ = estimated(ALGORITHMS["turn_level_grpo"](), seed, pays)
    np.testing.assert_allclose(expectation, true_gradient(seed, pays), atol=2e-7)


def test_credit_by_turns_has_less_variance_where_turns_pay():
    """RLOO credits a turn with what earlier ones have earned, too."""
    (_, by_turn), (_, by_episode) = (
        estimated(ALGORITHMS[name](), 0, QUESTIONS) for name in ("turn_level_grpo", "rloo")
    )
    assert by_turn < 0.8 * by_episode


def test_a_mean_that_includes_the_rollout_itself_shortens_the_gradient_and_does_not_turn_it():
    """By (G - 1) / G, whatever the number of turns."""
    expectation, _ = estimated(ALGORITHMS["dr_grpo"](), 1)
    np.testing.assert_allclose(expectation, (GROUP - 1) / GROUP * true_gradient(1), atol=2e-7)


@pytest.mark.parametrize("seed", range(3))
def test_a_baseline_by_number_of_turn_charges_every_turn_what_it_usually_pays(seed):
    """The bias is the gradient of a penalty on turns: one more costs the mean reward of the others that take it."""
    rows, params = trajectories(policy(seed)), policy(seed)
    turn, chances = turn_of(rows), probability(params, rows)
    reaches = jnp.stack([(rows.mask & (turn == number)).any(axis=1) for number in range(3)], axis=1)  # [rows, K]
    paid = jnp.stack([jnp.where(turn == number, rows.reward, 0.0).sum(axis=1) for number in range(3)], axis=1)
    often = chances @ reaches
    baseline = chances @ paid / often * (1 - (1 - often) ** (GROUP - 1))  # the mean of the others, if there are any

    penalty = jax.grad(lambda params: probability(params, rows) @ reaches @ baseline)(params)
    expectation, _ = estimated(ALGORITHMS["by number of turn, mean of the others"](), seed)
    np.testing.assert_allclose(expectation, true_gradient(seed) - penalty, atol=2e-7)
    assert np.abs(penalty).max() > 1e-3


def test_what_the_page_of_conventions_says_is_what_comes_out():
    """Cosine to the true gradient, length relative to it, standard deviation, and the entry of a first call."""
    page = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text()
    table = re.findall(r"^\| ([^|]+) \| (-?[\d.]+) \| ([\d.]+) \| ([\d.]+) \| (-?[\d.]+) \|$", page, re.MULTILINE)
    assert [name for name, *_ in table] == ["true gradient", *ALGORITHMS]
    true = true_gradient(0)
    for name, *numbers in table:
        expectation, variance = (true, 0.0) if name == "true gradient" else estimated(ALGORITHMS[name](), 0)
        sizes = np.linalg.norm(expectation), np.linalg.norm(true)
        cosine = (expectation * true).sum() / np.prod(sizes)
        found = cosine, sizes[0] / sizes[1], variance**0.5, expectation[ASKED, CALL]
        np.testing.assert_allclose(found, [float(number) for number in numbers], atol=6e-4, err_msg=name)
