"""An algorithm where it should be another one, and gradients that are exactly nothing. Small models, real softmaxes."""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from rlbench.learning.estimators import group_centred, over_tokens, whiten
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.learning.objectives import MEANS, token_mean
from rlbench.learning.sft import sft
from rlbench.models.likelihood import token_logp
from rlbench.models.tokenizers import END
from rlbench.testing import algorithm_case
from rlbench.types import Algorithm, Array, Params, Rollouts
from tests.fakes import algorithm_of, as_numpy, rollouts_of, small_model

MODEL = small_model(hidden=16)
SMALL = {"ppo": {"critic": {"width": 8}}}
NO_KL = {"kl_coef": 0.0}
# Those whose advantage is relative to the group, as they are where no KL term is in a reward or a loss.
GROUP_RELATIVE = {
    "grpo": NO_KL,
    "dr_grpo": NO_KL,
    "async_grpo": NO_KL,
    "async_grpo_areal": NO_KL,
    "dapo": {},
    "gspo": {},
    "cispo": {},
    "dppo": {},
    "icepop": {},
    "opsm": {},
    "maxrl": NO_KL,
    "rloo": NO_KL,
    "turn_level_grpo": {},
    "reinforce_plus_plus_baseline": NO_KL,
}


class Case(NamedTuple):
    """An algorithm, some steps away from where it started, and a batch for it."""

    algorithm: Algorithm
    trainable: Params
    frozen: Params
    rollouts: Rollouts

    def score(self, rollouts: Rollouts | None = None) -> dict[str, Array]:
        rollouts = self.rollouts if rollouts is None else rollouts
        return self.algorithm.score(self.trainable, self.frozen, rollouts, jnp.int32(1))

    def loss(self, rollouts: Rollouts, scores: dict[str, Array]):
        return self.algorithm.loss(self.trainable, self.frozen, rollouts, scores)

    def gradient(self, rollouts: Rollouts, scores: dict[str, Array]) -> Params:
        def mean(trainable: Params) -> Array:
            loss = self.algorithm.loss(trainable, self.frozen, rollouts, scores)
            return loss.total / loss.weight

        return jax.grad(mean)(self.trainable)


def case_of(option: str, **changes) -> Case:
    """The contract's batch, ragged and stale and with a masked row."""
    algorithm = algorithm_of(option, MODEL, **SMALL.get(option, {}), **changes)
    kit = algorithm_case(algorithm, MODEL)
    return Case(algorithm, kit.trainable, kit.frozen, kit.rollouts)


def with_ratio(case: Case, log_ratio) -> Case:
    """As if what sampled the batch had been so far from the policy of now; 0 is fresh data."""
    now = token_logp(MODEL, case.trainable["policy"], case.rollouts)
    return case._replace(rollouts=case.rollouts._replace(logp=jnp.where(case.rollouts.mask, now - log_ratio, 0.0)))


def of_length(length: int, case: Case) -> Case:
    """Completions that all have as many tokens, in every row."""
    rows, width = case.rollouts.mask.shape
    position = jnp.arange(width)
    mask = jnp.broadcast_to((position >= 2) & (position < 2 + length), (rows, width))
    last = position == 1 + length
    reward = jnp.where(last, (jnp.arange(rows) % 3 == 0)[:, None].astype(jnp.float32), 0.0)
    tokens = jax.random.randint(jax.random.key(5), (rows, width), END, len(MODEL.emits)).astype(jnp.int32)
    return case._replace(rollouts=case.rollouts._replace(mask=mask, reward=reward, tokens=tokens))


def gradient(case: Case, algorithm: Algorithm | None = None, scores=None):
    """Of the policy."""
    case = case if algorithm is None else case._replace(algorithm=algorithm)
    return case.gradient(case.rollouts, case.score() if scores is None else scores)["policy"]


def assert_same(one, other, scale: float = 1.0) -> None:
    one, other = (ravel_pytree(tree)[0] for tree in (one, other))
    assert np.abs(other).max() > 1e-4, "nothing to compare"
    np.testing.assert_allclose(one, scale * other, atol=2e-5 * scale * np.abs(other).max())


