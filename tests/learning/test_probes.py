"""Each algorithm, from random weights, on tasks whose answers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra import compose, initialize_config_module

from rlbench.acting.collector import Batch
from rlbench.contract.task import training_problems
from rlbench.experiment import Experiment
from rlbench.models.likelihood import token_logp, token_value
from rlbench.plan import make_plan
from tests.fakes import DEMO, REWARDED

SETTINGS = [
    "tokenizer.alphabet=\"ab=\"", "model.layers=1", "model.width=16", "model.heads=2", "model.hidden=32",
    "batch.rollouts=64", "optimizer.learning_rate=1e-2", "warm_start.steps=0", "tracker=none", "checkpoint.keep=0",
    "evaluation.every=1000", "evaluation.problems=2", "evaluation.samples=128", "evaluation.pass_at=[1]",
]  # fmt: skip


def train(tmp_path, cache, algo: str, probe: str, *words: str) -> tuple[Experiment, list]:
    """Trains on a probe, on one device; the experiment afterwards, and its evaluations before and after."""
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        config = compose("config", [f"algo={algo}", f"cache={cache}", *SETTINGS, *words])
    config.task = {"_target_": f"tests.learning.probes.{probe}"}
    experiment = Experiment(make_plan(config, {"algo": algo, "task": probe}, jax.devices()[:1]), tmp_path)
    log: list = []
    experiment.recorder.trackers[0].log = log.append  # type: ignore[method-assign]
    experiment.go()
    return experiment, [row["eval/sampled_accuracy"] for row in log if "eval/sampled_accuracy" in row]


def sampled(experiment: Experiment) -> Batch:
    """A batch more of the policy."""
    experiment.parts.stop.clear()
    plan = experiment.plan
    problems = training_problems(plan.task, plan.seed, 0, plan.rollouts // plan.algorithm.group_size)
    policy = plan.algorithm.acting(experiment.state.trainable, experiment.state.frozen)
    return experiment.parts.player.play(policy, problems, plan.algorithm.group_size, first_id=0, version=0)


@pytest.mark.parametrize(("algo", "seed"), [*((algo, 0) for algo in REWARDED), *((algo, 1) for algo in DEMO)])
@pytest.mark.parametrize("probe", ["DelayedReward", "RewardOfThePrompt"])
def test_it_is_solved(tmp_path, cache, algo, probe, seed):
    _, (before, after) = train(tmp_path, cache, algo, probe, "steps=90", f"seed={seed}")
    # Four tokens can be chosen; a right completion is one of them, and the end.
    assert before < 0.6
    assert after > 0.95


@pytest.mark.parametrize("algo", REWARDED)
def test_a_constant_reward_teaches_nothing(tmp_path, cache, algo):
    """With a baseline that knows the reward, the policy stays.

    A critic's error, and SFT on one's own completions, are noise that leads nowhere. A KL term that
    comes off the reward is one of rounding at the start, which an optimizer that divides by a gradient's size makes
    large.
    """
    rewarded = algo in ("reinforce_plus_plus", "rloo")
    experiment, _ = train(tmp_path, cache, algo, "ConstantReward", "steps=30", *["algo.kl_coef=0"] * rewarded)
    batch = sampled(experiment)
    rollouts = jax.tree.map(jnp.asarray, batch.rollouts)
    policy = experiment.state.trainable["policy"]
    start = experiment.plan.model.init(jax.random.split(jax.random.key(experiment.plan.warm_start.seed))[0])
    logp = np.asarray(token_logp(experiment.plan.model, policy, rollouts))[batch.rollouts.mask]
    if "critic" in experiment.state.trainable or algo == "expert_iteration":
        # At the start each of four tokens has a fourth.
        assert -2.5 < logp.mean() < -0.5
    else:
        jax.tree.map(lambda now, before: np.testing.assert_allclose(now, before, atol=1e-6), policy, start)


@pytest.mark.parametrize("runner", ["sync", "async"])
def test_a_run_compiles_each_function_once_a_bucket(tmp_path, cache, runner):
    """Two turns, evaluations in between, several updates a batch; rows of Rollouts in one or two lengths."""
    words = ["steps=6", "evaluation.every=2", "batch.minibatches=2", "batch.epochs=2", f"runner={runner}"]
    for buckets, lengths in (("null", {8}), ("[6]", {6, 8})):
        run, _ = train(tmp_path, cache, "ppo", "DelayedReward", *words, f"batch.buckets={buckets}")
        for player in (run.parts.player, run.parts.evaluator):
            programs = player.read, player.start, player.sample, player.answers
            assert [program.compilations for program in programs] == [1, 1, 1, 1]
        assert set(run.plan.limits.buckets) == lengths
        assert 1 <= run.parts.learner.update.compilations == run.parts.learner.score.compilations <= len(lengths)


def test_truncated_sampling_is_warned_of_in_training(caplog):
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        for words, warned in (([], False), (["sampling.top_k=5"], True), (["evaluation.top_p=0.9"], False)):
            caplog.clear()
            make_plan(compose("config", words), {"algo": "grpo", "task": "arithmetic"}, jax.devices()[:1])
            assert ("off-policy" in caplog.text) == warned


def test_a_critic_learns_a_constant_reward(tmp_path, cache):
    experiment, _ = train(tmp_path, cache, "ppo", "ConstantReward", "steps=60")
    batch = sampled(experiment)
    rollouts = jax.tree.map(jnp.asarray, batch.rollouts)
    critic = experiment.plan.model.resized(1)
    value = token_value(critic, experiment.state.trainable["critic"], rollouts)
    np.testing.assert_allclose(np.asarray(value)[batch.rollouts.mask], 1.0, atol=0.1)
