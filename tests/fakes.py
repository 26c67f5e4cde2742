"""Small stand-ins: a tokenizer of three letters, models of a few hundred weights, rollouts out of nowhere."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_module

from rlbench.acting.episode import SequenceLimits
from rlbench.acting.player import Acting, Player
from rlbench.acting.slots import Sampling
from rlbench.models.tokenizers import Characters
from rlbench.models.transformer import transformer
from rlbench.plugins import build, plain
from rlbench.testing import options
from rlbench.types import Algorithm, Bounds, Model, Problem, Rollouts, Status, Step, Tokenizer
from rlbench.verifying.delay import AT_ONCE, Delay
from rlbench.verifying.verifier import Verifier, Verifying

DEMO = ("ppo", "grpo", "async_grpo")  # what the demo trains side by side
SHELF = [name for name in options("algo") if not name.endswith(("_trl", "_verl"))]  # presets are of functions in it
REWARDED = [name for name in SHELF if name != "opd"]  # that learn from rewards
WHOLE = Sampling()  # nothing is left out
LETTERS = Characters(alphabet="abc=")
ACTING = Acting(slots=None, chunk=16, environment_workers=64)
VERIFIER = Verifier(
    Verifying(
        "auto",
        workers=None,
        cpu_seconds=2.0,
        wall_seconds=10.0,
        memory_mb=256,
        step_seconds=60.0,
        max_failures=1.0,
        delay_seconds=0.0,
        delay_sigma=0.0,
    ),
    environment_workers=64,
)


def verifier_of(**changes) -> Verifier:
    """A verifier of its own, some of its settings changed."""
    return Verifier(VERIFIER.settings._replace(**changes), VERIFIER.environment_workers)


def small_model(tokenizer=LETTERS, **changes) -> Model:
    """A transformer of one narrow layer, unless told otherwise."""
    settings = {
        "layers": 1,
        "width": 16,
        "heads": 2,
        "kv_heads": 2,
        "hidden": 32,
        "rope_base": 100.0,
        "temperature": 1.0,
        "param_dtype": "float32",
        "compute_dtype": "float32",
        "attention": "xla",
        "chunk_tokens": 4096,
    }
    return transformer(tokenizer, **(settings | changes))


@cache
def settings_of(option: str) -> dict:
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        return plain(compose("config", [f"algo={option}"])["algo"])


def algorithm_of(option: str, model: Model, **changes) -> Algorithm:
    """The algorithm of a shipped preset, some of its numbers changed."""
    return build(settings_of(option) | changes, "algo", model)


def rough(params, scale: float = 0.3):
    """Parameters far enough from their start for outputs to differ from token to token."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(99), len(leaves))
    return structure.unflatten(
        [leaf + scale * jax.random.normal(key, leaf.shape, leaf.dtype) for leaf, key in zip(leaves, keys, strict=True)]
    )


def rollouts_of(reward, mask=None, group=None, logp=None) -> Rollouts:
    """Rollouts with these rewards f32[B, T]; tokens are all the same."""
    reward = jnp.asarray(reward, jnp.float32)
    mask = jnp.ones(reward.shape, bool) if mask is None else jnp.asarray(mask, bool)
    return Rollouts(
        tokens=jnp.full(reward.shape, 2, jnp.int32),
        mask=mask,
        logp=jnp.zeros(reward.shape) if logp is None else jnp.asarray(logp, jnp.float32),
        reward=reward,
        group=jnp.zeros(len(reward), jnp.int32) if group is None else jnp.asarray(group, jnp.int32),
        version=jnp.zeros(reward.shape, jnp.int32),
    )


class Copy:
    """Prompts of ragged length, "a=", "bb=", "ccc=", "a=" and so on; the answer is the prompt's letter."""

    bounds = Bounds(alphabet=frozenset("abc="), prompt=4, completion=1)

    def problem(self, seed: int, split: str) -> Problem:
        letter = "abc"[seed % 3]
        return Problem(letter * (1 + seed % 3) + "=", letter)

    def step(self, state: str, completion: str) -> Step:
        right = completion == state
        return Step(state, None, float(right), Status.PASSED if right else Status.WRONG)

    def solution(self, state: str) -> str:
        return state


class TwoTurns:
    """The first completion is answered with "cc="; the second is paid if the first was "a"."""

    bounds = Bounds(alphabet=frozenset("abc="), prompt=2, completion=1, turns=2, observation=3)

    def problem(self, seed: int, split: str) -> Problem:
        return Problem("b=", None)

    def step(self, state: str | None, completion: str) -> Step:
        if state is None:
            return Step(completion, "cc=", 0.0, Status.OPEN)
        right = state == "a"
        return Step(state, None, float(right), Status.PASSED if right else Status.WRONG)

    def solution(self, state: str | None) -> str:
        return "a"


def limits_of(
    task, completion: int = 2, buckets: tuple[int, ...] = (), continuation: int | None = None
) -> SequenceLimits:
    """Room for a task's text, in one bucket unless smaller ones are given."""
    bounds = task.bounds
    limits = SequenceLimits(bounds.prompt, completion, bounds.observation, bounds.turns, (), continuation)
    return limits._replace(buckets=(*buckets, limits.episode))


def player_of(
    model,
    task,
    devices,
    sampling=WHOLE,
    completion: int = 2,
    buckets: tuple[int, ...] = (),
    acting: Acting = ACTING,
    verifier: Verifier = VERIFIER,
    delay: Delay = AT_ONCE,
    continuation: int | None = None,
    tokenizer: Tokenizer = LETTERS,
) -> Player:
    """A player, on the letters' tokenizer unless told otherwise."""
    limits, key = limits_of(task, completion, buckets, continuation), jax.random.key(7)
    return Player(model, task, tokenizer, limits, sampling, devices, key, verifier, acting, delay=delay)


def problems_of(task, count: int) -> list:
    """The first training problems of a task."""
    return [(seed, task.problem(seed, "train")) for seed in range(count)]


def as_numpy(tree):
    return jax.tree.map(np.asarray, tree)
