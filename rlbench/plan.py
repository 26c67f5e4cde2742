"""From a config to a plan: every object that a run needs, checked, before anything is compiled."""

import inspect
import logging
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax

from .acting.generate import Sampling
from .acting.rollout import Space, training_problems
from .contract.algorithm import check_algorithm, check_model, source_of
from .contract.sources import Source
from .contract.task import check_bounds, gold_of
from .devices import cache_folder
from .evaluation import Evaluation
from .learning.learner import Spending
from .models.tokenizers import check_tokenizer
from .plugins import build, plain, read, target_of
from .running.schedule import Runner
from .types import Algorithm, ConfigError, Count, Model, Natural, Positive, Task, Tokenizer, Tracker
from .verifying.verifier import Verifier, Verifying
from .warm_start import WarmStart

SPARED = ("workers", "max_failures", "delay_seconds")  # keys of the verifier that no warm start depends on
log = logging.getLogger(__name__)


# fmt: off
SECTIONS = (
    "algo", "batch", "evaluation", "model", "optimizer", "runner", "sampling", "task", "tokenizer", "verifier",
    "warm_start",
)
# fmt: on


class Batch(NamedTuple):
    """Settings of the batch that a learner step consumes."""

    rollouts: Count
    epochs: Count
    minibatches: Count
    microbatch_tokens: Count
    reply_tokens: Count | None
    rounds: Count
    buckets: list[Count] | None


class Run(NamedTuple):
    """The keys at the top of the config that are no section."""

    seed: Natural
    steps: Natural
    flops: Positive | None
    trials: Natural
    cache: str | None


class Plan(NamedTuple):
    """A config that can run."""

    names: dict[str, str]  # what was chosen of the groups "algo" and "task"
    devices: list[jax.Device]
    seed: int
    steps: int
    flops: float | None  # a budget that ends the run before its steps do
    cache: Path
    task: Task
    verifier: Verifier
    tokenizer: Tokenizer
    model: Model
    algorithm: Algorithm
    optimizer: optax.GradientTransformation
    rollouts: int
    rounds: int  # of sampling, at most, to fill a batch
    spending: Spending
    space: Space
    sampling: Sampling
    runner: Runner
    evaluation: Evaluation
    warm_start: WarmStart
    warm_start_optimizer: optax.GradientTransformation
    warm_start_content: dict[str, Any]  # everything in the config that determines the warm-started weights
    sources: list[Path]  # files of the plugins that do, too
    trackers: list[Tracker]

    @property
    def problems(self) -> int:
        """Problems in a batch."""
        return self.rollouts // self.algorithm.group_size


def make_plan(config: Any, names: dict[str, str], devices: Sequence[jax.Device] | None = None) -> Plan:
    """Builds everything that a config names.

    Args:
      names: what was chosen of the groups "algo" and "task".
      devices: to run on; by default all local ones.

    Raises:
      ConfigError: the config cannot run.
      PluginError: a plugin does not take or return what it has to.
    """
    config = plain(config)
    for section in SECTIONS:
        if not isinstance(value := config.get(section), dict):
            raise ConfigError(section, value, "has to be a section of keys")
    scalars = read(Run, {name: config[name] for name in Run._fields}, "")
    tokenizer = build(config["tokenizer"], "tokenizer", kind=Tokenizer)
    task = build(config["task"], "task", kind=Task)
    check_bounds(task)
    check_tokenizer(tokenizer, task.bounds.alphabet)
    model = build(config["model"], "model", tokenizer, kind=Model)
    algorithm = build(config["algo"], "algo", model, kind=Algorithm)
    with Source(target_of(config["model"], "model")[0], {"apply": model.apply}).blamed("apply"):
        check_model(model)
    with source_of(algorithm, target_of(config["algo"], "algo")[0]).blamed("maker"):
        check_algorithm(algorithm, model)
    batch = read(Batch, config["batch"], "batch")
    optimizer = partial(build, kind=optax.GradientTransformation)
    warm_start = read(WarmStart, without(config["warm_start"], "optimizer"), "warm_start")
    plan = Plan(
        names=names,
        devices=list(devices or jax.local_devices()),
        seed=scalars.seed,
        steps=scalars.steps,
        flops=scalars.flops,
        cache=writable(cache_folder(scalars.cache)),
        task=task,
        verifier=Verifier(read(Verifying, config["verifier"], "verifier")),
        tokenizer=tokenizer,
        model=model,
        algorithm=algorithm,
        optimizer=optimizer(config["optimizer"], "optimizer", scalars.steps * batch.epochs * batch.minibatches),
        rollouts=batch.rollouts,
        rounds=batch.rounds,
        spending=Spending(batch.epochs, batch.minibatches, batch.microbatch_tokens),
        space=room(task, batch),
        sampling=read(Sampling, config["sampling"], "sampling"),
        runner=read(Runner, config["runner"], "runner"),
        evaluation=read(Evaluation, config["evaluation"], "evaluation"),
        warm_start=warm_start,
        warm_start_optimizer=optimizer(config["warm_start"]["optimizer"], "warm_start.optimizer", warm_start.steps),
        warm_start_content={name: config[name] for name in ("tokenizer", "task", "model", "warm_start")}
        | {"microbatch_tokens": batch.microbatch_tokens, "reply_tokens": batch.reply_tokens, "buckets": batch.buckets}
        | {"devices": len(devices or jax.local_devices()), "imitated": imitated(task, warm_start)}
        | {"verifier": without(config["verifier"], *SPARED)},
        sources=[source_file(config[name], name) for name in ("tokenizer", "task", "model")]
        + [source_file(config["warm_start"]["optimizer"], "warm_start.optimizer")],
        trackers=[build(node, f"tracker.{name}", kind=Tracker) for name, node in config.get("tracker", {}).items()],
    )
    check_sizes(plan)
    check_arithmetic(plan)
    try:
        plan.verifier.rehearse(task)
    except BaseException:
        plan.verifier.close()
        raise
    if plan.sampling != Sampling():
        log.warning("sampling is truncated, recorded log-probabilities are not: the data is off-policy")
    return plan


