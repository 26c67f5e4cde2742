"""rlbench's side of a comparison: learner steps one by one, without a run around them."""

import time
from typing import Any

import jax
import optax

from rlbench.accounting.account import Account
from rlbench.acting.player import Player
from rlbench.devices import Devices
from rlbench.learning.learner import Learner
from rlbench.plan import Plan


class Side:
    """Takes synchronous learner steps of a plan, from weights that were not trained."""

    def __init__(self, plan: Plan, optimizer: optax.GradientTransformation):
        self.plan, self.devices, self.account = plan, Devices(plan.devices), Account()
        made = plan.model, plan.task, plan.tokenizer, plan.limits, plan.sampling, self.devices, jax.random.key(0)
        self.player = Player(*made, plan.verifier, plan.acting, self.account)
        self.learner = Learner(
            *(plan.algorithm, optimizer, plan.update_config, self.devices),
            **{"seed": 0, "donate": True, "account": self.account, "widths": plan.limits.widths},
        )
        weights = self.devices.replicate(plan.model.init(jax.random.key(2)))
        self.state = self.learner.init(jax.random.key(1), weights, None)
        self.index = 0

    def step(self) -> tuple[float, float]:
        """One step: seconds of acting and of learning."""
        start = time.perf_counter()
        plan, group = self.plan, self.plan.algorithm.group_size
        count = plan.rollouts // group
        seeds = range(self.index * count, (self.index + 1) * count)
        problems = [(seed, plan.task.problem(seed, "train")) for seed in seeds]
        policy = plan.algorithm.acting(self.state.trainable, self.state.frozen)
        about: Any = policy, problems, group
        batch = self.player.play(*about, first_id=self.index * plan.rollouts, version=self.index)
        middle = time.perf_counter()
        arrays = self.devices.shard((batch.rollouts, batch.prompts))
        self.state, _, _ = self.learner.step(self.state, *arrays)
        self.index += 1
        return middle - start, time.perf_counter() - middle

    def flops(self) -> float:
        """Operations executed since this was asked last."""
        return float(self.account.take().flops.total())
