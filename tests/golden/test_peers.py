"""Our algorithms against numbers that TRL, verl and AReaL computed; docs/conventions.md says which is which.

Measured: an array may be off by 1e-5 of its own largest magnitude; a loss by 1e-5 of itself and the rounding
of the terms that cancel in it, 4 units in the last place of the sum of its gradient's magnitudes, which are
those of its terms. Where a library's convention is another than ours, the rule below says so and holds the
exact relation. Every key of every file has to have a rule.
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.learning.estimators import group_centred, k1, k2, k3, over_tokens, returns, whiten
from rlbench.learning.objectives import MEANS, clipped_value_error
from rlbench.models import likelihood
from rlbench.types import Algorithm, Array, Rollouts
from tests.golden.peers import INPUTS, Peers, algorithm, files, folders, replies, with_prompt

TOLERANCE = 1e-5
ULP = float(np.finfo(np.float32).eps)
AGGREGATIONS = {"token-mean": "tokens", "seq-mean-token-mean": "sequences", "seq-mean-token-sum": "sums"}
CLIP = {"low": 0.2, "high": 0.28}  # of all recorded losses, unless a rule says otherwise


class Compared(NamedTuple):
    """Our value of a recorded array, the code it comes from, and how far rounding may have carried the library off."""

    ours: Array  # [B, T], without the prompt's column
    where: Any = True
    rounding: Any = 0.0


LossOf = Callable[[Array], Array]  # of what the gradient is taken by
ARRAYS: dict[str, Callable[..., dict[str, Compared]]] = {}
LOSSES: dict[str, Callable[..., dict[str, LossOf]]] = {}


def rule(kind: dict[str, Any], pattern: str) -> Callable[[Callable], Callable]:
    def enter(function: Callable) -> Callable:
        kind[pattern] = function
        return function

    return enter


def matching(kind: dict[str, Any], key: str) -> list[tuple[Callable, dict[str, str]]]:
    return [(function, m.groupdict()) for pattern, function in kind.items() if (m := re.fullmatch(pattern, key))]


@cache
def peers_of(path: Path) -> Peers:
    return Peers(path)


def keys(path: Path) -> list[str]:
    """Every key but the inputs that others are computed from."""
    return [key for key in peers_of(path).recorded if key not in INPUTS - {"in_score", "in_sequence_advantage"}]


EVERY = [pytest.param(path, key, id=f"{path.stem}-{key}") for path in files() for key in keys(path)]


@pytest.fixture(autouse=True)
def as_recorded(monkeypatch):
    """The recorded ones are not normalised, some log-probabilities are above 0: no softmax goes over it."""
    monkeypatch.setattr(likelihood, "log_policy", lambda model, outputs: outputs)


# What is compared


@rule(ARRAYS, "in_score")
def score(peers):
    return {"sum of rewards": Compared(jnp.asarray(peers.recorded["in_reward"].sum(axis=1)))}


@rule(ARRAYS, "in_sequence_advantage")
def sequence_advantage(peers):
    advantage = np.where(peers.mask, peers.recorded["in_advantage"], 0.0).sum(axis=1)
    # The file has the sum of another order.
    return {"sum": Compared(jnp.asarray(advantage), rounding=12 * ULP * np.abs(peers.recorded["in_advantage"]).max())}


@rule(ARRAYS, r"verl\.gae_(?P<what>whitened|returns)\.gamma(?P<gamma>[\d.]+)\.lam(?P<lam>[\d.]+)")
def gae(peers, what, gamma, lam):
    """Only where the mask is set: elsewhere verl whitens, and adds values, too."""
    scores = scored(peers, algorithm("ppo_verl", gamma=float(gamma), lam=float(lam)))
    ours = scores["return" if what == "returns" else "advantage"]
    return {"ppo_verl": Compared(replies(ours), peers.mask)}


def verl_members(peers) -> Rollouts:
    """verl's statistics of a group count a row that has no token. Told that it has some, ours do."""
    return peers.rollouts(mask=peers.mask | ~peers.happened[:, None])