def imitated(task: Task, warm_start: WarmStart) -> list[tuple[str, str]]:
    """Prompts and gold replies of some problems: a task may read them from a file that the config only names."""
    problems = training_problems(task, warm_start.seed, 0, 256)
    return [(problem.prompt, gold_of(task, problem.state)) for _, problem in problems]


def source_file(node: dict[str, Any], key: str) -> Path:
    """The file of the function or class that a node names."""
    return Path(inspect.getfile(target_of(node, key)[0]))


def writable(folder: Path) -> Path:
    """The folder, made if need be; better now than after the work that is to be kept there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ConfigError("cache", folder, f"a folder that can be written to: {error.strerror}") from None


def without(section: dict[str, Any], *names: str) -> dict[str, Any]:
    """A section of the config less some of its keys."""
    return {key: value for key, value in section.items() if key not in names}


def room(task: Task, batch: Batch) -> Space:
    """Shapes known before the run, from the task's worst cases; one bucket unless others are configured."""
    bounds = task.bounds
    least = bounds.reply + 1
    reply = batch.reply_tokens or least
    if reply < least:
        raise ConfigError("batch.reply_tokens", reply, f"at least {least}, for the longest answer and its end")
    space = Space(bounds.prompt, reply, bounds.observation, bounds.turns, ())
    smaller = sorted(bucket for bucket in batch.buckets or () if bucket < space.conversation)
    return space._replace(buckets=(*smaller, space.conversation))


def check_sizes(plan: Plan) -> None:
    """Holds numbers of rows to what groups, minibatches and devices divide."""
    devices = len(plan.devices)
    group, samples = plan.algorithm.group_size, plan.evaluation.samples
    over_devices = f" ({devices} devices)" if devices > 1 else ""
    for key, rows, unit, why in (
        ("batch.rollouts", plan.rollouts, group * devices, f"algo.group_size = {group}"),
        ("batch.rollouts", plan.rollouts, plan.spending.minibatches * devices, "batch.minibatches"),
        ("warm_start.rollouts", plan.warm_start.rollouts, devices, "the number of devices"),
        ("warm_start.problems", plan.warm_start.problems, devices, "the number of devices"),
    ):
        if rows % unit:
            raise ConfigError(key, rows, f"has to be a multiple of {unit}, for {why}{over_devices}")
    for k in plan.evaluation.pass_at:
        if k > samples:
            raise ConfigError("evaluation.pass_at", k, f"at most evaluation.samples = {samples}")


def check_arithmetic(plan: Plan) -> None:
    """Holds the model's arithmetic to what the devices can do."""
    platform = plan.devices[0].platform
    if platform == "cpu" and plan.model.dtype == "float16":
        raise ConfigError("model.compute_dtype", "float16", "not on a CPU: float32 or bfloat16")
