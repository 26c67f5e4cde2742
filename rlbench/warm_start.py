"""The common start of all algorithms: a short supervised phase on gold replies, cached by content."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import serialization

from .accounting.ledger import by_component, learning_passes
from .accounting.useful import useful_flops
from .acting.demonstrate import demonstrate
from .acting.rollout import Actor, training_problems
from .learning.learner import Learner
from .types import Count, Fraction, Model, Natural, Params


class WarmStart(NamedTuple):
    """How long to imitate. Ends as soon as greedy accuracy on training problems is reached."""

    steps: Natural  # at the most; 0 starts from random weights
    rollouts: Count  # gold replies a step
    accuracy: Fraction  # at which to stop
    problems: Count  # that accuracy is measured on
    check_every: Count  # steps between looks at accuracy
    seed: Natural


class Cost(NamedTuple):
    """What a warm start took, when it was made; a cached one cost it once."""

    steps: int
    rollouts: int
    tokens: int
    seconds: float
    executed_flops: dict[str, float]  # by component
    useful_flops: dict[str, float]
    verification_cpu_seconds: float  # of looking at accuracy


def warm_start(
    settings: WarmStart, model: Model, learner: Learner, actor: Actor, progress: Callable[[int, float], None]
) -> tuple[Params, Cost]:
    """Imitates gold replies to training problems until they are met or the steps are over.

    Args:
      learner: of `imitation`.
      actor: measures accuracy; plays one greedy attempt at each problem. Has the learner's account.
      progress: told of steps taken and accuracy.
    """
    began = time.perf_counter()
    init, algorithm = jax.random.split(jax.random.key(settings.seed))
    state = learner.init(algorithm, model.init(init))
    task, tokens, step = actor.task, 0, 0
    first = 1 << 31  # no learner step comes to these numbers
    beyond = first + settings.steps * settings.rollouts  # nor does imitation to these

    while step < settings.steps:
        problems = training_problems(task, settings.seed, first + step * settings.rollouts, settings.rollouts)
        batch = demonstrate(task, actor.tokenizer, actor.space, actor.verifier, problems)
        tokens += sum(t.prompt_tokens + t.reply_tokens + t.observation_tokens for t in batch.transcripts)
        state, _, _ = learner.step(state, learner.devices.spread(batch.rollouts))
        for one in learning_passes(batch.tally(1), batch.rollouts.tokens.shape[1], epochs=1):
            learner.account.passed(one)
        step += 1
        if step % settings.check_every == 0:
            ahead = training_problems(task, settings.seed, beyond, settings.problems)
            played = actor.play(state.trainable["policy"], ahead, 1, first_id=0, version=0, greedy=[True])
            accuracy = sum(t.solved for t in played.transcripts) / settings.problems
            progress(step, accuracy)
            if accuracy >= settings.accuracy:
                break
    policy, spent = state.trainable["policy"], learner.account.take()
    size = model.size(policy)
    needed = useful_flops(spent.passes, {"policy": size} if size else {}, spent.flops)
    return policy, Cost(
        step,
        step * settings.rollouts,
        tokens,
        time.perf_counter() - began,
        executed_flops={name: float(count) for name, count in by_component(spent.flops).items()},
        useful_flops={name: float(count) for name, count in by_component(needed).items()},
        verification_cpu_seconds=spent.verification.cpu_seconds,
    )


def cached(
    folder: Path, content: Any, sources: list[Path], like: Params, make: Callable[[], tuple[Params, Cost]]
) -> tuple[Params, Cost]:
    """The weights that `make` returned for this content before, or returns now.

    Args:
      content: everything in the config that determines them.
      sources: files outside rlbench that do, too. The source of rlbench, versions of the libraries
        and the kind of device are added.
      like: a tree of the weights' structure, shapes and dtypes.
    """
    stem = folder / fingerprint(content, sources)
    weights, cost = stem.with_suffix(".msgpack"), stem.with_suffix(".json")
    if weights.exists() and cost.exists():
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
        return serialization.from_bytes(blank, weights.read_bytes()), Cost(**json.loads(cost.read_text()))
    params, spent = make()
    folder.mkdir(parents=True, exist_ok=True)
    replace(cost, json.dumps(spent._asdict()).encode())
    replace(weights, serialization.to_bytes(jax.device_get(params)))
    return params, spent


def fingerprint(content: Any, sources: list[Path]) -> str:
    """A hash of the content, of what computes it, and of what it runs on."""
    files = sorted(Path(__file__).parent.rglob("*.py")) + sources
    source = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    devices = [device.device_kind for device in jax.local_devices()]
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    whole = json.dumps([content, source, devices, versions], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def replace(path: Path, data: bytes) -> None:
    """Writes a file in one move: a reader sees all of it or none."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    os.replace(draft, path)
