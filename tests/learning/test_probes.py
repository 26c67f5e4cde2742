"""Each algorithm, from random weights, on tasks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra import compose, initialize_config_module

from rlbench.experiment import Experiment
from rlbench.models.likelihood import token_logp, token_value
from rlbench.plan import make_plan
from tests.contract.test_contract import options

SETTINGS = [
    "tokenizer.alphabet=\"ab=\"", "model.layers=1", "model.width=16", "model.heads=2", "model.hidden=32",
    "batch.rollouts=64", "optimizer.learning_rate=1e-2", "warm_start.steps=0", "tracker=none",
    "evaluation.every=1000", "evaluation.problems=16", "evaluation.samples=16", "evaluation.pass_at=[1]",
]  # fmt: skip


def train(tmp_path, cache, algo: str, probe: str, *words: str) -> tuple[Experiment, list]:
    """Trains on a probe, on one device; the experiment afterwards, and its evaluations before and after."""
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", [f"algo={algo}", f"cache={cache}", *SETTINGS, *words])
    config.task = {"_target_": f"tests.learning.probes.{probe}"}
    experiment = Experiment(make_plan(config, {"algo": algo, "task": probe}, jax.devices()[:1]), tmp_path)
    log: list = []
    experiment.trackers[0].log = log.append  # type: ignore[method-assign]
    experiment.go()
    return experiment, [row["heldout/sampled_accuracy"] for row in log if "heldout/sampled_accuracy" in row]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("algo", options("algo"))
@pytest.mark.parametrize("probe", ["DelayedReward", "RewardOfThePrompt"])
def test_it_is_solved(tmp_path, cache, algo, probe, seed):
    _, (before, after) = train(tmp_path, cache, algo, probe, "steps=60", f"seed={seed}")
    # Four tokens can be chosen; a right reply is one of them, and the end.
    assert before < 0.6
    assert after > 0.95


@pytest.mark.parametrize("algo", options("algo"))
def test_a_constant_reward_teaches_nothing(tmp_path, cache, algo):
    """With a baseline that knows the reward, the policy stays; a critic's error is noise that leads nowhere."""
    experiment, _ = train(tmp_path, cache, algo, "ConstantReward", "steps=30")
    batch, _ = experiment._act(0)
    rollouts = jax.tree.map(jnp.asarray, batch.rollouts)
    policy = experiment.state.trainable["policy"]
    start = experiment.plan.model.init(jax.random.split(jax.random.key(experiment.plan.warm_start.seed))[0])
    logp = np.asarray(token_logp(experiment.plan.model, policy, rollouts))[batch.rollouts.mask]
    if "critic" in experiment.state.trainable:
        # At the start each of four tokens has a fourth.
        assert -2.5 < logp.mean() < -0.5
    else:
        jax.tree.map(lambda now, before: np.testing.assert_allclose(now, before, atol=1e-6), policy, start)


def test_a_critic_learns_a_constant_reward(tmp_path, cache):
    experiment, _ = train(tmp_path, cache, "ppo", "ConstantReward", "steps=60")
    batch, _ = experiment._act(0)
    rollouts = jax.tree.map(jnp.asarray, batch.rollouts)
    critic = experiment.plan.model.resized(1)
    value = token_value(critic, experiment.state.trainable["critic"], rollouts)
    np.testing.assert_allclose(np.asarray(value)[batch.rollouts.mask], 1.0, atol=0.1)