def raw_if_alone(peers, advantage: Array) -> Array:
    """verl takes a group of one's reward as its advantage; ours is 0."""
    alone = np.bincount(peers.group)[peers.group] == 1
    reward = jnp.asarray(peers.recorded["in_reward"].sum(axis=1))
    return jnp.where(jnp.asarray(alone)[:, None], reward[:, None], advantage)


def rounding_over(peers, deviation) -> Any:
    """Of a mean of rewards, divided by a deviation: much where rewards are equal and the deviation is not quite 0."""
    return 4 * ULP * np.abs(peers.recorded["in_reward"].sum(axis=1)).max() / np.asarray(deviation)


@rule(ARRAYS, r"verl\.grpo_advantage\.(?P<divided>std|mean_only)")
def grpo_advantage(peers, divided):
    epsilon = 1e-6 if divided == "std" else 0.0
    ours = algorithm("grpo_verl", epsilon=epsilon) if divided == "std" else algorithm("dr_grpo")
    advantage = replies(scored(peers, ours, verl_members(peers))["advantage"])
    rewards = [peers.recorded["in_reward"].sum(axis=1)[peers.group == g] for g in peers.group]
    spread = np.array([r.std(ddof=1) if len(r) > 1 else 1.0 for r in rewards])[:, None]
    rounding = rounding_over(peers, spread + epsilon if divided == "std" else 1.0)
    assert (np.asarray(advantage)[spread[:, 0] == 0] == 0).all(), "equal rewards teach exactly nothing"
    return {divided: Compared(raw_if_alone(peers, advantage), peers.mask, rounding)}


@rule(ARRAYS, r"verl\.rloo_advantage")
def rloo_advantage(peers):
    advantage = replies(scored(peers, algorithm("rloo", kl_coef=0.0), verl_members(peers))["advantage"])
    return {"rloo": Compared(raw_if_alone(peers, advantage), peers.mask, rounding_over(peers, 1.0))}


def rounding_of_whitening(peers, advantage) -> Any:
    """Of a whitened array: how far rewards' rounding goes, divided by what they were divided by."""
    chosen = np.asarray(advantage, np.float64)[peers.mask]
    return rounding_over(peers, np.sqrt(chosen.var(ddof=1) + 1e-8))


@rule(ARRAYS, r"verl\.reinforce_plus_plus")
def reinforce_plus_plus(peers):
    ours = algorithm("reinforce_plus_plus", kl_coef=0.0, gamma=1.0)
    rounding = rounding_of_whitening(peers, replies(returns(peers.rollouts(), gamma=1.0)))
    return {"reinforce_plus_plus": Compared(replies(scored(peers, ours)["advantage"]), peers.mask, rounding)}


@rule(ARRAYS, r"verl\.reinforce_plus_plus_baseline")
def reinforce_plus_plus_baseline(peers):
    """Group means of verl's members, whitened over the tokens that there are."""
    centred, _ = group_centred(verl_members(peers))
    centred = raw_if_alone(peers, centred[:, None])[:, 0]
    by_parts = over_tokens(centred, peers.rollouts())
    rounding = rounding_of_whitening(peers, replies(by_parts))
    claims = {"by parts": Compared(replies(whiten(by_parts, peers.rollouts())), peers.mask, rounding)}
    if peers.happened.all() and (np.bincount(peers.group) > 1).all():
        ours = scored(peers, algorithm("reinforce_plus_plus_baseline", kl_coef=0.0))["advantage"]
        claims["reinforce_plus_plus_baseline"] = Compared(replies(ours), peers.mask, rounding)
    return claims


