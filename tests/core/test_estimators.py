"""Estimators against hand-computed values and plain Python loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.learning.estimators import (
    gae,
    group_centred,
    group_likelihood,
    group_varies,
    group_zscore,
    k1,
    k2,
    k3,
    leave_one_out,
    penalised,
    returns,
    reverse_kl,
    solved,
    turn_leave_one_out,
    turn_of,
    turn_returns,
    whiten,
)
from tests.fakes import rollouts_of


def last(*rewards: float, length: int = 3) -> np.ndarray:
    """Rewards paid at the last of `length` tokens."""
    out = np.zeros((len(rewards), length), np.float32)
    out[:, -1] = rewards
    return out


class TestGroups:
    def test_zscore_by_hand(self):
        # Rewards 1, 0, 0, 1: mean 1/2, unbiased variance 1/3.
        advantage = group_zscore(rollouts_of(last(1, 0, 0, 1)), 1e-6)
        np.testing.assert_allclose(advantage[:, 0], np.array([1, -1, -1, 1]) * 0.5 * 3**0.5, rtol=1e-5)

    def test_every_token_of_a_completion_has_the_same_advantage_and_others_none(self):
        rollouts = rollouts_of(last(1, 0), mask=[[0, 1, 1], [0, 0, 1]])
        advantage = group_zscore(rollouts, 1e-6)
        np.testing.assert_allclose(advantage, [[0, 0.5**0.5, 0.5**0.5], [0, 0, -(0.5**0.5)]], rtol=1e-5)

    @pytest.mark.parametrize("reward", [0.0, 1.0, 10000.1, -3e4])
    @pytest.mark.parametrize("size", [1, 3, 7])
    def test_equal_rewards_teach_exactly_nothing(self, reward, size):
        rollouts = rollouts_of(last(*[reward] * size))
        for advantage in (group_zscore(rollouts, 1e-6), leave_one_out(rollouts), group_likelihood(rollouts)):
            assert (advantage == 0).all()

    @pytest.mark.parametrize("epsilon", [0.0, 1e-6])
    @pytest.mark.parametrize("rewards", [(0.0, 0.0), (1e30, 1e30), (0.0,)])
    def test_equal_rewards_teach_nothing_whatever_is_added_to_their_deviation(self, rewards, epsilon):
        assert (group_zscore(rollouts_of(last(*rewards)), epsilon) == 0).all()

    @pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 3.0, 1e20, 1e30])
    def test_a_deviation_has_no_scale(self, scale):
        """Squares of 1e20 are beyond float32, those of 1e-25 vanish in it."""
        plain, scaled = (group_zscore(rollouts_of(last(x, 0, 0, x)), 0.0) for x in (1.0, scale))
        np.testing.assert_allclose(scaled, plain, rtol=1e-6)

    def test_groups_keep_apart(self):
        rollouts = rollouts_of(last(1, 5, 0, 9), group=[2, 0, 2, 0])
        np.testing.assert_allclose(group_centred(rollouts)[0], [0.5, -2, -0.5, 2])

    def test_a_row_that_did_not_happen_is_in_no_mean(self):
        rollouts = rollouts_of(last(1, 0, 7e7), mask=[[1] * 3, [1] * 3, [0] * 3])
        centred, size = group_centred(rollouts)
        np.testing.assert_allclose(centred, [0.5, -0.5, 0])
        np.testing.assert_allclose(size, [2, 2, 2])

    def test_leave_one_out_by_hand(self):
        # Each less the mean of the two others: 6 - 1.5, 3 - 3, 0 - 4.5. The fourth row is masked.
        rollouts = rollouts_of(last(6, 3, 0, 9), mask=[[1] * 3] * 3 + [[0] * 3])
        np.testing.assert_allclose(leave_one_out(rollouts)[:, 0], [4.5, 0, -4.5, 0])

    def test_likelihood_by_hand(self):
        # Mean 1/4: a success is 3 means above it, a failure 1 below. No success: nothing. Any reward: its share.
        rollouts = rollouts_of(last(1, 0, 0, 0, 0, 0, 3, 1), group=[0, 0, 0, 0, 1, 1, 2, 2])
        np.testing.assert_allclose(group_likelihood(rollouts)[:, 0], [3, -1, -1, -1, 0, 0, 0.5, -0.5])

    def test_a_group_varies_if_the_rewards_of_what_happened_do(self):
        rollouts = rollouts_of(last(1, 0, 1, 1, 1, 0), group=[0, 0, 1, 1, 2, 2], mask=[[1] * 3] * 5 + [[0] * 3])
        np.testing.assert_array_equal(group_varies(rollouts), [True, True, False, False, False, False])

    def test_solved_is_full_reward_over_all_turns(self):
        rollouts = rollouts_of([[0.5, 0, 0.5], [0, 0, 0.9], [0, 0, 1], [0, 0, 1]], mask=[[1, 0, 1]] * 3 + [[0] * 3])
        np.testing.assert_array_equal(solved(rollouts), [True, False, True, False])


class TestTurns:
    MASK = np.array([[0, 1, 1, 0, 0, 1, 0], [0, 1, 0, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], bool)

    def test_a_turn_is_a_completion_and_the_text_that_answers_it(self):
        turn = turn_of(rollouts_of(np.zeros(self.MASK.shape), mask=self.MASK))
        np.testing.assert_array_equal(turn, [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 2, 2], [0] * 7, [0] * 7])

    def paid(self) -> np.ndarray:
        """Turns of three rollouts earn 1, 4; 2, 0, 3; 5. What stands elsewhere is no reward."""
        reward = np.where(self.MASK, 0.0, np.nan)
        reward[0, 2], reward[0, 5], reward[1, 1], reward[1, 6], reward[2, 2] = 1, 4, 2, 3, 5
        return reward

    def test_returns_by_hand(self):
        returns = turn_returns(rollouts_of(self.paid(), mask=self.MASK))
        np.testing.assert_array_equal(returns, [[5, 4, 4, 4], [5, 3, 3, 3], [5, 5, 5, 5], [0, 0, 0, 0]])

    def test_advantages_by_hand(self):
        # First turns: 5 all. Second: 4 less (3 + 5) / 2, 3 less (4 + 5) / 2. Third: 3 less (4 + 5) / 2.
        advantage = turn_leave_one_out(rollouts_of(self.paid(), mask=self.MASK))
        np.testing.assert_array_equal(advantage, [[0] * 7, [0, 0, 0, -1.5, 0, -1.5, -1.5], [0] * 7, [0] * 7])
        alone = rollouts_of(self.paid(), mask=self.MASK, group=[0, 1, 2, 3])
        assert (turn_leave_one_out(alone) == 0).all(), "others in a group of one"

    def test_reward_at_the_end_makes_it_leave_one_out(self):
        """However many turns each takes. Equal rewards are exactly nothing."""
        reward = np.zeros(self.MASK.shape)
        reward[[0, 1, 2], [5, 6, 2]] = 1, 0.25, 0.5
        rollouts = rollouts_of(reward, mask=self.MASK)
        np.testing.assert_allclose(turn_leave_one_out(rollouts), leave_one_out(rollouts), rtol=1e-6)
        equal = rollouts._replace(reward=jnp.where(reward > 0, 10000.1, 0.0))
        assert (turn_leave_one_out(equal) == 0).all()


class TestReturns:
    def test_by_hand_through_environment_text(self):
        rollouts = rollouts_of([[1, 7, 2, 4]], mask=[[1, 0, 1, 1]])
        np.testing.assert_allclose(returns(rollouts, 0.5), [[1 + 0.5 * (2 + 0.5 * 4), 0, 2 + 0.5 * 4, 4]])

    def test_kl_to_a_reference_comes_off_the_reward(self):
        rollouts = rollouts_of([[0, 1]], logp=[[-1.0, -2.0]])
        np.testing.assert_allclose(penalised(rollouts, jnp.array([[-1.5, -1.0]]), 0.1).reward, [[-0.05, 1.1]])


class TestGAE:
    def by_loop(self, rollouts, value, gamma, lam):
        out = np.zeros(value.shape)
        for b in range(len(value)):
            next_value = next_advantage = 0.0
            for t in reversed(range(value.shape[1])):
                if rollouts.mask[b, t]:
                    delta = rollouts.reward[b, t] + gamma * next_value - value[b, t]
                    next_advantage = delta + gamma * lam * next_advantage
                    next_value = value[b, t]
                    out[b, t] = next_advantage
        return out

    @pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.95), (0.5, 0.0)])
    def test_against_a_loop(self, gamma, lam):
        reward, value, chosen = (jax.random.normal(jax.random.key(i), (5, 7)) for i in range(3))
        rollouts = rollouts_of(reward, mask=chosen > -0.3)
        expected = self.by_loop(jax.tree.map(np.asarray, rollouts), np.asarray(value), gamma, lam)
        np.testing.assert_allclose(gae(rollouts, value, gamma, lam), expected, atol=1e-5)

    def test_by_hand_through_environment_text(self):
        # Tokens: chosen, the environment's, chosen with reward 1; values 0.5, (9), 0.2; gamma 0.5, lambda 0.5.
        rollouts = rollouts_of([[0, 0, 1]], mask=[[1, 0, 1]])
        advantage = gae(rollouts, jnp.array([[0.5, 9.0, 0.2]]), 0.5, 0.5)
        np.testing.assert_allclose(advantage, [[0.5 * 0.2 - 0.5 + 0.25 * 0.8, 0, 0.8]], rtol=1e-6)

    def test_an_observation_of_any_length_changes_nothing(self):
        """Values and advantages go from the first token of a turn to the last of the one before."""
        reward, value = np.array([0, 0.25, 0, 1]), np.array([0.5, 0.4, 0.3, 0.2])
        plain = gae(rollouts_of(reward[None]), jnp.asarray(value[None]), 0.9, 0.8)[0]
        for length in range(1, 4):
            place = np.array([0, 1, 2 + length, 3 + length])
            rewards, values = np.full((2, 1, 4 + length), 7.0)  # where nobody chose, they count for nothing
            rewards[0, place], values[0, place] = reward, value
            mask = np.isin(np.arange(4 + length), place)[None]
            advantage = gae(rollouts_of(rewards, mask=mask), jnp.asarray(values), 0.9, 0.8)
            np.testing.assert_allclose(advantage[mask], plain, rtol=1e-6)
            assert (advantage[~mask] == 0).all()

    def test_with_no_discount_and_a_zero_critic_it_is_the_return(self):
        rollouts = rollouts_of([[1, 0, 2, 4]])
        np.testing.assert_allclose(gae(rollouts, jnp.zeros((1, 4)), 1.0, 1.0), [[7, 6, 6, 4]])


class TestWhitening:
    def test_mean_and_variance_over_chosen_tokens(self):
        rollouts = rollouts_of(np.zeros((2, 3)), mask=[[1, 1, 0], [1, 1, 0]])
        white = whiten(jnp.array([[1.0, 2, 99], [3, 4, -99]]), rollouts)
        np.testing.assert_allclose(white[:, 2], 0)
        chosen = np.asarray(white[:, :2])
        np.testing.assert_allclose([chosen.mean(), chosen.var(ddof=1)], [0, 1], atol=1e-6)

    @pytest.mark.parametrize("value", [0.1, 10000.1])
    def test_of_equals_is_exactly_nothing(self, value):
        rollouts = rollouts_of(np.zeros((7, 3)))
        assert (whiten(jnp.full((7, 3), value), rollouts) == 0).all()

    def test_of_nothing_is_nothing(self):
        rollouts = rollouts_of(np.zeros((1, 3)), mask=np.zeros((1, 3)))
        assert (whiten(jnp.full((1, 3), jnp.nan), rollouts) == 0).all()


def test_k3_by_hand_and_the_order_of_its_arguments():
    d = 0.5
    np.testing.assert_allclose(k3(jnp.float32(-1 + d), jnp.float32(-1)), np.exp(-d) + d - 1, rtol=1e-6)
    assert k3(jnp.float32(-1), jnp.float32(-2)) != k3(jnp.float32(-2), jnp.float32(-1))


def test_k1_and_k2_by_hand():
    logp, ref_logp = jnp.float32(-1.0), jnp.float32(-1.5)
    np.testing.assert_allclose([k1(logp, ref_logp), k2(logp, ref_logp)], [0.5, 0.125], rtol=1e-6)


def test_k3_is_unbiased_for_the_kl():
    p, q = jax.nn.log_softmax(jnp.array([[0.0, 1, 2], [0.5, 0, -1]]))
    np.testing.assert_allclose((jnp.exp(p) * k3(p, q)).sum(), (jnp.exp(p) * (p - q)).sum(), rtol=1e-5)


@pytest.mark.parametrize("scale", [10.0, 1e20, 1e30])
def test_whitening_has_no_scale(scale):
    numbers = np.array([[1.0, 2.0], [4.0, 8.0]], np.float32)
    plain, scaled = (np.asarray(whiten(x, rollouts_of(numbers))) for x in (10 * numbers, scale * numbers))
    np.testing.assert_allclose(scaled, plain, rtol=1e-6)


def test_the_reverse_kl_is_over_the_whole_vocabulary_and_its_gradient_is_finite():
    """Also where a token is not emitted, whose log-probabilities are -inf."""
    emits = np.array([True, True, False, True])
    mine, other = (np.log(np.array([p], np.float32)) for p in ([0.5, 0.25, 1, 0.25], [0.25, 0.25, 1, 0.5]))

    def masked(outputs):
        return jax.nn.log_softmax(jnp.where(emits, outputs, -jnp.inf))

    def kl(outputs):
        return reverse_kl(masked(outputs), masked(other), emits)[0]

    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    assert kl(mine) == pytest.approx(expected, rel=1e-5)
    gradient = jax.grad(kl)(jnp.array(mine))
    p = np.array([0.5, 0.25, 0, 0.25])  # of a softmax: p (log p/q - KL)
    np.testing.assert_allclose(gradient[0], p * (np.log([2, 1, 1, 0.5]) - expected), atol=1e-6)