def test_dr_grpo_on_equal_lengths_is_mean_only_grpo_up_to_its_constant():
    case = of_length(4, case_of("dr_grpo", clip=0.2, length=32.0))
    grpo = algorithm_of("grpo", MODEL, kl_coef=0.0, loss_aggregation="sequences")
    mean_only = over_tokens(group_centred(case.rollouts)[0], case.rollouts)
    assert_same(gradient(case), gradient(case, grpo, {"advantage": mean_only}), scale=4 / 32)


def test_rloo_in_groups_of_two_is_twice_the_centred_reward():
    case = case_of("rloo", kl_coef=0.0)
    pairs = case._replace(rollouts=case.rollouts._replace(group=jnp.arange(12, dtype=jnp.int32) // 2))
    both = jnp.repeat(pairs.rollouts.mask.any(axis=1).reshape(-1, 2).all(axis=1), 2)  # one has lost its partner
    centred = over_tokens(jnp.where(both, group_centred(pairs.rollouts)[0], 0.0), pairs.rollouts)
    assert_same(pairs.score()["advantage"], 2.0 * centred)


def test_ppo_undiscounted_with_a_zero_critic_has_the_return_as_its_advantage_before_whitening():
    case = case_of("ppo", gamma=1.0, gae_lambda=1.0)
    critic = jax.tree.map(jnp.zeros_like, case.trainable["critic"])
    scores = case._replace(trainable=case.trainable | {"critic": critic}).score()
    reward = np.where(case.rollouts.mask, case.rollouts.reward, 0.0)
    to_go = np.where(case.rollouts.mask, reward[:, ::-1].cumsum(axis=1)[:, ::-1], 0.0)
    np.testing.assert_array_equal(scores["value"], 0.0)
    np.testing.assert_array_equal(scores["return"], to_go)
    np.testing.assert_allclose(scores["advantage"], whiten(jnp.asarray(to_go), case.rollouts), atol=1e-6)


def test_expert_iteration_on_a_solved_batch_is_supervised_learning(devices):
    """All is kept, and a learner step is SFT's: the same parameters afterwards."""
    case = case_of("expert_iteration")
    mask = case.rollouts.mask.at[5].set(case.rollouts.mask[4])
    last = mask & (jnp.cumsum(mask, axis=1) == mask.sum(axis=1, keepdims=True))
    rollouts = case.rollouts._replace(mask=mask, reward=last.astype(jnp.float32))
    assert case.algorithm.keep(rollouts).all()

    def after(algorithm: Algorithm):
        learner = Learner(algorithm, optax.adam(1e-2), UpdateConfig(2, 2, 10**6), devices, seed=0, donate=True)
        state = learner.init(jax.random.key(0), MODEL.init(jax.random.key(1)), None)
        return as_numpy(learner.step(state, devices.shard(as_numpy(rollouts)))[0].trainable)

    jax.tree.map(np.testing.assert_array_equal, after(case.algorithm), after(sft(MODEL)))


@pytest.mark.parametrize("option", GROUP_RELATIVE)
def test_groups_of_equal_rewards_teach_exactly_nothing(option):
    """In float32, whatever the reward, on stale data: advantage and gradient are zero, not nearly zero."""
    case = case_of(option, **GROUP_RELATIVE[option])
    rollouts = case.rollouts._replace(group=jnp.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 3], jnp.int32))
    last = rollouts.mask & (jnp.cumsum(rollouts.mask, axis=1) == rollouts.mask.sum(axis=1, keepdims=True))

    @jax.jit
    def taught(reward):
        equal = case._replace(rollouts=rollouts._replace(reward=jnp.where(last, reward, 0.0)))
        return equal.score()["advantage"], gradient(equal)

    for reward in (1.0, 10000.1, -3e4, 0.1):
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(taught(jnp.float32(reward)))), reward


