"""The contract kit: what every plugin, ours or yours, has to hold, as functions that raise AssertionError.

Each check of an algorithm takes a Case: the algorithm on a small model and a small batch with every
kind of row. Each check of a task takes the task and what judges its replies.
"""

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from .learning.estimators import happened
from .models.likelihood import token_logp
from .models.tokenizers import END
from .types import Algorithm, Array, Loss, Model, Params, Rollouts, Status, Task
from .verifying.verifier import Verifier

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


class Case(NamedTuple):
    """An algorithm, some steps away from where it started, and a batch for it."""

    algorithm: Algorithm
    trainable: Params
    frozen: Params
    rollouts: Rollouts

    def score(self, rollouts: Rollouts | None = None) -> dict[str, Array]:
        return self.algorithm.score(
            self.trainable, self.frozen, self.rollouts if rollouts is None else rollouts, jnp.int32(1)
        )

    def loss(self, rollouts: Rollouts, scores: dict[str, Array]) -> Loss:
        return self.algorithm.loss(self.trainable, self.frozen, rollouts, scores)

    def gradient(self, rollouts: Rollouts, scores: dict[str, Array]) -> Params:
        """Of the loss divided by its weight, as the learner takes it."""
        return jax.grad(lambda params: ratio(self.algorithm.loss(params, self.frozen, rollouts, scores)))(
            self.trainable
        )


def ratio(loss: Loss) -> Array:
    return loss.total / loss.weight


def algorithm_case(algorithm: Algorithm, model: Model, seed: int = 0) -> Case:
    """The algorithm on a small batch: ragged prompts, two turns, stale data, one row that did not happen."""
    keys = jax.random.split(jax.random.key(seed), 8)
    policy = model.init(keys[0])
    trainable, frozen = algorithm.init(keys[1], policy)
    trainable = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(keys[2], x.shape, x.dtype), trainable)
    groups, rows, length = 3, 12, 12
    position = jnp.arange(length)
    prompt = jax.random.randint(keys[3], (rows, 1), 1, 4)
    first = prompt + jax.random.randint(keys[4], (rows, 1), 1, 4)
    second = first + 2
    end = second + jax.random.randint(keys[5], (rows, 1), 1, 4)
    mask = ((position >= prompt) & (position < first)) | ((position >= second) & (position < end))
    tokens = jax.random.randint(keys[6], (rows, length), END, len(model.emits)).astype(jnp.int32)
    last = position == end - 1
    reward = jnp.where(last, (jnp.arange(rows) % 3 == 0)[:, None].astype(jnp.float32), 0.0)
    rollouts = Rollouts(
        tokens=jnp.where(position < end, tokens, 0),
        mask=mask.at[5].set(False),
        logp=jnp.zeros((rows, length)),
        reward=reward,
        group=jnp.arange(rows, dtype=jnp.int32) // (rows // groups),
        version=jnp.zeros((rows, length), jnp.int32),
    )
    noise = 0.1 * jax.random.normal(keys[7], (rows, length))
    logp = token_logp(model, algorithm.acting(trainable, frozen), rollouts) + noise
    return Case(algorithm, trainable, frozen, rollouts._replace(logp=jnp.where(rollouts.mask, logp, 0.0)))


def check_shapes(case: Case) -> None:
    """Trees keep their structure; scores are one row a rollout; loss and weight are numbers."""
    scores = case.score()
    for name, value in scores.items():
        assert value.shape[0] == len(case.rollouts.group), f"score {name!r} has shape {value.shape}: one row a rollout"
    loss = case.loss(case.rollouts, scores)
    chex.assert_shape((loss.total, loss.weight), ())
    chex.assert_shape(jax.tree.leaves(loss.metrics), ())
    chex.assert_trees_all_equal_structs(case.gradient(case.rollouts, scores), case.trainable)
    assert case.algorithm.group_size >= 1


def check_finite(case: Case) -> None:
    """Scores, loss and gradient are finite, and the gradient is not zero."""
    scores = case.score()
    chex.assert_tree_all_finite((scores, case.loss(case.rollouts, scores)))
    gradient = case.gradient(case.rollouts, scores)
    chex.assert_tree_all_finite(gradient)
    assert any(bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient)), "the gradient is zero everywhere"


