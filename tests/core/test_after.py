"""State from step to step: a moving average that samples, and a replay buffer, as plugins would write them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlbench.experiment import Experiment, run
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.learning.objectives import masked_sum
from rlbench.learning.optimizers import sgd
from rlbench.models.likelihood import token_logp
from rlbench.testing import ALGORITHM_CHECKS, NotApplicable, algorithm_case
from rlbench.types import Algorithm, Loss
from tests.fakes import algorithm_of, as_numpy, rollouts_of, small_model

MODEL = small_model(hidden=16)
DECAY = 0.75


def averaged(base: Algorithm) -> Algorithm:
    """Samples with a moving average of the policy."""

    def init(key, policy, rollouts):
        return {"policy": policy}, {"average": policy}

    def after(trainable, frozen, rollouts, scores):
        return {
            "average": jax.tree.map(lambda a, p: DECAY * a + (1 - DECAY) * p, frozen["average"], trainable["policy"])
        }

    return base._replace(init=init, after=after, acting=lambda trainable, frozen: frozen["average"])


def replayed(base: Algorithm, model) -> Algorithm:
    """Trains on every batch twice: when it is fresh, and a step later."""

    def init(key, policy, rollouts):
        return {"policy": policy}, {"last": jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rollouts)}

    def score(trainable, frozen, rollouts, version):
        last = frozen["last"]
        again = base.score(trainable, {}, last, version)["advantage"]
        return base.score(trainable, {}, rollouts, version) | {"again": again, **last._asdict()}

    def loss(trainable, frozen, rollouts, scores):
        old = rollouts._replace(**{name: scores[name] for name in rollouts._fields})
        gain = jnp.exp(jnp.where(old.mask, token_logp(model, trainable["policy"], old) - old.logp, 0.0))
        total, weight = masked_sum(-gain * scores["again"], old)
        fresh = base.loss(trainable, {}, rollouts, {"advantage": scores["advantage"]})
        return Loss(fresh.total + total / jnp.maximum(weight, 1.0), fresh.weight, fresh.metrics)

    def after(trainable, frozen, rollouts, scores):
        return {"last": rollouts}

    return base._replace(init=init, score=score, loss=loss, after=after)


GRPO = algorithm_of("grpo", MODEL, kl_coef=0.0, group_size=4)


@pytest.mark.parametrize("check", [name for name in ALGORITHM_CHECKS if name != "docstring"])
def test_a_moving_average_keeps_the_contract(check):
    try:
        ALGORITHM_CHECKS[check].check(algorithm_case(averaged(GRPO), MODEL))
    except NotApplicable:
        assert check in ("keep",)


@pytest.mark.parametrize("check", ["structure", "finite", "after", "no recompilation", "accounting", "no valid row"])
def test_so_does_a_replay_buffer(check):
    ALGORITHM_CHECKS[check].check(algorithm_case(replayed(GRPO, MODEL), MODEL))


def test_it_is_called_once_a_learner_step_after_its_updates(devices):
    """By hand: three quarters of the average, and a quarter of the policy of two updates."""
    learner = Learner(
        averaged(GRPO), sgd(10, learning_rate=0.1), UpdateConfig(1, 2, 1000), devices, seed=0, donate=False
    )
    rollouts = rollouts_of(np.eye(4, 3), group=[0, 0, 1, 1])
    start = learner.init(jax.random.key(0), MODEL.init(jax.random.key(1)), None)
    state, _, _ = learner.step(start, devices.shard(rollouts))
    moved = jax.tree.map(lambda a, p: DECAY * a + (1 - DECAY) * p, start.frozen["average"], state.trainable["policy"])
    for ours, expected in zip(*map(jax.tree.leaves, map(as_numpy, (state.frozen["average"], moved))), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_moving_average_samples(plan_of, tmp_path, runner):
    plan = plan_of("grpo", f"runner={runner}", "algo.kl_coef=0.0", "warm_start.steps=0")
    run(plan._replace(algorithm=averaged(plan.algorithm)), tmp_path)
    memory = json.loads((tmp_path / "ledger.json").read_text())["memory"]
    assert memory["sampling_network"] == "average"


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_what_was_sampled_last_is_in_the_replay_buffer(plan_of, tmp_path, runner):
    plan = plan_of("grpo", f"runner={runner}", "algo.kl_coef=0.0", "warm_start.steps=0")
    experiment = Experiment(plan._replace(algorithm=replayed(plan.algorithm, plan.model)), tmp_path)
    experiment.go()
    last = as_numpy(experiment.state.frozen["last"])
    assert last.mask.any() and last.version.max() == plan.steps - 1 - plan.runner.max_staleness
    experiment.finish()
    plan.verifier.close()
