"""One GRPO step, rlbench against a plain JAX loop: 64 problems x 8 completions of at most 4 tokens, 0.9 M parameters.

The plain loop is what one writes first, on the same network, task and numbers: every completion has a
cache of its own, and the gradient takes the whole batch at once. Both are timed in turn, step by
step; printed are medians, and the median of the ratios of neighbouring steps.

    python -m benchmarks.step [steps]
"""

import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hydra import compose, initialize_config_module
from rich.console import Console
from rich.table import Table

from benchmarks.side import Side
from rlbench.acting.episode import ragged
from rlbench.models.likelihood import log_policy
from rlbench.models.tokenizers import END
from rlbench.plan import Plan, make_plan

RATE, CLIP, KL = 1e-4, 0.2, 0.04
ALGORITHM = ["algo=grpo", f"algo.clip={CLIP}", f"algo.kl_coef={KL}"]
OVERRIDES = [*ALGORITHM, "model=micro", "batch.rollouts=512", "tracker=none", "optimizer=sgd"]


def plain_step(plan: Plan) -> Callable[[int], tuple[float, float]]:
    """The same step without rlbench's sampling loop and learner: seconds of acting and of learning."""
    model, limits, group = plan.model._replace(chunk_tokens=10**9), plan.limits, plan.algorithm.group_size
    optimizer = optax.adam(RATE)
    params = reference = model.init(jax.random.key(2))
    opt_state = optimizer.init(params)

    def logp_of(params, tokens):
        logp = log_policy(model, model.apply(params, tokens[:, :-1]))
        return jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)[..., 0]

    @jax.jit
    def sample(params, prompts, lengths, key):
        rows = len(prompts)
        outputs, cache = model.extend(params, model.cache(rows, limits.episode), prompts, lengths)

        def one(carry, key):
            outputs, cache = carry
            token = jax.random.categorical(key, log_policy(model, outputs)).astype(jnp.int32)
            return model.extend(params, cache, token[:, None], jnp.ones(rows, jnp.int32)), token

        _, tokens = jax.lax.scan(one, (outputs, cache), jax.random.split(key, limits.completion))
        return tokens.T

    @jax.jit
    def update(params, opt_state, tokens, mask, reward):
        by_group = reward.reshape(-1, group)
        advantage = by_group - by_group.mean(axis=1, keepdims=True)
        advantage = (advantage / (by_group.std(axis=1, ddof=1, keepdims=True) + 1e-6)).reshape(-1, 1)
        ref = logp_of(reference, tokens)

        def loss(params):
            logp = logp_of(params, tokens)
            ratio = jnp.exp(logp - jax.lax.stop_gradient(logp))  # one update a batch: the data is fresh
            gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
            kl = jnp.exp(ref - logp) - (ref - logp) - 1
            per_row = jnp.where(mask, KL * kl - gain, 0).sum(axis=1) / mask.sum(axis=1)
            return per_row.mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    def step(index: int) -> tuple[float, float]:
        nonlocal params, opt_state
        start = time.perf_counter()
        count = plan.rollouts // group
        problems = [plan.task.problem(index * count + i, "train") for i in range(count)]
        encoded = [plan.tokenizer.encode(problem.prompt) for problem in problems]
        prompts, lengths = (np.repeat(x, group, axis=0) for x in ragged(encoded, limits.prompt))
        completions = np.asarray(sample(params, prompts, lengths, jax.random.key(index)))
        tokens = np.concatenate([prompts, completions], axis=1)
        mask, reward = np.zeros(tokens.shape, bool), np.zeros(len(tokens), np.float32)
        for row, completion in enumerate(completions):
            chosen = completion.tolist()
            length = chosen.index(END) + 1 if END in chosen else len(chosen)
            reward[row] = plan.task.step(problems[row // group].state, plan.tokenizer.decode(chosen[:length])).reward
            mask[row, limits.prompt : limits.prompt + length] = True
        middle = time.perf_counter()
        params, opt_state = jax.block_until_ready(update(params, opt_state, tokens, mask[:, 1:], reward))
        return middle - start, time.perf_counter() - middle

    return step


def compare(steps: int) -> np.ndarray:
    """Seconds [steps, who, part] of rlbench and of the plain loop, acting and learning, in turn."""
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        plan = make_plan(compose("config", OVERRIDES), {"algo": "grpo", "task": "arithmetic"}, jax.devices()[:1])
    ours, plain = Side(plan, optax.adam(RATE)), plain_step(plan)
    for index in range(3):
        ours.step(), plain(index)
    return np.array([[ours.step(), plain(index)] for index in range(3, 3 + steps)])


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    times = compare(steps)
    table = Table(title=f"seconds a GRPO step, median of {steps}, on {jax.devices()[0].device_kind}")
    for name in ("", "acting", "learning", "step"):
        table.add_column(name, justify="right")
    for name, parts in zip(("rlbench", "plain loop"), np.median(times, axis=0), strict=True):
        table.add_row(name, *(f"{x:.3f}" for x in (*parts, parts.sum())))
    ratios = np.concatenate([times[:, 0] / times[:, 1], (times[:, 0].sum(1) / times[:, 1].sum(1))[:, None]], axis=1)
    table.add_row("ratio", *(f"{statistics.median(column):.2f}" for column in ratios.T))
    Console().print(table)


if __name__ == "__main__":
    main()
