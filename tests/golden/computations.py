"""The computations of the table, by our algorithms and their parts.

Where a library's convention is another than ours, the exact relation is held here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlbench.learning.estimators import group_centred, k3, over_tokens, returns, whiten
from rlbench.learning.objectives import MEANS, clipped_value_error
from rlbench.types import Algorithm, Array, Rollouts
from tests.golden.peers import Peers, algorithm, completions, with_prompt

ULP = float(np.finfo(np.float32).eps)


class Compared(NamedTuple):
    """Our value of a recorded array, the code it comes from, and how far rounding may have carried the library off."""

    ours: Array  # [B, T], without the prompt's column
    where: Any = True
    rounding: Any = 0.0


Loss = Callable[[Array], Array]  # of what the gradient is taken by


# Inputs


def sum_of_rewards(peers: Peers) -> Compared:
    return Compared(jnp.asarray(peers.recorded["in_reward"].sum(axis=1)))


def sum_of_advantages(peers: Peers) -> Compared:
    """The file has the sum of another order."""
    advantage = np.where(peers.mask, peers.recorded["in_advantage"], 0.0).sum(axis=1)
    return Compared(jnp.asarray(advantage), rounding=12 * ULP * np.abs(peers.recorded["in_advantage"]).max())


# Advantages


def scored(peers: Peers, ours: Algorithm, rollouts: Rollouts | None = None, policy: str = "logp") -> dict[str, Array]:
    trainable = {"policy": peers.params(policy), "critic": peers.params("value")}
    rollouts = peers.rollouts() if rollouts is None else rollouts
    return ours.score(trainable, {"reference": peers.params("ref_logp")}, rollouts, jnp.int32(0))


def gae(peers: Peers, preset: str, entry: str, **settings) -> Compared:
    """Only where the mask is set: elsewhere verl whitens, and adds values, too."""
    return Compared(completions(scored(peers, algorithm(preset, **settings))[entry]), peers.mask)


def verl_members(peers: Peers) -> Rollouts:
    """verl's statistics of a group count a row that has no token. Told that it has some, ours do."""
    return peers.rollouts(mask=peers.mask | ~peers.valid[:, None])


def alone(peers: Peers) -> np.ndarray:
    """bool[B]: rows that are a group of one."""
    return np.bincount(peers.group)[peers.group] == 1


def raw_if_alone(peers: Peers, advantage: Array) -> Array:
    """verl takes a group of one's reward as its advantage; ours is 0."""
    reward = jnp.asarray(peers.recorded["in_reward"].sum(axis=1))
    return jnp.where(jnp.asarray(alone(peers))[:, None], reward[:, None], advantage)


def rounding_over(peers: Peers, deviation: Any) -> Any:
    """Of a mean of rewards, divided by a deviation: much where rewards are equal and the deviation is not quite 0."""
    return 4 * ULP * np.abs(peers.recorded["in_reward"].sum(axis=1)).max() / np.asarray(deviation)


def group_advantage(peers: Peers, preset: str, **settings) -> Compared:
    """Of verl's members. It is divided by the group's deviation if an epsilon is added to that."""
    advantage = completions(scored(peers, algorithm(preset, **settings), verl_members(peers))["advantage"])
    rewards = [peers.recorded["in_reward"].sum(axis=1)[peers.group == g] for g in peers.group]
    spread = np.array([r.std(ddof=1) if len(r) > 1 else 1.0 for r in rewards])[:, None]
    assert (np.asarray(advantage)[spread[:, 0] == 0] == 0).all(), "equal rewards teach exactly nothing"
    divisor = spread + settings["advantage_eps"] if "advantage_eps" in settings else 1.0
    return Compared(raw_if_alone(peers, advantage), peers.mask, rounding_over(peers, divisor))


def rounding_of_whitening(peers: Peers, advantage: Array) -> Any:
    """Of a whitened array: how far rewards' rounding goes, divided by what they were divided by."""
    chosen = np.asarray(completions(advantage), np.float64)[peers.mask]
    return rounding_over(peers, np.sqrt(chosen.var(ddof=1) + 1e-8))


def whitened_returns(peers: Peers, preset: str, gamma: float, **settings) -> Compared:
    ours = scored(peers, algorithm(preset, gamma=gamma, **settings))["advantage"]
    return Compared(completions(ours), peers.mask, rounding_of_whitening(peers, returns(peers.rollouts(), gamma=gamma)))


def less_group_mean(peers: Peers) -> Array:
    """Rewards less the mean of verl's members, at every token."""
    centred, _ = group_centred(verl_members(peers))
    return over_tokens(raw_if_alone(peers, centred[:, None])[:, 0], peers.rollouts())


def baseline_by_parts(peers: Peers) -> Compared:
    """Whitened over the tokens that there are."""
    centred = less_group_mean(peers)
    ours = completions(whiten(centred, peers.rollouts()))
    return Compared(ours, peers.mask, rounding_of_whitening(peers, centred))


def baseline(peers: Peers, preset: str, **settings) -> Compared:
    """Nowhere if some row has no token or is a group of one: what verl takes off is not ours then."""
    ours = completions(scored(peers, algorithm(preset, **settings))["advantage"])
    same = peers.valid.all() and not alone(peers).any()
    return Compared(ours, peers.mask & same, rounding_of_whitening(peers, less_group_mean(peers)))


