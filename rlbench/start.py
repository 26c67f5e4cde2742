"""The common start of all algorithms of a seed: made now, or taken from the cache."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax

from .accounting.account import Account
from .accounting.memory import MemoryMeter, free_bytes
from .accounting.shared import Shared
from .accounting.timeline import Activity
from .acting.player import Player
from .acting.slots import Sampling
from .devices import Devices
from .learning.learner import Learner, UpdateConfig
from .learning.sft import sft
from .plan import Plan
from .randomness import key_of
from .types import Params
from .warm_start import NO_COST, Cost, warm_start
from .warm_start_cache import cached


class Start(NamedTuple):
    """Weights to start from, and what they took. The seconds are 0 where they came from the cache."""

    params: Params
    cost: Cost  # when they were made
    compilation_seconds: float
    seconds: float  # without compilation


def common_start(plan: Plan, note: Callable[[str], None], shared: Shared | None = None) -> Start:
    """The warm start of a plan, or the policy of the run that it starts from.

    Args:
      note: told of its progress.
      shared: with other runs of the process.
    """
    if plan.start_from:
        return Start(plan.start_from.params, NO_COST, 0.0, 0.0)
    settings, key = plan.warm_start, key_of(plan.warm_start.seed)
    compiling = seconds = 0.0

    def progress(step: int, accuracy: float | None) -> None:
        known = "unknown" if accuracy is None else f"{accuracy:.3f}"
        note(f"warm start {step}/{settings.steps}  accuracy {known}")

    def make() -> tuple[Params, Cost]:
        nonlocal compiling, seconds
        memory = MemoryMeter(plan.devices[0], shared)
        devices = Devices(plan.devices, memory, shared.programs("warm start") if shared else None)
        account = Account(shared=shared)  # of its own: it is no part of the run's
        single = UpdateConfig(1, 1, plan.update_config.microbatch_tokens)
        algorithm, optimizer = sft(plan.model), plan.warm_start_optimizer
        learner = Learner(algorithm, optimizer, single, devices, seed=settings.seed, donate=True, account=account)
        player = Player(
            *(plan.model, plan.task, plan.tokenizer, plan.limits, Sampling(), devices, key),
            *(plan.verifier, plan.acting, account),
        )
        began = time.perf_counter()
        made = warm_start(settings, plan.model, learner, player, progress)
        compiling = account.timeline.seconds()["learner"][Activity.COMPILING]
        seconds = time.perf_counter() - began - compiling
        if shared:
            shared.made_start(memory.peak(), free_bytes(plan.devices[0]))
        return made

    like = jax.eval_shape(plan.model.init, key)
    folder = plan.cache / "warm_starts"
    params, cost = cached(folder, plan.warm_start_content, plan.sources, like, make)
    return Start(params, cost, compiling, seconds)
