"""The common start of all algorithms: a short supervised phase on reference solutions."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from .accounting.ledger import by_component, learning_passes
from .accounting.useful import useful_flops
from .acting.demonstrations import demonstrations
from .acting.player import Player
from .contract.algorithm import shapes
from .contract.task import training_problems
from .hashing import digest_of
from .learning.learner import Learner
from .randomness import key_of
from .types import Count, Fraction, Model, Natural, Params, Problem, Task

log = logging.getLogger(__name__)


APART = 8  # one training problem in so many is not trained on


class WarmStart(NamedTuple):
    """Settings of the supervised fine-tuning. Ends as soon as greedy accuracy on training problems is reached."""

    steps: Natural  # at the most; 0 starts from random weights
    rollouts: Count  # reference solutions a step
    accuracy: Fraction  # at which to stop
    problems: Count  # not trained on, that accuracy is measured on
    check_every: Count  # steps between looks at accuracy
    seed: Natural


class Cost(NamedTuple):
    """Cost of a warm start, when it was made; a cached one cost it once."""

    steps: int
    rollouts: int
    tokens: int
    seconds: float
    executed_flops: dict[str, float]  # by component
    useful_flops: dict[str, float]
    verification_cpu_seconds: float  # of looking at accuracy


NO_COST = Cost(0, 0, 0, 0.0, {}, {}, 0.0)


def warm_start(
    settings: WarmStart, model: Model, learner: Learner, player: Player, progress: Callable[[int, float | None], None]
) -> tuple[Params, Cost]:
    """Supervised fine-tuning on reference solutions to training problems, until others are met or the steps are over.

    Accuracy is measured on problems that are never trained on, unless the task has too few to spare some: of those that
    are, many are known by heart, and a start would be worse on held-out problems than its measure says.

    Args:
      learner: of `sft`.
      player: measures accuracy; plays one greedy attempt at each problem. Has the learner's account.
      progress: told of steps taken and accuracy; None where no completion could be judged.
    """
    began = time.perf_counter()
    init, algorithm = jax.random.split(key_of(settings.seed))
    longest = shapes(settings.rollouts, player.limits.episode)
    state = learner.init(algorithm, model.init(init), longest)
    task, tokens, step = player.task, 0, 0
    accuracy: float | None = 0.0
    first = 1 << 31  # no learner step comes to these numbers
    beyond = first + settings.steps * 2 * settings.rollouts  # nor does SFT to these
    ahead = training_problems(task, settings.seed, beyond, settings.problems)
    spares = 2 * len({problem.identity for _, problem in ahead}) > settings.problems  # few repeat
    if spares:
        ahead = drawn(task, settings.seed, beyond, settings.problems, 4 * APART, is_apart)

    while step < settings.steps:
        begin = first + step * 2 * settings.rollouts
        problems = drawn(
            task, settings.seed, begin, settings.rollouts, 2, lambda problem: not (spares and is_apart(problem))
        )
        batch = demonstrations(task, player.tokenizer, player.limits, player.verifier, problems)
        tokens += int(batch.trajectories.tally.tokens.sum())
        state, _, _ = learner.step(state, learner.devices.shard(batch.rollouts))
        for one in learning_passes(batch.trajectories.tally, learner.room(batch.rollouts.tokens.shape[1], 1), epochs=1):
            learner.account.passed(one)
        step += 1
        if step % settings.check_every == 0:
            played = player.play(state.trainable["policy"], ahead, 1, first_id=0, version=0, greedy=[True])
            judged = played.trajectories.solved[played.trajectories.judged]
            accuracy = float(judged.mean()) if len(judged) else None
            progress(step, accuracy)
            if accuracy is not None and accuracy >= settings.accuracy:
                break
    if accuracy is None:
        log.warning("accuracy after the warm start is unknown: no completion could be judged")
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


def is_apart(problem: Problem) -> bool:
    """True if a problem is measured on instead of trained on: by its identity alone."""
    return digest_of(repr(problem.identity))[0] % APART == 0


def drawn(
    task: Task, seed: int, first: int, count: int, span: int, wanted: Callable[[Problem], bool]
) -> list[tuple[int, Problem]]:
    """`count` training problems with their numbers, from number `first` on: the wanted ones, in order.

    Where count * span numbers have too few, as those of a task of few problems may, others make up for them.
    """
    found: list[tuple[int, Problem]] = []
    others: list[tuple[int, Problem]] = []
    for number in range(first, first + count * span):
        (one,) = training_problems(task, seed, number, 1)
        (found if wanted(one[1]) else others).append(one)
        if len(found) == count:
            break
    return (found + others)[:count]
