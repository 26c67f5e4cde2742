"""Continuous batching against lock-step sampling, in turn: spread lengths, the batches of the demo, slow environments.

Lock-step is the reference of the tests (tests/lockstep.py): the same network, cache, judging and records.

    python -m benchmarks.batching [pairs]
"""

import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from rlbench.acting.player import Player
from rlbench.devices import Devices, keep_freed_memory
from rlbench.learning.learner import Learner
from rlbench.models.tokenizers import END
from rlbench.plan import Plan, make_plan
from rlbench.types import Bounds, Problem, Rollouts, Status, Step
from tests.lockstep import LockStep

MEDIAN, SIGMA, LONGEST = 32, 1.0, 256  # tokens, of log-normal lengths
DELAYS = 0.2  # seconds: the slowest step


def plan_of(*words: str) -> Plan:
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", ["algo=grpo", "tracker=none", *words])
    return make_plan(config, {"algo": "grpo", "task": "arithmetic"}, jax.devices()[:1])


def player_of(plan: Plan) -> Player:
    made = plan.model, plan.task, plan.tokenizer, plan.limits, plan.sampling
    return Player(*made, Devices(plan.devices), jax.random.key(0), plan.verifier, plan.acting)


def timed(function: Callable[[], object]) -> float:
    """Seconds of a call, without Python's garbage collection, which comes when it will."""
    gc.collect()
    gc.disable()
    began = time.perf_counter()
    function()
    seconds = time.perf_counter() - began
    gc.enable()
    return seconds


def interval(ratios: list[float]) -> str:
    """The geometric mean of ratios, with its 95 % interval."""
    logs = np.log(ratios)
    mean, error = logs.mean(), 2.0 * logs.std(ddof=1) / len(logs) ** 0.5
    low, middle, high = np.exp([mean - error, mean, mean + error])
    return f"{middle:.3f} (95 % interval {low:.3f} to {high:.3f})"


