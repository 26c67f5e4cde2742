"""Estimators of advantage and KL. They take the Rollouts, so that a masked row never counts."""

import jax
import jax.numpy as jnp

from ..types import SOLVED_ABOVE, AnyArray, Array, Rollouts


def valid(rollouts: Rollouts) -> Array:
    """bool[B]: rows in which the policy chose a token."""
    return rollouts.mask.any(axis=-1)


def episode_reward(rollouts: Rollouts) -> Array:
    """Sum of a rollout's rewards, f32[B]."""
    return jnp.where(rollouts.mask, rollouts.reward, 0.0).sum(axis=-1)


def solved(rollouts: Rollouts) -> Array:
    """bool[B]: rollouts that earned full reward, which is 1."""
    return valid(rollouts) & (episode_reward(rollouts) > SOLVED_ABOVE)


def over_tokens(row: Array, rollouts: Rollouts) -> Array:
    """f32[B] as f32[B, T]: the same number at every token that the policy chose, 0 elsewhere."""
    return jnp.where(rollouts.mask, row[:, None], 0.0)


def centred(values: Array, rollouts: Rollouts) -> tuple[Array, Array]:
    """Numbers of rollouts f32[B, ...] less the mean of their group, and the group's size f32[B] without masked rows.

    Exactly zero where a group's numbers are equal: one member's are taken off first, or float32 leaves a remainder
    of large ones.
    """
    groups = len(rollouts.group)
    counts = jnp.expand_dims(valid(rollouts), range(1, values.ndim))

    def total(x: Array) -> Array:
        return jax.ops.segment_sum(jnp.where(counts, x, 0.0), rollouts.group, groups)[rollouts.group]

    best = jax.ops.segment_max(jnp.where(counts, values, -jnp.inf), rollouts.group, groups)[rollouts.group]
    size = total(jnp.ones(counts.shape))
    offset = jnp.where(counts, values - jnp.where(counts, best, 0.0), 0.0)
    return jnp.where(counts, offset - total(offset) / jnp.maximum(size, 1.0), 0.0), size.reshape(-1)


def group_centred(rollouts: Rollouts) -> tuple[Array, Array]:
    """Reward less the mean of its group f32[B], and the group's size f32[B] without masked rows."""
    return centred(episode_reward(rollouts), rollouts)


def above_group(rollouts: Rollouts) -> Array:
    """Reward less the mean of its group (Dr. GRPO, arXiv:2503.20783), the same at every token, f32[B, T]."""
    return over_tokens(group_centred(rollouts)[0], rollouts)


def group_zscore(rollouts: Rollouts, epsilon: float) -> Array:
    """Group-relative advantage (GRPO, arXiv:2402.03300, section 4.1.2), f32[B, T].

    (reward - mean) / (standard deviation + epsilon) within a group, the same at every token. The
    deviation is the unbiased one, as in TRL and verl; a group of one, or of equal rewards, has advantage zero.
    """
    centred, size = group_centred(rollouts)
    largest = jax.ops.segment_max(jnp.abs(centred), rollouts.group, len(size))[rollouts.group]
    scale = jnp.where(largest > 0, power_of_two(largest), 1.0)  # squares of large rewards are beyond float32
    squares = jax.ops.segment_sum((centred / scale) ** 2, rollouts.group, len(size))[rollouts.group]
    spread = scale * jnp.sqrt(squares / jnp.maximum(size - 1.0, 1.0)) + epsilon
    return over_tokens(centred / jnp.where(spread > 0, spread, 1.0), rollouts)


def power_of_two(x: Array) -> Array:
    """The largest power of two that is at most x > 0: to divide by it rounds nothing."""
    exponent = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0x7F800000)
    return jax.lax.bitcast_convert_type(exponent, jnp.float32)


def leave_one_out(rollouts: Rollouts) -> Array:
    """Reward less the mean of the others of its group (RLOO, arXiv:2402.14740), f32[B, T].

    A group of one has no others: its advantage is zero.
    """
    centred, size = group_centred(rollouts)
    return over_tokens(centred * size / jnp.maximum(size - 1.0, 1.0), rollouts)


def turn_of(rollouts: Rollouts) -> Array:
    """Number of the turn that a token is in, i32[B, T], from 0; text of the environment is in the turn before it.

    A turn is a completion: neighbouring tokens that the policy chose. Two completions without any text between them
    are one. Tokens before the first are in turn 0.
    """
    begins = rollouts.mask & ~jnp.pad(rollouts.mask, ((0, 0), (1, 0)))[:, :-1]
    return jnp.maximum(jnp.cumsum(begins, axis=1) - 1, 0)


