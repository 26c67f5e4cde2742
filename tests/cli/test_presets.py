"""The presets that answer a question: their jobs are those that the question needs, and all of them run."""

import functools
from collections import Counter
from itertools import product
from pathlib import Path

import jax
import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from rlbench.experiment import run
from rlbench.hydra_adapter import combinations, parse_overrides
from rlbench.plan import make_plan
from tests.cli.test_cli import SMALL

FOLDER = Path(__file__).parents[2] / "conf/experiment"
GROUP = 4  # attempts at each problem, in the demo and what follows from it
SWEEPS = sorted(path.stem for path in FOLDER.glob("*.yaml") if "sweeper" in path.read_text())


@functools.cache
def jobs_of(*words):
    """The composed configs of a multirun's jobs."""
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", list(words), run_mode=RunMode.MULTIRUN)
        values = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
        parsed = parse_overrides([*values, *master.hydra.overrides.task])
        (jobs,) = combinations(parsed, None)
        return [loader.load_sweep_config(master, job) for job in jobs]


def told(*words):
    """Differences between the jobs: counts of (algorithm, staleness, group, delay, budget), and their seeds."""
    jobs = jobs_of(*words)
    return Counter(
        (
            job.hydra.runtime.choices.algo,
            job.runner.max_staleness,
            job.algo.group_size,
            job.verifier.delay_seconds,
            job.max_flops,
            job.seed,
        )
        for job in jobs
    )


def each(*axes, seeds):
    """Every combination, once a seed."""
    return Counter((*one[0], *one[1:], seed) for *one, seed in product(*axes, range(seeds)))


def test_there_is_one_for_every_question():
    assert SWEEPS == ["budget", "critic_cost", "environment_latency", "group_size", "staleness"]


def test_critic_cost_is_ppo_against_grpo_at_equal_rollouts():
    assert told("experiment=critic_cost") == each([("ppo", 0, GROUP), ("grpo", 0, GROUP)], [0.0], [None], seeds=16)
    assert len({(job.batch.rollouts, job.steps) for job in jobs_of("experiment=critic_cost")}) == 1


def test_group_size_spends_the_same_rollouts_on_fewer_problems():
    groups = [("grpo", 0, size) for size in (2, 4, 8, 16, 32)]
    assert told("experiment=group_size") == each(groups, [0.0], [None], seeds=8)
    assert len({(job.batch.rollouts, job.steps) for job in jobs_of("experiment=group_size")}) == 1


def test_staleness_goes_from_0_to_8_corrected_and_not():
    algos = "grpo", "async_grpo", "async_grpo_areal", "dppo"
    sides = [(algo, steps, GROUP) for algo in algos for steps in (0, 1, 2, 4, 8)]
    assert told("experiment=staleness") == each(sides, [0.0], [None], seeds=5)
    jobs = jobs_of("experiment=staleness")
    assert len({(job.algo.loss_aggregation, job.algo.advantage_eps) for job in jobs}) == 1


def test_environment_latency_slows_every_algorithm_under_every_runner():
    jobs = jobs_of("experiment=environment_latency")
    found = Counter(
        (job.hydra.runtime.choices.algo, job.runner.max_staleness, job.runner.swap, job.task.latency.seconds, job.seed)
        for job in jobs
    )
    runners = [(0, "drained"), (1, "drained"), (1, "chunk")]
    assert found == Counter(
        (algo, *runner, seconds, seed)
        for algo, runner, seconds, seed in product(("ppo", "grpo", "async_grpo"), runners, (0, 0.05, 0.2), range(5))
    )
    assert len({(job.batch.rollouts, job.steps, job.algo.group_size, job.verifier.delay_seconds) for job in jobs}) == 1


def test_budget_gives_all_the_same_operations_at_a_learning_rate_that_does_not_fall():
    sides = [("ppo", 0, GROUP), ("grpo", 0, GROUP), ("async_grpo", 1, GROUP)]
    assert told("experiment=budget") == each(sides, [0.0], [1e12], seeds=16)
    assert {job.optimizer.final_lr_fraction for job in jobs_of("experiment=budget")} == {1.0}


def test_the_command_line_goes_before_a_presets_values():
    told_now = told("experiment=critic_cost", "seed=7,8", "algo=grpo")
    assert told_now == Counter({("grpo", 0, GROUP, 0.0, None, seed): 1 for seed in (7, 8)})


@pytest.mark.slow
@pytest.mark.parametrize("name", SWEEPS)
def test_every_job_of_a_preset_runs(name, cache, tmp_path):
    budget = ["max_flops=3e6", "steps=50"] if name == "budget" else []
    task = ["task.latency.seconds=0.01"] if name == "environment_latency" else ["task.digits=1"]
    ends = ["runner.max_staleness=0,8"] if name == "staleness" else []
    sizes = [*SMALL, *task, *ends, "batch.rollouts=32", "batch.minibatches=1", *budget]
    for number, job in enumerate(jobs_of(f"experiment={name}", "seed=0", *sizes, f"cache={cache}", "tracker=none")):
        names = {group: job.hydra.runtime.choices[group] for group in ("algo", "task")}
        config = OmegaConf.masked_copy(job, [key for key in job if key != "hydra"])
        (folder := tmp_path / str(number)).mkdir()
        summary = run(make_plan(config, names, jax.devices()[:1]), folder)
        assert summary["status"] == "finished"
        assert 0 < summary["learner_steps"] < 50 if budget else summary["learner_steps"] == 3
