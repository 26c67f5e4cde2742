"""The case that an algorithm is checked on: a small model, and a small batch with every kind of row."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..accounting.account import Account
from ..contract.algorithm import check_algorithm, shapes
from ..devices import Devices
from ..learning.learner import Learner, UpdateConfig
from ..models.likelihood import token_logp
from ..models.tokenizers import END
from ..types import Algorithm, Array, LearnerState, Loss, Model, Params, Rollouts
from .outcome import NotApplicable

GROUPS, ROWS, LENGTH = 3, 12, 14  # all differ, and from what is one longer or shorter
# Programs do what is written, and are compiled fast. XLA's simplifier would make where(mask, x, 0) of x * mask, which
# hides what happens where it does not.
LITERALLY = {"xla_disable_hlo_passes": "algsimp", "xla_backend_optimization_level": 0}


class Learned(NamedTuple):
    """Two learner steps, on batches of different numbers."""

    learner: Learner
    account: Account
    states: list[LearnerState]  # before the first step, and after each


class Made(NamedTuple):
    """Parameters of a case, and its batch."""

    policy: Params  # what the algorithm was started with
    start: tuple[Params, Params]  # trainable and frozen as its init made them
    trainable: Params  # some steps away from there
    rollouts: Rollouts


class Case:
    """An algorithm, some steps away from where it started, and a batch for it.

    Its functions are called, and compiled, when a check first needs their numbers.

    Args:
      model: that it was made for.
      maker: the function that makes the algorithm, which its YAML names.
      seed: of the parameters and the batch.
    """

    def __init__(self, algorithm: Algorithm, model: Model, maker: Any, seed: int):
        self.algorithm, self.model, self.maker, self.seed = algorithm, model, maker, seed
        self._score = jax.jit(algorithm.score, compiler_options=LITERALLY)
        self._gradient = jax.jit(jax.value_and_grad(self._total, has_aux=True), compiler_options=LITERALLY)

    @cached_property
    def made(self) -> Made:
        """Parameters and a batch.

        Raises:
          NotApplicable: its functions don't take or return what they have to, which the check "structure" says.
        """
        try:
            check_algorithm(self.algorithm, self.model)
        except Exception as error:  # whatever a stranger's function may raise
            raise NotApplicable("not run, since the check structure failed") from error
        return made(self.algorithm, self.model, self.seed)

    @property
    def policy(self) -> Params:
        return self.made.policy

    @property
    def rollouts(self) -> Rollouts:
        return self.made.rollouts

    @cached_property
    def trainable(self) -> Params:
        return self.made.trainable

    @cached_property
    def frozen(self) -> Params:
        return self.made.start[1]

    def _total(self, trainable: Params, frozen: Params, rollouts: Rollouts, scores: Any) -> tuple[Array, Loss]:
        loss = self.algorithm.loss(trainable, frozen, rollouts, scores)
        return loss.total, loss

    def started(self) -> "Case":
        """The same where it started: before anything was learned."""
        start = copy.copy(self)
        start.trainable, start.frozen = self.made.start
        return start

    def after(self) -> "Case":
        """The same after a learner step that changed nothing but the frozen networks."""
        following = copy.copy(self)
        step = jax.jit(self.algorithm.after, compiler_options=LITERALLY)
        following.frozen = step(self.trainable, self.frozen, self.rollouts, self.score())
        return following

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
        """Trains on it: two steps, each of two updates on microbatches of two rows."""
        account, devices = Account(), Devices(jax.local_devices()[:1])
        config = UpdateConfig(epochs=1, minibatches=2, microbatch_tokens=2 * LENGTH)
        learner = Learner(self.algorithm, optax.adam(1e-3), config, devices, seed=0, donate=False, account=account)
        states = [learner.init(jax.random.key(0), self.policy, shapes(ROWS, LENGTH))]
        with hastily_compiled():
            for scale in (1.0, 2.0):
                rollouts = self.rollouts._replace(reward=scale * self.rollouts.reward)
                states.append(learner.step(states[-1], devices.shard(rollouts))[0])
        return Learned(learner, account, states)


def algorithm_case(algorithm: Algorithm, model: Model, maker: Any = None, seed: int = 0) -> Case:
    """An algorithm on a small batch, ready to be checked.

    Args:
      model: the one that the algorithm was made for.
      maker: the function that made it; by default whatever its loss says where it stands.
    """
    return Case(algorithm, model, maker or algorithm.loss, seed)


@contextlib.contextmanager
def hastily_compiled() -> Iterator[None]:
    """Compiles in half the time programs that run slowly, as fits those that run twice on a small batch."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def made(algorithm: Algorithm, model: Model, seed: int) -> Made:
    """A small batch for an algorithm: ragged prompts, two turns, stale data, one masked row.

    What depends on the algorithm is compiled by itself: the rest is the same program for all that are checked.
    """

    def compiled(function: Callable[..., Any], *arguments: Any) -> Any:
        return jax.jit(function, compiler_options=LITERALLY)(*arguments)

    def begun(key: Array) -> tuple[Array, Params]:
        keys = jax.random.split(key, 8)
        return keys, model.init(keys[0])

    def moved(key: Array, start: Params) -> Params:
        return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape, x.dtype), start)

    def played(keys: Array, policy: Params) -> Rollouts:
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
        logp = token_logp(model, policy, rollouts) + noise
        return rollouts._replace(logp=jnp.where(rollouts.mask, logp, 0.0))

    keys, policy = compiled(begun, jax.random.key(seed))
    start, frozen = compiled(lambda key, policy: algorithm.init(key, policy, shapes(ROWS, LENGTH)), keys[1], policy)
    trainable = compiled(moved, keys[2], start)
    rollouts = compiled(played, keys, algorithm.acting(trainable, frozen))
    return Made(policy, (start, frozen), trainable, rollouts)


def last_chosen(rollouts: Rollouts) -> np.ndarray:
    """i[B, 1]: the position of each row's last token that the policy chose; -1 if it chose none."""
    position = np.arange(rollouts.mask.shape[1])
    return np.where(rollouts.mask, position, -1).max(axis=1, keepdims=True)