def check_zero_advantage(case: Case) -> None:
    """Zero advantage leaves the policy where it is, as long as it has not left where it started."""
    scores = case.score()
    if "advantage" not in scores:
        return
    trainable, frozen = case.algorithm.init(jax.random.key(0), case.trainable["policy"])
    start = case._replace(trainable=trainable, frozen=frozen)
    scores = start.score() | {"advantage": jnp.zeros_like(scores["advantage"])}
    gradient = start.gradient(start.rollouts, scores)["policy"]
    chex.assert_trees_all_close(gradient, jax.tree.map(jnp.zeros_like, gradient), atol=1e-6)


def check_masking(case: Case) -> None:
    """What stands where the mask is False, and after the last chosen token, changes nothing."""
    rollouts, scores = case.rollouts, case.score()
    position = jnp.arange(rollouts.mask.shape[1])
    last = jnp.where(rollouts.mask, position, -1).max(axis=1, keepdims=True)
    for garbage in (jnp.nan, jnp.inf, -1e30, 7.0):

        def spoil(x: Array, value: float = garbage) -> Array:
            return jnp.where(rollouts.mask, x, value) if x.shape == rollouts.mask.shape else x

        spoiled = rollouts._replace(
            logp=spoil(rollouts.logp),
            reward=spoil(rollouts.reward),
            tokens=jnp.where(position > last, 3, rollouts.tokens),
        )
        seen = {name: jnp.where(rollouts.mask, x, 0) for name, x in scores.items() if x.shape == rollouts.mask.shape}
        again = case.score(spoiled)
        chex.assert_trees_all_close(
            {name: jnp.where(rollouts.mask, again[name], 0) for name in seen}, seen, **TOLERANCE
        )
        spoiled_scores = jax.tree.map(spoil, scores)
        chex.assert_trees_all_close(case.loss(spoiled, spoiled_scores), case.loss(rollouts, scores), **TOLERANCE)
        chex.assert_trees_all_close(
            case.gradient(spoiled, spoiled_scores), case.gradient(rollouts, scores), **TOLERANCE
        )


def check_absent_rows(case: Case) -> None:
    """A row that did not happen changes nothing: without it, loss and gradient are the same."""
    present = jnp.flatnonzero(happened(case.rollouts))
    fewer = jax.tree.map(lambda x: x[present], case.rollouts)
    # Groups are numbered below the number of rows; here the last group's number still is.
    scores, fewer_scores = case.score(), case.score(fewer)
    chex.assert_trees_all_close(case.loss(fewer, fewer_scores), case.loss(case.rollouts, scores), **TOLERANCE)
    chex.assert_trees_all_close(case.gradient(fewer, fewer_scores), case.gradient(case.rollouts, scores), **TOLERANCE)


def check_nothing_happened(case: Case) -> None:
    """A batch in which no row happened has weight 0 and a finite, zero gradient."""
    nothing = case.rollouts._replace(mask=jnp.zeros_like(case.rollouts.mask))
    scores = case.score(nothing)
    assert case.loss(nothing, scores).weight == 0
    total = jax.grad(lambda params: case.algorithm.loss(params, case.frozen, nothing, scores).total)(case.trainable)
    chex.assert_trees_all_close(total, jax.tree.map(jnp.zeros_like, total))


def check_halves(case: Case) -> None:
    """The loss of two halves adds up to the loss of the whole: totals, weights and metrics."""
    scores = case.score()
    whole = case.loss(case.rollouts, scores)
    half = len(case.rollouts.group) // 2
    parts = [
        case.loss(*jax.tree.map(lambda x, rows=rows: x[rows], (case.rollouts, scores)))
        for rows in (slice(half), slice(half, None))
    ]
    chex.assert_trees_all_close(jax.tree.map(jnp.add, *parts), whole, **TOLERANCE)


