"""Settings at the edges of their ranges: they run, or are refused before anything is compiled."""

import json

import pytest

from rlbench.experiment import run
from rlbench.types import ConfigError


@pytest.mark.parametrize(
    ("algo", "word", "why"),
    [
        ("grpo", "model.param_dtype=float16", "input should be 'float32' or 'bfloat16'"),
        ("grpo", "model.compute_dtype=float16", "not on a CPU"),
        ("grpo", "model.temperature=1e-9", "input should be greater than or equal to 0.001"),
        ("grpo", "model.rope_base=0.5", "input should be greater than or equal to 1"),
        ("grpo", "optimizer.b1=1.0", "input should be less than or equal to 0.999999"),
        ("grpo", "optimizer.b2=1.0", "input should be less than or equal to 0.999999"),
        ("grpo", "optimizer.epsilon=1e-50", "input should be from 1e-30 to 1e30"),
        ("grpo", "algo.kl_coef=1e39", "input should be from 1e-30 to 1e30"),
        ("dr_grpo", "algo.length=1e-9", "input should be greater than or equal to 1"),
    ],
)
def test_what_cannot_run_is_refused_by_its_key(plan_of, algo, word, why):
    key, _, _ = word.partition("=")
    with pytest.raises(ConfigError) as refused:
        plan_of(algo, word)
    assert refused.value.args[0] == key and refused.value.args[2].startswith(why)


ONES = "steps=2 batch.rollouts=2 batch.minibatches=2 batch.microbatch_tokens=1 batch.buckets=[1] evaluation.problems=1 "
ONES += "evaluation.samples=1 evaluation.trajectories=0 warm_start.rollouts=1 warm_start.problems=1 "
ONES += "warm_start.accuracy=0.0 warm_start.check_every=1 model.heads=1 model.width=2 model.hidden=1 "
ZEROS = "evaluation.top_p=0.0 sampling.top_p=0.0 sampling.top_k=1 optimizer.b1=0.0 optimizer.b2=0.0 "
ZEROS += "optimizer.final_lr_fraction=0.0 optimizer.warmup=9 model.temperature=0.001 model.rope_base=1.0 "


@pytest.mark.parametrize(
    ("algo", "words"),
    [
        ("grpo", "evaluation.pass_at=[] algo.group_size=1 algo.advantage_eps=0.0 algo.kl_coef=0.0"),
        ("ppo", "evaluation.pass_at=[1] algo.gamma=0.0 algo.gae_lambda=0.0 algo.value_coef=0.0 algo.critic.width=2"),
    ],
)
def test_what_is_accepted_runs(plan_of, tmp_path, algo, words):
    summary = run(plan_of(algo, *(ONES + ZEROS + words).split()), tmp_path)
    assert summary["status"] == "finished"
    json.loads((tmp_path / "ledger.json").read_text())