@pytest.mark.parametrize("option", ["async_grpo", "async_grpo_areal"])
def test_async_grpo_on_fresh_data_is_grpo(option):
    same = {"kl_coef": 0.04, "advantage_eps": 1e-6, "loss_aggregation": "sequences"}
    fresh = with_ratio(case_of(option, **same), 0.0)
    assert_same(gradient(fresh), gradient(fresh, algorithm_of("grpo", MODEL, **same)))


@pytest.mark.parametrize(("ratio", "weight"), [(0.1, 0.1), (1.9, 1.9), (2.1, 0.0), (1e9, 0.0)])
def test_a_masked_token_weighs_nothing_and_others_their_ratio(ratio, weight):
    case = case_of("async_grpo_areal", is_mask_threshold=2.0)
    fresh, stale = (with_ratio(case, np.log(r)).score()["advantage"] for r in (1.0, ratio))
    np.testing.assert_allclose(stale, weight * fresh, rtol=1e-4)


@pytest.mark.parametrize(("ratio", "weight"), [(1.5, 1.5), (5.0, 2.0), (0.1, 0.1)])
def test_a_truncated_token_weighs_its_ratio_and_2_at_most(ratio, weight):
    case = case_of("async_grpo", is_cap=2.0, **NO_KL)
    fresh, stale = (with_ratio(case, shift).score()["advantage"] for shift in (0.0, np.log(ratio)))
    np.testing.assert_allclose(stale, weight * fresh, rtol=1e-4, atol=1e-6)


def test_dapo_on_completions_that_are_not_too_long_is_grpo_over_tokens():
    case = case_of("dapo", clip=0.2)
    assert_same(gradient(case), gradient(case, algorithm_of("grpo", MODEL, kl_coef=0.0, loss_aggregation="tokens")))


def test_gspo_with_equal_ratios_in_a_sequence_is_grpo():
    """Its clip too: some rows are beyond it on either side."""
    clip = {"low": 0.2, "high": 0.28}
    log_ratio = jnp.linspace(-0.5, 0.5, 12)[:, None]
    case = with_ratio(case_of("gspo", clip=clip), log_ratio)
    grpo = algorithm_of("grpo", MODEL, clip=clip, kl_coef=0.0, loss_aggregation="sequences")
    assert_same(gradient(case), gradient(case, grpo))
    ours, theirs = (case._replace(algorithm=a).loss(case.rollouts, case.score()) for a in (case.algorithm, grpo))
    np.testing.assert_allclose(ours.total, theirs.total, rtol=1e-5)


@pytest.mark.parametrize(("option", "loss_aggregation"), [("cispo", "tokens"), ("rloo", "sums"), ("gspo", "sequences")])
def test_on_fresh_data_it_is_reinforce(option, loss_aggregation):
    """The gradient of advantage times log-probability, added up as the algorithm does."""
    fresh = with_ratio(case_of(option), 0.0)
    advantage = fresh.score()["advantage"]

    def reinforce(policy):
        logp = token_logp(MODEL, policy, fresh.rollouts)
        loss = MEANS[loss_aggregation](-advantage * logp, fresh.rollouts, {})
        return loss.total / loss.weight

    assert_same(gradient(fresh), jax.grad(reinforce)(fresh.trainable["policy"]))


def test_cispo_never_silences_a_token():
    """CISPO's gradient where PPO's clip leaves none: its weight is at its bound and the token still teaches."""
    case = with_ratio(case_of("cispo", clip={"low": 0.2, "high": 0.28}), np.log(5.0))
    scores = case.score() | {"advantage": jnp.where(case.rollouts.mask, 1.0, 0.0)}

    def likelihood(policy):
        loss = token_mean(-token_logp(MODEL, policy, case.rollouts), case.rollouts, {})
        return loss.total / loss.weight

    assert_same(gradient(case, scores=scores), jax.grad(likelihood)(case.trainable["policy"]), scale=1.28)
    silenced = gradient(case, algorithm_of("dapo", MODEL), scores)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(silenced))


