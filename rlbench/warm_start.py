"""The common start of all algorithms: a short supervised phase on gold replies."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from .accounting.ledger import by_component, learning_passes
from .accounting.useful import useful_flops
from .acting.demonstrate import demonstrate
from .acting.rollout import Actor, training_problems
from .learning.learner import Learner
from .randomness import key_of
from .types import Count, Fraction, Model, Natural, Params, Status

log = logging.getLogger(__name__)


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
    settings: WarmStart, model: Model, learner: Learner, actor: Actor, progress: Callable[[int, float | None], None]
) -> tuple[Params, Cost]:
    """Imitates gold replies to training problems until they are met or the steps are over.

    Args:
      learner: of `imitation`.
      actor: measures accuracy; plays one greedy attempt at each problem. Has the learner's account.
      progress: told of steps taken and accuracy; None where no reply could be judged.
    """
    began = time.perf_counter()
    init, algorithm = jax.random.split(key_of(settings.seed))
    state = learner.init(algorithm, model.init(init))
    task, tokens, step = actor.task, 0, 0
    accuracy: float | None = 0.0
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
            judged = [t.solved for t in played.transcripts if t.status != Status.INFRASTRUCTURE]
            accuracy = sum(judged) / len(judged) if judged else None
            progress(step, accuracy)
            if accuracy is not None and accuracy >= settings.accuracy:
                break
    if accuracy is None:
        log.warning("accuracy after the warm start is unknown: no reply could be judged")
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
