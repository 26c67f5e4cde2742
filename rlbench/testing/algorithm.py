"""Checks of an algorithm's functions: each check takes a Case, and raises where it breaks."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..accounting.flops import SHARED, networks_of
from ..accounting.memory import network_bytes
from ..contract.algorithm import check_algorithm, expect_alike
from ..contract.sources import expect, with_article
from ..types import Array, Phase, frozen_stays
from .case import Case, last_chosen
from .outcome import NotApplicable, Rule, expect_close, expect_finite

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
CITED = re.compile(r"arxiv:\s*\d{4}\.\d{4,5}|arxiv:\s*[a-z-]+/\d{7}|10\.\d{4,9}/\S+|https?://\S+", re.IGNORECASE)
COMPUTING = (Phase.SCORE, Phase.FORWARD, Phase.BACKWARD)


def check_docstring(case: Case) -> None:
    """Its docstring says where it comes from: an arXiv id, a DOI or a URL."""
    docstring = case.maker.__doc__ or ""
    came = f"the docstring {docstring.strip().partition(chr(10))[0]!r}" if docstring else "no docstring"
    expect(CITED.search(docstring), "maker", "a source such as arXiv:2402.03300 in the docstring", came)


def check_structure(case: Case) -> None:
    """Functions take and return what they have to, and a learner step keeps structure, shapes and dtypes."""
    check_algorithm(case.algorithm, case.model)
    for place, tree in zip(("trainable", "frozen"), case.made.start, strict=True):
        expect(type(tree) is dict, "init", f"{place} to be a dict", with_article(type(tree).__name__))
    before, *later = case.learned.states
    for state in later:
        expect_alike("init", "trainable as init made it", state.trainable, before.trainable)
        expect_alike("init", "frozen as init made it", state.frozen, before.frozen)


def check_finite(case: Case) -> None:
    """Scores, loss and gradient are finite, and the gradient is not zero."""
    scores = case.score()
    expect_finite("score", scores, "from score")
    loss, gradient = case.learn(case.rollouts, scores)
    expect_finite("loss", loss, "from loss")
    expect_finite("loss", gradient, "in the gradient")
    moved = any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient))
    expect(moved, "loss", "a gradient", "zeros everywhere")


def check_after(case: Case) -> None:
    """The frozen networks that it leaves are finite, and so are scores, loss and gradient of the step that follows."""
    if case.algorithm.after is frozen_stays:
        raise NotApplicable("the frozen networks stay as they are")
    following = case.after()
    expect_finite("after", following.frozen, "from after")
    scores = following.score()
    expect_finite("score", scores, "from score, in the step that follows")
    expect_finite("loss", following.learn(following.rollouts, scores), "from loss, in the step that follows")


def check_zero_advantage(case: Case) -> None:
    """Zero advantage leaves the policy where it is, as long as it has not left where it started."""
    start = case.started()
    scores = start.score()
    if "advantage" not in scores:
        raise NotApplicable('score returns no "advantage"')
    if "policy" not in start.trainable:
        raise NotApplicable('nothing that is trained is called "policy"')
    _, gradient = start.learn(start.rollouts, scores | {"advantage": jnp.zeros_like(scores["advantage"])})
    still = jax.tree.map(jnp.zeros_like, gradient["policy"])
    expect_close("loss", "no gradient without advantage", gradient["policy"], still, rtol=0, atol=1e-6)


def check_idle(case: Case) -> None:
    """A row without advantage has no gradient at all, exactly, where the algorithm says so, wherever the policy is."""
    scores = case.score()
    if not case.algorithm.idle_without_advantage:
        raise NotApplicable("it does not say idle_without_advantage")
    expect("advantage" in scores, "score", '"advantage", for idle_without_advantage', ", ".join(scores))
    _, gradient = case.learn(case.rollouts, scores | {"advantage": jnp.zeros_like(scores["advantage"])})
    still = jax.tree.map(jnp.zeros_like, gradient)
    what = "exactly no gradient without advantage, for idle_without_advantage"
    expect_close("loss", what, gradient, still, rtol=0, atol=0)


def check_masking(case: Case) -> None:
    """Tokens where the mask is False, and after the last chosen one, change nothing."""
    rollouts, scores = case.rollouts, case.score()
    after = np.arange(rollouts.mask.shape[1]) > last_chosen(rollouts)
    seen = {name: np.where(rollouts.mask, x, 0) for name, x in scores.items() if x.shape == rollouts.mask.shape}
    wanted = case.learn(rollouts, scores)
    for garbage in (np.nan, np.inf, -1e30, 7.0):

        def spoil(x: Array, value: float = garbage) -> Any:
            per_token = x.shape == rollouts.mask.shape and np.issubdtype(x.dtype, np.floating)
            return np.where(rollouts.mask, x, value).astype(x.dtype) if per_token else x

        spoiled = rollouts._replace(
            logp=spoil(rollouts.logp),
            reward=spoil(rollouts.reward),
            tokens=np.where(after, 3, rollouts.tokens).astype(np.int32),
        )
        what = f"the same with {garbage} where the mask is False"
        again = case.score(spoiled)
        masked = {name: np.where(rollouts.mask, again[name], 0) for name in seen}
        expect_close("score", f"scores, {what}", masked, seen, **TOLERANCE)
        loss, gradient = case.learn(spoiled, jax.tree.map(spoil, scores))
        expect_close("loss", f"loss, {what}", loss, wanted[0], **TOLERANCE)
        expect_close("loss", f"gradient, {what}", gradient, wanted[1], **TOLERANCE)


def check_absent_rows(case: Case) -> None:
    """Masked rows change nothing: without them, scores, loss and gradient are the same."""
    half = len(case.rollouts.group) // 2
    present = (jnp.arange(len(case.rollouts.group)) < half)[:, None]
    rollouts = case.rollouts._replace(
        mask=case.rollouts.mask & present, reward=jnp.where(present, case.rollouts.reward, 5.0)
    )
    # Groups are numbered below the number of rows; those of the first half still are.
    fewer = jax.tree.map(lambda x: x[:half], case.rollouts)
    scores, fewer_scores = case.score(rollouts), case.score(fewer)
    kept = {name: x[:half] for name, x in scores.items()}
    expect_close("score", "scores, the same without masked rows", kept, fewer_scores, **TOLERANCE)
    loss, gradient = case.learn(rollouts, scores)
    without = case.learn(fewer, fewer_scores)
    expect_close("loss", "loss, the same without masked rows", loss, without[0], **TOLERANCE)
    expect_close("loss", "gradient, the same without masked rows", gradient, without[1], **TOLERANCE)


def check_no_valid_row(case: Case) -> None:
    """A batch in which no row happened has weight 0 and a finite, zero gradient."""
    nothing = case.rollouts._replace(mask=jnp.zeros_like(case.rollouts.mask))
    loss, gradient = case.learn(nothing, case.score(nothing))
    expect(loss.weight == 0, "loss", "weight 0 where no valid row", f"{loss.weight:g}")
    still = jax.tree.map(jnp.zeros_like, gradient)
    expect_close("loss", "no gradient where no valid row", gradient, still, rtol=0, atol=0)


def check_halves(case: Case) -> None:
    """The loss of two halves adds up to the loss of the whole: totals, weights and metrics."""
    scores = case.score()
    whole, _ = case.learn(case.rollouts, scores)
    half = len(case.rollouts.group) // 2
    parts = [
        case.learn(*jax.tree.map(lambda x, rows=rows: x[rows], (case.rollouts, scores)))[0]
        for rows in (slice(half), slice(half, None))
    ]
    expect_close("loss", "two halves adding up to the whole", jax.tree.map(jnp.add, *parts), whole, **TOLERANCE)


def check_no_recompilation(case: Case) -> None:
    """A second learner step, with other numbers of the same shapes, compiles nothing."""
    learner = case.learned.learner
    for about, program in (("score", learner.score), ("loss", learner.update), ("after", learner.after)):
        expect(program.compilations <= 1, about, "one compilation in two steps", f"{program.compilations}")


def check_accounting(case: Case) -> None:
    """The ledger can count it: every operation, by the name of its network, and the bytes of each."""
    _, account, (state, *_) = case.learned
    both = sorted(case.trainable.keys() & case.frozen.keys())
    expect(not both, "init", "other names in frozen than in trainable, for costs apart", ", ".join(both))
    expect(SHARED not in network_bytes(state), "init", f"no network called {SHARED!r}: costs of none are", SHARED)
    expect({"score", "update"} <= set(account.temporaries), "loss", "memory of both programs", f"{account.temporaries}")
    expect(not account.uncounted, "loss", "operations that can be counted", ", ".join(sorted(account.uncounted)))
    counted = {name for (phase, name), operations in account.take().flops.items() if phase in COMPUTING and operations}
    missing = sorted(used_networks(case) - counted)
    expect(not missing, "loss", "operations of each network under its own name", f"none of {', '.join(missing)}")


def used_networks(case: Case) -> set[str]:
    """Names of the networks that score or loss read."""
    calls = (
        (case.algorithm.score, (case.trainable, case.frozen, case.rollouts, jnp.int32(1))),
        (case.algorithm.loss, (case.trainable, case.frozen, case.rollouts, case.score())),
    )
    used: set[str] = set()
    for function, arguments in calls:
        jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
        read = {id(variable) for equation in jaxpr.eqns for variable in equation.invars}
        names = networks_of(arguments, (0, 1))
        used |= {name for name, variable in zip(names, jaxpr.invars, strict=True) if name and id(variable) in read}
    return used


FUNCTION_RULES: dict[str, Rule] = {
    "docstring": Rule(check_docstring, "maker"),
    "structure": Rule(check_structure, "loss"),
    "finite": Rule(check_finite, "loss"),
    "masking": Rule(check_masking, "loss"),
    "masked rows": Rule(check_absent_rows, "loss"),
    "no valid row": Rule(check_no_valid_row, "loss"),
    "halves": Rule(check_halves, "loss"),
    "zero advantage": Rule(check_zero_advantage, "loss"),
    "idle rows": Rule(check_idle, "loss"),
    "no recompilation": Rule(check_no_recompilation, "loss"),
    "accounting": Rule(check_accounting, "loss"),
    "after": Rule(check_after, "after"),
}