def probability_moved(option, old, new, advantage, **changes):
    """Gradient of one row's loss by each token's log-probability, where these tokens have gone from old to new."""
    algorithm = algorithm_of(option, MODEL, **changes)
    case = case_of(option)
    rollouts = rollouts_of(np.zeros((1, len(old))), logp=[np.log(old)])
    scores = {"advantage": jnp.asarray([advantage], jnp.float32)}
    module = sys.modules[f"rlbench.algos.{option}"]
    with pytest.MonkeyPatch.context() as patch:

        def loss(logp):
            patch.setattr(module, "token_logp", lambda *_: logp)
            total = algorithm.loss(case.trainable, case.frozen, rollouts, scores)
            return total.total / total.weight

        return jax.grad(loss)(jnp.log(jnp.asarray([new], jnp.float32)))[0]


def test_dppo_masks_by_probability_and_only_what_moves_away():
    """At 0.15: by hand, the ratio times the advantage of each token that stays, over all six."""
    old, new = [0.01, 0.5, 0.5, 0.5, 0.9, 0.9], [0.1, 0.7, 0.3, 0.6, 0.7, 0.8]
    advantage = [1.0, 1.0, 1.0, 1.0, -1.0, -1.0]
    # Ten times as probable and kept; 0.2 up, masked; 0.2 down against a positive advantage, kept; 0.1 up, kept;
    # 0.2 down, masked; 0.1 down, kept.
    expected = -np.array([10.0, 0.0, 0.6, 1.2, 0.0, -8 / 9]) / 6
    np.testing.assert_allclose(probability_moved("dppo", old, new, advantage), expected, rtol=1e-5)


@pytest.mark.parametrize(("advantage", "limit", "masked"), [(-1.0, 0.5, True), (-1.0, 0.6, False), (1.0, 0.5, False)])
def test_opsm_masks_a_bad_completion_that_the_policy_has_left(advantage, limit, masked):
    """Two tokens that lost 0.8 and 0.3 nats: 0.55 on the average."""
    old, lost = np.array([0.5, 0.5]), np.array([0.8, 0.3])
    moved = probability_moved("opsm", old, old * np.exp(-lost), [advantage] * 2, max_drift=limit, clip=0.9)
    expected = np.zeros(2) if masked else -advantage * np.exp(-lost) / 2
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_icepop_weighs_within_a_band_and_masks_to_both_sides():
    case = case_of("icepop", is_low=0.5, is_high=2.0)
    for ratio, weight in ((0.4, 0.0), (0.6, 0.6), (1.0, 1.0), (1.9, 1.9), (2.1, 0.0)):
        scores = with_ratio(case, np.log(ratio)).score()
        mask = case.rollouts.mask
        np.testing.assert_allclose(scores["weight"][mask], weight, rtol=1e-4)
        fresh = with_ratio(case_of("async_grpo", kl_coef=0.0), 0.0).score()["advantage"]
        np.testing.assert_allclose(scores["advantage"][mask], weight * fresh[mask], rtol=1e-4)


def test_maxrl_and_grpo_agree_on_which_way_and_not_on_how_far():
    """One success in four: 3, -1, -1, -1 of MaxRL are 1.5, -0.5, -0.5, -0.5 of GRPO."""
    rollouts = rollouts_of([[0, 1], [0, 0], [0, 0], [0, 0]])
    frozen = {"reference": None}
    maxrl, grpo = (
        algorithm_of(option, MODEL, kl_coef=0.0).score(None, frozen, rollouts, 0)["advantage"][:, 0]
        for option in ("maxrl", "grpo")
    )
    np.testing.assert_allclose(maxrl, [3, -1, -1, -1], rtol=1e-6)
    np.testing.assert_allclose(grpo, [1.5, -0.5, -0.5, -0.5], rtol=1e-5)