def check_one_compilation(case: Case) -> None:
    """A second call with other numbers of the same shapes compiles nothing."""
    score, loss = jax.jit(case.algorithm.score), jax.jit(case.algorithm.loss)
    for version, scale in ((0, 1.0), (5, 2.0)):
        rollouts = case.rollouts._replace(reward=scale * case.rollouts.reward)
        scores = score(case.trainable, case.frozen, rollouts, jnp.int32(version))
        loss(case.trainable, case.frozen, rollouts, scores)
    compiled = tuple(function._cache_size() for function in (score, loss))  # type: ignore[attr-defined]
    assert compiled == (1, 1), f"score and loss were compiled {compiled} times"


ALGORITHM_CHECKS: dict[str, Callable[[Case], None]] = {
    "shapes": check_shapes,
    "finite": check_finite,
    "zero advantage": check_zero_advantage,
    "masking": check_masking,
    "absent rows": check_absent_rows,
    "nothing happened": check_nothing_happened,
    "halves": check_halves,
    "one compilation": check_one_compilation,
}

SPLITS = ("train", "heldout")
SAMPLE = range(100)
GARBAGE = ("", "?", "0" * 40, " ", "\n", "the answer", "None", "1e9")


def states_of(task: Task, split: str) -> list[Any]:
    return [task.problem(seed, split).state for seed in SAMPLE]


def check_gold(task: Task, verifier: Verifier) -> None:
    """Its own gold replies earn full reward, which is 1."""
    for split in SPLITS:
        for seed, step in enumerate(verifier.play(task, states_of(task, split))):
            assert abs(step.reward - 1) < 1e-6 and step.status == Status.PASSED, f"{split} {seed}: gold earned {step}"


def check_garbage(task: Task, verifier: Verifier) -> None:
    """Replies that answer nothing earn less than full reward, and break nothing."""
    for reply in GARBAGE:
        for seed, step in enumerate(verifier.play(task, states_of(task, "train"), reply)):
            assert step.reward < 1, f"train {seed}: {reply!r} earned {step.reward}"
            assert step.status != Status.INFRASTRUCTURE, f"train {seed}: {reply!r} broke the verifier: {step.detail}"


def check_deterministic(task: Task, verifier: Verifier) -> None:
    """The same seed is the same problem, also for a task that was pickled."""
    copy = pickle.loads(pickle.dumps(task))
    for split in SPLITS:
        for seed in SAMPLE:
            problem = task.problem(seed, split)
            assert problem.prompt == task.problem(seed, split).prompt == copy.problem(seed, split).prompt
            assert pickle.loads(pickle.dumps(problem)).prompt == problem.prompt
            assert task.gold(problem.state) == copy.gold(copy.problem(seed, split).state)


def check_splits(task: Task, verifier: Verifier) -> None:
    """No training problem is held out, among those drawn."""
    train, heldout = ({task.problem(seed, split).prompt for seed in range(500)} for split in SPLITS)
    assert train.isdisjoint(heldout), f"in both splits: {sorted(train & heldout)[:3]}"


def check_bounds(task: Task, verifier: Verifier) -> None:
    """Prompts, gold replies and observations stay within the lengths and the alphabet that the task declares."""
    bounds = task.bounds

    def within(text: str, most: int, what: str) -> None:
        assert 0 < len(text) <= most, f"{what} {text!r} has {len(text)} characters, of at most {most}"
        assert bounds.alphabet.issuperset(text), f"{what} {text!r} has {set(text) - bounds.alphabet}"

    for split in SPLITS:
        for seed in SAMPLE:
            prompt, state = task.problem(seed, split)
            within(prompt, bounds.prompt, "prompt")
            for _ in range(bounds.turns):
                reply = task.gold(state)
                within(reply, bounds.reply, "gold reply")
                (step,), _ = verifier.judge(task, [(state, reply)])
                if step.asks is None:
                    break
                state = step.state
                within(step.asks, bounds.observation, "observation")


TASK_CHECKS: dict[str, Callable[[Task, Verifier], None]] = {
    "gold": check_gold,
    "garbage": check_garbage,
    "deterministic": check_deterministic,
    "splits": check_splits,
    "bounds": check_bounds,
}