@rule(ARRAYS, r"verl\.kl\.(?P<estimator>k1|k2|k3)")
def kl(peers, estimator):
    """verl's k3 ends at 10."""
    d = peers.recorded["in_logp"], peers.recorded["in_ref_logp"]
    ours = {"k1": k1, "k2": k2, "k3": lambda *logps: jnp.minimum(k3(*logps), 10.0)}[estimator](*map(jnp.asarray, d))
    return {estimator: Compared(ours, rounding=2 * ULP * np.abs(d).max())}


@rule(LOSSES, r"verl\.value_loss\.clip(?P<clip>[\d.]+)\.(?P<aggregation>[a-z-]+)")
def value_loss(peers, clip, aggregation):
    """Of in_new_value, against the reward to go. verl halves it as we do."""
    old, target = peers.per_token("value"), returns(peers.rollouts(), gamma=1.0)

    def by_parts(value: Array) -> Array:
        error = clipped_value_error(with_prompt(value), old, target, float(clip))
        return mean(MEANS[AGGREGATIONS[aggregation]](error, peers.rollouts(), {}))

    if aggregation != "token-mean":
        return {"by parts": by_parts}
    ppo = algorithm("ppo_verl", value_clip=float(clip))
    scores = {"advantage": jnp.zeros_like(old), "value": old, "return": target}

    def of_ppo(value: Array) -> Array:
        return mean(ppo.loss({"policy": peers.params("logp"), "critic": value}, {}, peers.rollouts(), scores))

    return {"by parts": by_parts, "ppo_verl": of_ppo}


@rule(LOSSES, r"verl\.ppo_(clip|dual_clip(?P<dual>[\d.]+))\.(?P<aggregation>[a-z-]+)")
def surrogate(peers, dual, aggregation):
    clip = CLIP | ({"dual": float(dual)} if dual else {})
    mean_over = AGGREGATIONS[aggregation]
    ours = {"grpo_verl": algorithm("grpo_verl", clip=clip, mean_over=mean_over, kl_coef=0.0)}
    if mean_over == "tokens":
        ours |= {name: algorithm(name, clip=clip) for name in ("ppo_verl", "dapo")}
    if mean_over == "sums":
        ours |= {"rloo": algorithm("rloo", clip=clip)}
    return {name: policy_loss(peers, a, peers.per_token("advantage")) for name, a in ours.items()}


@rule(LOSSES, r"verl\.gspo\.seq-mean-token-mean")
def gspo(peers):
    """In the form of GSPO-token in both: advantages differ from token to token."""
    return {"gspo": policy_loss(peers, algorithm("gspo", clip=CLIP), peers.per_token("advantage"))}


@rule(LOSSES, r"verl\.cispo\.(?P<aggregation>[a-z-]+)")
def cispo(peers, aggregation):
    """Weights from 1 - 0.2 to 1 + 0.28."""
    ours = algorithm("cispo", clip=CLIP, mean_over=AGGREGATIONS[aggregation])
    return {"cispo": policy_loss(peers, ours, peers.per_token("advantage"))}


@rule(LOSSES, r"trl\.(?P<kind>bnpo|dapo)\.beta(?P<beta>[\d.]+)\.token")
def trl_tokens(peers, kind, beta):
    """bnpo's batch is what is on a device, dapo's is all: recorded from one batch, they are the same."""
    ours = algorithm("grpo_trl", clip=CLIP, kl_coef=float(beta))
    return {"grpo_trl": policy_loss(peers, ours, row_advantage(peers))}


@rule(LOSSES, r"trl\.grpo\.beta(?P<beta>[\d.]+)\.token")
def trl_grpo(peers, beta):
    ours = algorithm("grpo_trl", clip=CLIP, kl_coef=float(beta), mean_over="sequences")
    return {"grpo_trl": of_all_rows(peers, policy_loss(peers, ours, row_advantage(peers)))}