class TestReinforcePlusPlus:
    def test_a_tokens_advantage_is_its_whitened_return_of_reward_less_kl(self):
        case = case_of("reinforce_plus_plus", kl_coef=0.5, gamma=0.9)
        reference = jax.tree.map(lambda x: 0.5 * x, case.trainable["policy"])
        case = case._replace(frozen={"reference": reference})
        rollouts: Rollouts = as_numpy(case.rollouts)
        kl = rollouts.logp - np.asarray(token_logp(MODEL, reference, case.rollouts))
        expected = np.zeros(rollouts.mask.shape)
        for row in range(len(expected)):
            to_go = 0.0
            for t in reversed(np.flatnonzero(rollouts.mask[row])):  # the environment's tokens take no time
                to_go = rollouts.reward[row, t] - 0.5 * kl[row, t] + 0.9 * to_go
                expected[row, t] = to_go
        chosen = expected[rollouts.mask]
        expected = np.where(rollouts.mask, (expected - chosen.mean()) / chosen.std(ddof=1), 0.0)
        np.testing.assert_allclose(case.score()["advantage"], expected, atol=1e-4)

    def test_with_a_baseline_the_group_is_centred_and_the_batch_scaled(self):
        # Rewards 1, 0 and 5, 5, 5; every completion has two tokens: centred 1/2, -1/2, 0, 0, 0, unbiased variance 1/9.
        rollouts = rollouts_of([[0, 1], [0, 0], [0, 5], [0, 5], [0, 5]], group=[0, 0, 1, 1, 1])
        ours = algorithm_of("reinforce_plus_plus_baseline", MODEL, kl_coef=0.0)
        advantage = ours.score(None, {}, rollouts, 0)["advantage"]
        np.testing.assert_allclose(advantage, np.array([[1.5], [-1.5], [0], [0], [0]]) * np.ones(2), rtol=1e-5)


class TestDAPO:
    def of(self, **changes) -> Algorithm:
        return algorithm_of("dapo", MODEL, **changes)

    def test_rewards_fall_with_length_from_a_limit_to_another(self):
        # 2, 4 and 8 tokens, falling from 3 to 5: rewards 1, 1/2 and 0, deviation 1/2.
        rollouts = rollouts_of(np.zeros((3, 8)), mask=np.arange(8) < np.array([[2], [4], [8]]))
        rollouts = rollouts._replace(reward=rollouts.reward.at[jnp.arange(3), jnp.array([1, 3, 7])].set(1.0))
        scores = self.of(overlong_from=3, overlong_to=5, advantage_eps=0.0).score(None, {}, rollouts, 0)
        np.testing.assert_allclose([row.sum() / n for row, n in zip(scores["advantage"], (2, 4, 8))], [1, 0, -1])

    def test_length_is_counted_without_the_environments_text(self):
        mask = [[1, 1, 0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]]
        rollouts = rollouts_of([[0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 0, 0, 0, 0]], mask=mask)
        assert (self.of(overlong_from=4, overlong_to=5).score(None, {}, rollouts, 0)["advantage"] == 0).all()

    def test_a_group_is_kept_if_it_was_neither_all_solved_nor_all_failed(self):
        rollouts = rollouts_of([[1], [1], [1], [0], [0], [0], [0]], group=[0, 0, 1, 1, 2, 2, 3])
        np.testing.assert_array_equal(self.of().keep(rollouts), [False, False, True, True, False, False, False])

    def test_a_group_is_judged_by_its_rewards_not_by_lengths(self):
        rollouts = rollouts_of(np.zeros((2, 8)), mask=np.arange(8) < np.array([[2], [8]]))
        assert not self.of(overlong_from=3, overlong_to=5).keep(rollouts).any()

    def test_it_clips_higher_than_it_clips_low(self):
        case = with_ratio(case_of("dapo"), np.log(1.25))  # between 1 + 0.2 and 1 + 0.28
        up = case.score() | {"advantage": jnp.where(case.rollouts.mask, 1.0, 0.0)}
        grpo = algorithm_of("grpo", MODEL, kl_coef=0.0, loss_aggregation="tokens")
        assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradient(case, scores=up)))
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient(case, grpo, up)))


def test_an_expert_keeps_what_was_solved_whole():
    rollouts = rollouts_of([[0, 1], [0.5, 0.5], [0, 0.9], [1, 1]], mask=[[1, 1], [1, 1], [1, 1], [0, 0]])
    kept = algorithm_of("expert_iteration", MODEL).keep(rollouts)
    np.testing.assert_array_equal(kept, [True, True, False, False])