def kl(peers: Peers, estimator: Callable[[Array, Array], Array], most: float = np.inf) -> Compared:
    d = peers.recorded["in_logp"], peers.recorded["in_ref_logp"]
    return Compared(jnp.minimum(estimator(*map(jnp.asarray, d)), most), rounding=2 * ULP * np.abs(d).max())


# Losses


def mean(loss) -> Array:
    return loss.total / loss.weight


def value_loss_by_parts(peers: Peers, value_clip: float, loss_aggregation: str) -> Loss:
    """Of in_new_value, against the reward to go. verl halves it as we do."""
    old, target = peers.per_token("value"), returns(peers.rollouts(), gamma=1.0)

    def loss(value: Array) -> Array:
        error = clipped_value_error(with_prompt(value), old, target, value_clip)
        return mean(MEANS[loss_aggregation](error, peers.rollouts(), {}))

    return loss


def value_loss(peers: Peers, preset: str, **settings) -> Loss:
    """The algorithm's own loss without an advantage, at the recorded policy."""
    ours, old = algorithm(preset, **settings), peers.per_token("value")
    scores = {"advantage": jnp.zeros_like(old), "value": old, "return": returns(peers.rollouts(), gamma=1.0)}
    policy = peers.params("logp")
    return lambda value: mean(ours.loss({"policy": policy, "critic": value}, {}, peers.rollouts(), scores))


def loss_at(peers: Peers, advantage: Array, preset: str, low=0.2, high=0.28, dual=None, **settings) -> Loss:
    """The algorithm's own loss, but for the advantage, as a function of the policy's log-probabilities.

    A critic is shown its own values as returns: its loss is 0.
    """
    clip = {"low": low, "high": high} | ({"dual": dual} if dual else {})
    ours, rollouts = algorithm(preset, clip=clip, **settings), peers.rollouts()
    scores = scored(peers, ours) | {"advantage": advantage}
    if "return" in scores:
        scores["return"] = scores["value"]
    return lambda logp: mean(ours.loss({"policy": logp, "critic": peers.params("value")}, {}, rollouts, scores))


def policy_loss(peers: Peers, preset: str, **settings) -> Loss:
    return loss_at(peers, peers.per_token("advantage"), preset, **settings)


def trl_loss(peers: Peers, preset: str, **settings) -> Loss:
    """TRL's advantage is one number a row."""
    advantage = over_tokens(jnp.asarray(peers.recorded["in_sequence_advantage"]), peers.rollouts())
    return loss_at(peers, advantage, preset, **settings)


def of_all_rows(peers: Peers, loss: Loss) -> Loss:
    """TRL's means over rows count one without a token; ours are over valid ones."""
    return lambda logp: loss(logp) * float(peers.valid.mean())


def with_kl(peers: Peers, loss: Loss, beta: float, loss_aggregation: str) -> Loss:
    def total(logp: Array) -> Array:
        kl = k3(with_prompt(logp), peers.per_token("ref_logp"))
        return loss(logp) + beta * mean(MEANS[loss_aggregation](kl, peers.rollouts(), {}))

    return total


def trl_loss_of_all_rows(peers: Peers, preset: str, **settings) -> Loss:
    return of_all_rows(peers, trl_loss(peers, preset, **settings))


def trl_gspo(peers: Peers, preset: str, beta: float, **settings) -> Loss:
    """TRL adds a KL term to its sequence-level loss, our GSPO has none."""
    return of_all_rows(peers, with_kl(peers, trl_loss(peers, preset, **settings), beta, "sequences"))


def trl_dr_grpo(peers: Peers, preset: str, **settings) -> Loss:
    """Divided by 12, the length of the longest completion that was allowed, which is the width of what was recorded."""
    return trl_loss_of_all_rows(peers, preset, length=float(peers.mask.shape[1]), **settings)


def trl_cispo(peers: Peers, preset: str, beta: float, **settings) -> Loss:
    """Our CISPO has no KL term."""
    return with_kl(peers, trl_loss(peers, preset, **settings), beta, "tokens")


def decoupled(peers: Peers, preset: str, **settings) -> Loss:
    """Scored at the proximal policy, on what the behaviour policy sampled."""
    return loss_and_weight(peers, "behave_logp", preset, **settings)[0]


def uncorrected(peers: Peers, preset: str, **settings) -> Loss:
    """Without the behaviour ratio the proximal policy is the one that sampled."""
    loss, weight = loss_and_weight(peers, "old_logp", preset, **settings)
    assert (weight == 1).all()
    return loss


def loss_and_weight(peers: Peers, sampled_by: str, preset: str, **settings) -> tuple[Loss, Array]:
    ours, rollouts = algorithm(preset, **settings), peers.rollouts(sampled_by)
    scores = scored(peers, ours, rollouts, policy="old_logp")
    scores["advantage"] = scores["weight"] * peers.per_token("advantage")
    return lambda logp: mean(ours.loss({"policy": logp}, {}, rollouts, scores)), scores["weight"]
