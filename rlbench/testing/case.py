"""What an algorithm is checked on: a small model, and a small batch with every kind of row."""

import copy
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..accounting.account import Account
from ..devices import Devices
from ..learning.learner import Learner, Spending
from ..models.likelihood import token_logp
from ..models.tokenizers import END
from ..types import Algorithm, Array, LearnerState, Loss, Model, Params, Rollouts

GROUPS, ROWS, LENGTH = 3, 12, 12
# Programs do what is written, and are compiled fast. XLA's simplifier would make where(mask, x, 0) of x * mask, which
# hides what happens where it does not.
LITERALLY = {"xla_disable_hlo_passes": "algsimp", "xla_backend_optimization_level": 0}


class Learned(NamedTuple):
    """Two learner steps, on batches of different numbers."""

    learner: Learner
    account: Account
    states: list[LearnerState]  # before the first step, and after each


class Case:
    """An algorithm, some steps away from where it started, and a batch for it.

    Args:
      model: that it was made for.
      policy: what the algorithm was started with.
      start: trainable and frozen as its init made them.
      maker: the function that makes the algorithm, which its YAML names.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        model: Model,
        policy: Params,
        start: tuple[Params, Params],
        trainable: Params,
        frozen: Params,
        rollouts: Rollouts,
        maker: Any,
    ):
        self.algorithm, self.model, self.maker = algorithm, model, maker
        self.policy, self.start = policy, start
        self.trainable, self.frozen, self.rollouts = trainable, frozen, rollouts
        self._score = jax.jit(algorithm.score, compiler_options=LITERALLY)
        self._gradient = jax.jit(jax.value_and_grad(self._total, has_aux=True), compiler_options=LITERALLY)

    def _total(self, trainable: Params, frozen: Params, rollouts: Rollouts, scores: Any) -> tuple[Array, Loss]:
        loss = self.algorithm.loss(trainable, frozen, rollouts, scores)
        return loss.total, loss

    def started(self) -> "Case":
        """The same where it started: before anything was learned."""
        start = copy.copy(self)
        start.trainable, start.frozen = self.start
        return start

    def score(self, rollouts: Rollouts | None = None, version: int = 1) -> dict[str, Array]:
        rollouts = self.rollouts if rollouts is None else rollouts
        return self._score(self.trainable, self.frozen, rollouts, jnp.int32(version))

    def learn(self, rollouts: Rollouts, scores: dict[str, Array]) -> tuple[Loss, Params]:
        """The loss, and the gradient of total / weight as the learner takes it."""
        (_, loss), gradient = self._gradient(self.trainable, self.frozen, rollouts, scores)
        weight = jnp.maximum(loss.weight, 1e-9)
        return loss, jax.tree.map(lambda g: g / weight, gradient)

    @cached_property
    def learned(self) -> Learned:
        """What a learner makes of it: two steps, each of two updates on microbatches of three rows."""
        account, devices = Account(), Devices(jax.local_devices()[:1])
        spending = Spending(epochs=1, minibatches=2, microbatch_tokens=3 * LENGTH)
        learner = Learner(self.algorithm, optax.adam(1e-3), spending, devices, seed=0, donate=False, account=account)
        states = [learner.init(jax.random.key(0), self.policy)]
        for scale in (1.0, 2.0):
            rollouts = self.rollouts._replace(reward=scale * self.rollouts.reward)
            states.append(learner.step(states[-1], devices.spread(rollouts))[0])
        return Learned(learner, account, states)


def algorithm_case(algorithm: Algorithm, model: Model, maker: Any = None, seed: int = 0) -> Case:
    """The algorithm on a small batch: ragged prompts, two turns, stale data, one row that did not happen.

    Args:
      model: the one that the algorithm was made for.
      maker: the function that made it; by default whatever its loss says where it stands.
    """

    @partial(jax.jit, compiler_options=LITERALLY)  # at once, since every operation by itself is a compilation
    def made(key: Array) -> tuple[Params, tuple[Params, Params], Params, Rollouts]:
        keys = jax.random.split(key, 8)
        policy = model.init(keys[0])
        start, frozen = algorithm.init(keys[1], policy)
        trainable = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(keys[2], x.shape, x.dtype), start)
        position = jnp.arange(LENGTH)
        prompt = jax.random.randint(keys[3], (ROWS, 1), 1, 4)
        first = prompt + jax.random.randint(keys[4], (ROWS, 1), 1, 4)
        second = first + 2
        end = second + jax.random.randint(keys[5], (ROWS, 1), 1, 4)
        mask = ((position >= prompt) & (position < first)) | ((position >= second) & (position < end))
        tokens = jax.random.randint(keys[6], (ROWS, LENGTH), END, len(model.emits)).astype(jnp.int32)
        last = position == end - 1
        reward = jnp.where(last, (jnp.arange(ROWS) % 3 == 0)[:, None].astype(jnp.float32), 0.0)
        rollouts = Rollouts(
            tokens=jnp.where(position < end, tokens, 0),
            mask=mask.at[5].set(False),
            logp=jnp.zeros((ROWS, LENGTH)),
            reward=reward,
            group=jnp.arange(ROWS, dtype=jnp.int32) // (ROWS // GROUPS),
            version=jnp.zeros((ROWS, LENGTH), jnp.int32),
        )
        noise = 0.1 * jax.random.normal(keys[7], (ROWS, LENGTH))
        logp = token_logp(model, algorithm.acting(trainable, frozen), rollouts) + noise
        return policy, (start, frozen), trainable, rollouts._replace(logp=jnp.where(rollouts.mask, logp, 0.0))

    policy, start, trainable, rollouts = made(jax.random.key(seed))
    return Case(algorithm, model, policy, start, trainable, start[1], rollouts, maker or algorithm.loss)


def last_chosen(rollouts: Rollouts) -> np.ndarray:
    """i[B, 1]: the position of each row's last token that the policy chose; -1 if it chose none."""
    position = np.arange(rollouts.mask.shape[1])
    return np.where(rollouts.mask, position, -1).max(axis=1, keepdims=True)