@rule(LOSSES, r"trl\.grpo\.beta(?P<beta>[\d.]+)\.sequence")
def trl_sequence(peers, beta):
    """TRL adds a divergence to its sequence-level loss, our GSPO has none."""
    ours = policy_loss(peers, algorithm("gspo", clip=CLIP, epsilon=1e-4), row_advantage(peers))
    return {"gspo": of_all_rows(peers, with_divergence(peers, ours, float(beta), "sequences"))}


@rule(LOSSES, r"trl\.dr_grpo\.beta(?P<beta>[\d.]+)\.token")
def trl_dr_grpo(peers, beta):
    """Divided by 12, the length of the longest reply that was allowed, which is the width of what was recorded."""
    length = float(peers.mask.shape[1])
    ours = algorithm("dr_grpo", clip=CLIP, kl_coef=float(beta), length=length)
    return {"dr_grpo": of_all_rows(peers, policy_loss(peers, ours, row_advantage(peers)))}


@rule(LOSSES, r"trl\.cispo\.beta(?P<beta>[\d.]+)\.token")
def trl_cispo(peers, beta):
    """TRL's epsilon_high is the upper bound itself, 1.2 here; it has no lower one. Our CISPO has no divergence."""
    ours = policy_loss(peers, algorithm("cispo_trl", clip={"low": 1.0, "high": 0.2}), row_advantage(peers))
    return {"cispo_trl": with_divergence(peers, ours, float(beta), "tokens")}


@rule(LOSSES, r"areal\.decoupled_ppo\.none")
def areal_uncorrected(peers):
    """Without the behaviour ratio the proximal policy is the one that sampled."""
    ours = algorithm("async_grpo_areal")
    as_if = scored(peers, ours, peers.rollouts("old_logp"), policy="old_logp")
    assert (as_if["weight"] == 1).all()
    grpo = algorithm("grpo", kl_coef=0.0, mean_over="tokens")
    losses = {"grpo": policy_loss(peers, grpo, peers.per_token("advantage"))}
    return losses | {"async_grpo_areal": decoupled(peers, ours, "old_logp")}


@rule(LOSSES, r"areal\.decoupled_ppo\.(?P<how>clamp|mask)(?P<most>[\d.]+)")
def areal(peers, how, most):
    if how == "mask":
        return {"async_grpo_areal": decoupled(peers, algorithm("async_grpo_areal", most=float(most)), "behave_logp")}
    truncated = algorithm("async_grpo", truncation=float(most), kl_coef=0.0, mean_over="tokens")
    return {"async_grpo": decoupled(peers, truncated, "behave_logp")}


# How ours is computed


def mean(loss) -> Array:
    return loss.total / loss.weight


def scored(peers, ours: Algorithm, rollouts: Rollouts | None = None, policy: str = "logp") -> dict[str, Array]:
    trainable = {"policy": peers.params(policy), "critic": peers.params("value")}
    rollouts = peers.rollouts() if rollouts is None else rollouts
    return ours.score(trainable, {"reference": peers.params("ref_logp")}, rollouts, jnp.int32(0))


def policy_loss(peers, ours: Algorithm, advantage: Array) -> LossOf:
    """The algorithm's own loss, but for the advantage, as a function of the policy's log-probabilities.

    A critic is shown its own values as returns: its loss is 0.
    """
    rollouts = peers.rollouts()
    scores = scored(peers, ours) | {"advantage": advantage}
    if "return" in scores:
        scores["return"] = scores["value"]

    def loss(logp: Array) -> Array:
        return mean(ours.loss({"policy": logp, "critic": peers.params("value")}, {}, rollouts, scores))

    return loss


def decoupled(peers, ours: Algorithm, sampled_by: str) -> LossOf:
    """Scored at the proximal policy, on what another one sampled."""
    rollouts = peers.rollouts(sampled_by)
    scores = scored(peers, ours, rollouts, policy="old_logp")
    scores["advantage"] = scores["weight"] * peers.per_token("advantage")
    return lambda logp: mean(ours.loss({"policy": logp}, {}, rollouts, scores))