def spread_lengths(console: Console, pairs: int) -> None:
    """512 rollouts through 128 slots, as a batch that has to drain and as a stream."""
    plan = plan_of("model=micro", "batch.rollouts=512", f"batch.max_completion_tokens={LONGEST}", "acting.slots=128")
    emits = plan.model.emits & (np.arange(len(plan.model.emits)) != END)
    plan = plan._replace(model=plan.model._replace(emits=emits))
    group, params = plan.algorithm.group_size, plan.model.init(jax.random.key(2))
    player, random = player_of(plan), np.random.default_rng(0)

    def lengths(rollouts: int) -> np.ndarray:
        return np.clip(np.exp(random.normal(np.log(MEDIAN), SIGMA, rollouts)), 1, LONGEST).astype(np.int32)

    def problems(rollouts: int) -> list[tuple[int, Problem]]:
        return [(seed, plan.task.problem(seed, "train")) for seed in range(rollouts // group)]

    batch, stream = lengths(512), lengths(2048)
    lockstep = LockStep(player)
    runs: dict[str, Callable[[], object]] = {
        "lock-step, 512 rows": lambda: lockstep.play(params, problems(512), group, first_id=0, version=0, limit=batch),
        "128 slots, a batch": lambda: player.play(params, problems(512), group, first_id=0, version=0, limit=batch),
        "128 slots, 2,048": lambda: player.play(params, problems(2048), group, first_id=0, version=0, limit=stream),
    }
    for run in runs.values():
        run()
    player.account.take()
    runs["128 slots, a batch"]()
    passes = [one for one in player.account.take().passes if one.phase == "decode"]
    slots, sampled = sum(one.slots for one in passes), int(batch.sum())
    times = {name: [timed(run) for _ in range(pairs)] for name, run in runs.items()}
    seconds = {name: statistics.median(values) for name, values in times.items()}
    alone, drained, streamed = seconds.values()
    table = Table(
        title=f"completions of log-normal length, median {MEDIAN}, at most {LONGEST}; micro, groups of {group}"
    )
    for column in ("", "rollouts/s", "times lock-step"):
        table.add_column(column, justify="right")
    rates = {"lock-step, 512 rows": 512 / alone, "128 slots, a batch": 512 / drained}
    rates["128 slots, steady"] = (2048 - 512) / (streamed - drained)
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.0f}", f"{rate * alone / 512:.2f}")
    console.print(table)
    row_steps = 512 * (int(batch.max()) - 1)
    console.print(
        f"row steps: {row_steps:,} in lock-step, {slots:,} through slots ({row_steps / slots:.2f} times fewer), "
        f"{sampled:,} tokens sampled ({sampled / slots:.0%} of the slots' steps)"
    )


def demo(console: Console, pairs: int) -> None:
    """Learner steps of the demo, where nobody has to wait for anybody."""
    plan = plan_of("experiment=demo")
    group, player, devices = plan.algorithm.group_size, player_of(plan), Devices(plan.devices)
    lockstep = LockStep(player)
    learner = Learner(
        plan.algorithm, plan.optimizer, plan.update_config, devices, seed=0, donate=False, widths=plan.limits.widths
    )
    state = learner.init(jax.random.key(1), plan.model.init(jax.random.key(2)), None)
    acting, steps = [], []

    def learn(rollouts: Rollouts, prompts: jax.Array) -> None:
        nonlocal state
        state, _, _ = learner.step(state, rollouts, prompts)

    for index in range(pairs + 3):
        count = plan.rollouts // group
        seeds = range(index * count, (index + 1) * count)
        problems = [(seed, plan.task.problem(seed, "train")) for seed in seeds]
        about: Any = (state.trainable["policy"], problems, group)
        how: Any = {"first_id": index * plan.rollouts, "version": 0}
        theirs = timed(lambda: lockstep.play(*about, **how))  # noqa: B023
        ours = timed(lambda: player.play(*about, **how))  # noqa: B023
        batch = player.play(*about, **how)
        learning = timed(partial(learn, *devices.shard((batch.rollouts, batch.prompts))))
        player.account.take()
        acting.append(ours / theirs)
        steps.append((ours + learning) / (theirs + learning))
    console.print(f"a learner step of the demo: {interval(steps[3:])} times its seconds in lock-step, {pairs} pairs")
    console.print(f"its acting alone: {interval(acting[3:])}")


class Slow:
    """Four turns, each judged after up to DELAYS seconds; how long depends on the problem and the turn."""

    blocking = True
    bounds = Bounds(alphabet=frozenset("0123456789+="), prompt=4, completion=2, turns=4, observation=2)

    def problem(self, seed: int, split: str) -> Problem:
        return Problem(f"{seed % 10}+1=", (seed, 0))

    def step(self, state: tuple[int, int], completion: str) -> Step:
        seed, turn = state
        time.sleep(delay(seed, turn))
        last = turn == self.bounds.turns - 1
        return Step((seed, turn + 1), None if last else "1=", 0.0, Status.WRONG if last else Status.OPEN)

    def solution(self, state: tuple[int, int]) -> str:
        return "1"


def delay(seed: int, turn: int) -> float:
    return float(np.random.default_rng([seed, turn]).uniform(0, DELAYS))


def slow_environments(console: Console, pairs: int) -> None:
    """64 episodes, none of which can be over before its own four steps are."""
    plan = plan_of()
    task = Slow()
    limits = plan.limits._replace(observation=2, turns=task.bounds.turns)
    limits = limits._replace(buckets=(limits.episode,))
    player = player_of(plan._replace(task=task, limits=limits))
    params, problems = plan.model.init(jax.random.key(2)), [(seed, task.problem(seed, "train")) for seed in range(64)]
    chains = [sum(delay(seed, turn) for turn in range(task.bounds.turns)) for seed in range(64)]

    def play() -> None:
        player.play(params, problems, 1, first_id=0, version=0)

    play()
    player.account.take()
    seconds = statistics.median(timed(play) for _ in range(pairs))
    waited = player.account.take().verification.wall_seconds / pairs
    console.print(
        f"slow environments: 64 episodes in {seconds:.3f} s, {64 / seconds:.0f} rollouts/s; the longest chain of steps "
        f"takes {max(chains):.3f} s: {max(chains) / seconds:.0%} of the bound; {waited:.3f} s were waiting"
    )


def measure(pairs: int) -> None:
    keep_freed_memory()
    console = Console(width=120)
    spread_lengths(console, max(pairs // 8, 2))
    demo(console, pairs)
    slow_environments(console, max(pairs // 8, 2))


def main() -> None:
    """Measures on a thread, as the actor of a run is: the main thread would start another one for every program."""
    thread = threading.Thread(target=measure, args=(int(sys.argv[1]) if len(sys.argv) > 1 else 40,))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