def turn_returns(rollouts: Rollouts) -> Array:
    """The sum of rewards from each turn on, f32[B, K], K = (T + 1) // 2; after the last turn, that of the last."""
    turn, (rows, length) = turn_of(rollouts), rollouts.mask.shape
    paid = jnp.where(rollouts.mask, rollouts.reward, 0.0)
    by_turn = jnp.zeros((rows, (length + 1) // 2)).at[jnp.arange(rows)[:, None], turn].add(paid)
    to_go = jax.lax.cumsum(by_turn, axis=1, reverse=True)
    return jnp.take_along_axis(to_go, jnp.minimum(jnp.arange(to_go.shape[1]), turn[:, -1:]), axis=1)


def turn_leave_one_out(rollouts: Rollouts) -> Array:
    """A turn's return less the mean of the others of its group, from the same turn on, f32[B, T].

    The return of a turn is the sum of its reward and later ones. Credit by turns is that of arXiv:2505.11821,
    section 4, without its deviation; the baseline is ours. A rollout that ended before the turn takes part with
    the return of its last turn. So the baseline depends on the others alone, neither on what a rollout chose nor on
    when it stopped, and the gradient is unbiased (docs/conventions.md). Where all reward is paid at the end, it is
    `leave_one_out`. A group of one has advantage zero.
    """
    above, size = centred(turn_returns(rollouts), rollouts)
    advantage = above * (size / jnp.maximum(size - 1.0, 1.0))[:, None]
    return jnp.where(rollouts.mask, jnp.take_along_axis(advantage, turn_of(rollouts), axis=1), 0.0)


def group_likelihood(rollouts: Rollouts) -> Array:
    """(reward - mean) / mean within a group (MaxRL, arXiv:2602.02710), f32[B, T].

    Its expectation is the gradient of the log-likelihood of success, expanded to as many terms as
    the group has rollouts. Rewards are not negative; a group without any reward has advantage zero.
    """
    centred, _ = group_centred(rollouts)
    mean = episode_reward(rollouts) - centred
    return over_tokens(jnp.where(mean > 0, centred / jnp.where(mean > 0, mean, 1.0), 0.0), rollouts)


def group_varies(rollouts: Rollouts) -> Array:
    """bool[B]: whether the rewards of a rollout's group differ, masked rows aside."""
    centred, _ = group_centred(rollouts)
    return jax.ops.segment_max(jnp.abs(centred), rollouts.group, len(centred))[rollouts.group] > 0


def penalised(rollouts: Rollouts, ref_logp: Array, coef: float) -> Rollouts:
    """The same rollouts with coef * (logp - ref_logp), a token's KL to a reference, off their reward."""
    return rollouts._replace(reward=rollouts.reward - coef * k1(rollouts.logp, ref_logp))


def returns(rollouts: Rollouts, gamma: float) -> Array:
    """The discounted sum of rewards from token t on, f32[B, T]; 0 where the mask is False."""
    return gae(rollouts, jnp.zeros_like(rollouts.reward), gamma, gae_lambda=1.0)


def gae(rollouts: Rollouts, value: Array, gamma: float, gae_lambda: float) -> Array:
    """Generalised advantage estimation (arXiv:1506.02438, equation 16), f32[B, T].

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, where t + 1 is the
    next token that the policy chose: the environment's text carries both through. A rollout cut
    at the length limit counts as ended.

    Args:
      value: V_t f32[B, T], the critic's value before token t is chosen.
    """

    def back(later: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        reward, v, chosen = now
        next_value, next_advantage = later
        advantage = reward + gamma * next_value - v + gamma * gae_lambda * next_advantage
        kept = jnp.where(chosen, v, next_value), jnp.where(chosen, advantage, next_advantage)
        return kept, jnp.where(chosen, advantage, 0.0)

    end = jnp.zeros(len(value)), jnp.zeros(len(value))
    _, advantage = jax.lax.scan(back, end, (rollouts.reward.T, value.T, rollouts.mask.T), reverse=True)
    return advantage.T


def whiten(x: Array, rollouts: Rollouts) -> Array:
    """Mean 0 and variance 1 over the tokens that the policy chose, f32[B, T]; 0 elsewhere.

    Unbiased variance and 1 / sqrt(variance + 1e-8), as in verl. Exactly zero where all are equal: one of
    them is taken off first, or float32 leaves a remainder of the mean, times 10,000.
    """
    count = rollouts.mask.sum()
    offset = jnp.where(rollouts.mask, x - jnp.where(rollouts.mask, x, -jnp.inf).max(), 0.0)
    centred = jnp.where(rollouts.mask, offset - offset.sum() / jnp.maximum(count, 1), 0.0)
    scale = power_of_two(jnp.maximum(jnp.abs(centred).max(), 1.0))  # squares of large numbers are beyond float32
    scaled = centred / scale
    variance = (scaled**2).sum() / jnp.maximum(count - 1, 1)
    return scaled * jax.lax.rsqrt(variance + 1e-8 / scale**2)


def k1(logp: Array, ref_logp: Array) -> Array:
    """Estimator of KL(pi || reference) for a sample of pi: d = logp - ref_logp. Unbiased, may be negative."""
    return logp - ref_logp


def k2(logp: Array, ref_logp: Array) -> Array:
    """Schulman's estimator of KL(pi || reference) for a sample of pi: d^2 / 2, d = logp - ref_logp. Biased."""
    return 0.5 * (logp - ref_logp) ** 2


def k3(logp: Array, ref_logp: Array) -> Array:
    """Schulman's estimator of KL(pi || reference) for a sample of pi: exp(-d) - 1 + d, d = logp - ref_logp."""
    d = logp - ref_logp
    return jnp.expm1(-d) + d  # exp(-d) - 1 would leave nothing of a small d in float32


def reverse_kl(log_policy: Array, log_other: Array, emits: AnyArray) -> Array:
    """KL(pi || other) at each token, f32[B, T], of log-probabilities f32[B, T, V] over the tokens that are emitted."""
    mine, other = (jnp.where(emits, one, 0.0) for one in (log_policy, log_other))  # -inf elsewhere
    return jnp.sum(jnp.where(emits, jnp.exp(mine), 0.0) * (mine - other), axis=-1)