def row_advantage(peers) -> Array:
    """TRL's advantage is one number a row."""
    return over_tokens(jnp.asarray(peers.recorded["in_sequence_advantage"]), peers.rollouts())


def of_all_rows(peers, loss: LossOf) -> LossOf:
    """TRL's means over rows count one without a token; ours are over those that happened."""
    return lambda logp: loss(logp) * float(peers.happened.mean())


def with_divergence(peers, loss: LossOf, beta: float, mean_over: str) -> LossOf:
    def total(logp: Array) -> Array:
        divergence = k3(with_prompt(logp), peers.per_token("ref_logp"))
        return loss(logp) + beta * mean(MEANS[mean_over](divergence, peers.rollouts(), {}))

    return total


# The tests


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_there_is_something_to_compare(folder):
    assert [path for path in files() if path.parent == folder], f"no peers_seed*.npz in {folder}"


@pytest.mark.parametrize("path", files(), ids=lambda path: path.stem)
def test_every_key_has_one_rule(path):
    found = peers_of(path).recorded
    assert set(found) >= INPUTS, "inputs are missing"
    for key in keys(path):
        rules = matching(ARRAYS, key) + matching(LOSSES, key.removesuffix(".grad_value").removesuffix(".grad"))
        assert len(rules) == 1, f"{key} has {len(rules)} rules: no test says what it is"
    assert len(found) > len(INPUTS), "nothing but inputs"


def test_the_page_of_conventions_names_every_rule_and_no_other():
    page = (Path(__file__).parents[2] / "docs/conventions.md").read_text()
    proofs = [row.rsplit("|", 2)[1] for row in page.splitlines() if row.startswith("|") and row.count("|") == 7]
    named = {name for cell in proofs for name in re.findall(r"`(\w+)`", cell)}
    rules = {function.__name__ for kind in (ARRAYS, LOSSES) for function in kind.values()}
    helpers = {raw_if_alone.__name__, verl_members.__name__, of_all_rows.__name__}
    assert rules - {"score", "sequence_advantage", "areal_uncorrected"} <= named <= rules | helpers


@cache
def claims(path: Path, key: str) -> dict[str, tuple[Array, Array]]:
    """Of a recorded loss, by each of ours that is it: the loss and its gradient."""
    peers = peers_of(path)
    of = peers.params("new_value" if f"{key}.grad_value" in peers.recorded else "logp")
    ((function, parts),) = matching(LOSSES, key)
    return {name: jax.value_and_grad(loss)(of) for name, loss in function(peers, **parts).items()}


@pytest.mark.parametrize(("path", "key"), EVERY)
def test_it_is_what_the_library_computed(path, key):
    peers, theirs = peers_of(path), peers_of(path).recorded[key]
    for function, parts in matching(ARRAYS, key):
        for name, (ours, where, rounding) in function(peers, **parts).items():
            agree(name, ours, theirs, where, rounding)
        return
    loss = key.removesuffix(".grad_value").removesuffix(".grad")
    for name, (value, gradient) in claims(path, loss).items():
        if key == loss:
            terms = max(np.abs(peers.recorded.get(f"{key}.{kind}", 0.0)).sum() for kind in ("grad", "grad_value"))
            agree(name, value, theirs, rounding=4 * ULP * terms)
        else:
            agree(name, gradient, theirs)


def agree(name: str, ours: Any, theirs: np.ndarray, where: Any = True, rounding: Any = 0.0) -> None:
    ours, where = np.asarray(ours), np.broadcast_to(where, theirs.shape)
    assert ours.shape == theirs.shape, f"{name}: {ours.shape} for {theirs.shape}"
    allowed = TOLERANCE * np.abs(np.where(where, theirs, 0.0)).max() + rounding
    off = np.where(where, np.abs(ours - theirs) - allowed, 0.0)
    assert np.isfinite(off).all() and (off <= 0).all(), f"{name}: off by {off.max()} more than {np.max(allowed)}"
