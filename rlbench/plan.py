"""From a config to a plan: every object that a run needs, checked, before anything is compiled."""

import inspect
import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import optax

from .acting.episode import SequenceLimits
from .acting.player import Acting
from .acting.slots import Sampling
from .contract.algorithm import check_algorithm, check_model, source_of
from .contract.sources import Source
from .contract.task import check_bounds, has_solutions, opened, solution_of, training_problems
from .devices import cache_folder
from .evaluation import Evaluation
from .learning.learner import UpdateConfig
from .models.tokenizers import check_tokenizer
from .models.trained import TrainedPolicy, only_of
from .plugins import build, plain, target_of, typed_section
from .running.schedule import Runner
from .types import Algorithm, ConfigError, Count, Model, Natural, Positive, Task, Tokenizer, Tracker
from .verifying.verifier import Verifier, Verifying
from .warm_start import WarmStart

# Keys that say where and how long a run goes on, or what is looked at meanwhile.
ASIDE = ("tracker", "cache", "checkpoint", "evaluation", "trials", "runner.replay", "runner.watchdog_seconds")
# fmt: off
ANEW = (  # begin keys that a run may go on with when they have changed
    "tracker", "cache", "checkpoint", "trials", "steps", "max_flops", "runner.watchdog_seconds", "verifier.workers",
    "verifier.max_failures",
)
# fmt: on
SPARED = ("workers", "max_failures", "delay_seconds", "delay_sigma")  # of the verifier: no warm start depends on them
log = logging.getLogger(__name__)


# fmt: off
SECTIONS = (
    "acting", "algo", "batch", "checkpoint", "evaluation", "model", "optimizer", "runner", "sampling", "start", "task",
    "tokenizer", "verifier", "warm_start",
)
# fmt: on


class BatchConfig(NamedTuple):
    """Settings of the batch that a learner step consumes."""

    rollouts: Count
    epochs: Count
    minibatches: Count
    microbatch_tokens: Count
    nonfinite: Literal["stop", "skip"]
    max_completion_tokens: Count | None
    max_episode_tokens: Count | None
    max_sampling_rounds: Count
    buckets: list[Count] | None


class Checkpointing(NamedTuple):
    """Settings of checkpoints."""

    every: Count | None  # learner steps
    seconds: Positive | None
    keep: Natural  # of the newest; 0: there are none


class Start(NamedTuple):
    """Weights to start from."""

    run: str | None  # folder whose policy a run starts from; None: the warm start


class RunConfig(NamedTuple):
    """The keys at the top of the config that are no section."""

    seed: Natural
    steps: Natural
    max_flops: Positive | None
    trials: Natural
    cache: str | None


class Plan(NamedTuple):
    """A config that can run."""

    names: dict[str, str]  # what was chosen of the groups "algo" and "task"
    devices: list[jax.Device]
    seed: int
    steps: int
    max_flops: float | None  # a budget that ends the run before its steps do
    cache: Path
    task: Task
    verifier: Verifier
    tokenizer: Tokenizer
    model: Model
    algorithm: Algorithm
    optimizer: optax.GradientTransformation
    optimizer_for: Callable[[int], optax.GradientTransformation]  # the same, of a run of so many steps
    rollouts: int
    max_sampling_rounds: int  # of sampling, at most, to fill a batch
    update_config: UpdateConfig
    limits: SequenceLimits
    acting: Acting
    sampling: Sampling
    runner: Runner
    evaluation: Evaluation
    checkpoint: Checkpointing
    start_from: TrainedPolicy | None  # instead of a warm start
    warm_start: WarmStart
    warm_start_optimizer: optax.GradientTransformation
    warm_start_content: dict[str, Any]  # everything in the config that determines the warm-started weights
    sources: list[Path]  # files of the plugins that do, too
    terms: dict[str, Any]  # keys of the config that decide what the run computes
    lasting: dict[str, Any]  # keys of the config that are the same wherever the run goes on
    trackers: list[Tracker]

    @property
    def acting_devices(self) -> list[jax.Device]:
        """Devices that sample."""
        return chosen(self.devices, self.runner.acting_devices)

    @property
    def learning_devices(self) -> list[jax.Device]:
        """Devices that train, and evaluate."""
        return chosen(self.devices, self.runner.learning_devices)


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
    scalars = typed_section(RunConfig, {name: config[name] for name in RunConfig._fields}, "")
    tokenizer = build(config["tokenizer"], "tokenizer", kind=Tokenizer)
    task = build(config["task"], "task", kind=Task)
    check_bounds(task)
    check_tokenizer(tokenizer, task.bounds.alphabet)
    model = build(config["model"], "model", tokenizer, kind=Model)
    with only_of(config["tokenizer"]):
        algorithm = build(config["algo"], "algo", model, kind=Algorithm)
    with Source(target_of(config["model"], "model")[0], {"apply": model.apply}).blamed("apply"):
        check_model(model)
    with source_of(algorithm, target_of(config["algo"], "algo")[0]).blamed("maker"):
        check_algorithm(algorithm, model)
    acting = typed_section(Acting, config["acting"], "acting")
    batch = typed_section(BatchConfig, config["batch"], "batch")
    optimizer = partial(build, kind=optax.GradientTransformation)
    warm_start = typed_section(WarmStart, without(config["warm_start"], "optimizer"), "warm_start")

    def optimizer_for(steps: int) -> optax.GradientTransformation:
        return optimizer(config["optimizer"], "optimizer", steps * batch.epochs * batch.minibatches)

    plan = Plan(
        names=names,
        devices=list(devices or jax.local_devices()),
        seed=scalars.seed,
        steps=scalars.steps,
        max_flops=scalars.max_flops,
        cache=writable(cache_folder(scalars.cache)),
        task=task,
        verifier=Verifier(typed_section(Verifying, config["verifier"], "verifier"), acting.environment_workers),
        tokenizer=tokenizer,
        model=model,
        algorithm=algorithm,
        optimizer=optimizer_for(scalars.steps),
        optimizer_for=optimizer_for,
        rollouts=batch.rollouts,
        max_sampling_rounds=batch.max_sampling_rounds,
        update_config=UpdateConfig(batch.epochs, batch.minibatches, batch.microbatch_tokens, batch.nonfinite),
        limits=room(task, batch),
        acting=acting,
        sampling=typed_section(Sampling, config["sampling"], "sampling"),
        runner=typed_section(Runner, config["runner"], "runner"),
        evaluation=typed_section(Evaluation, config["evaluation"], "evaluation"),
        checkpoint=typed_section(Checkpointing, config["checkpoint"], "checkpoint"),
        start_from=started_from(config["start"], config["tokenizer"], model),
        warm_start=warm_start,
        warm_start_optimizer=optimizer(config["warm_start"]["optimizer"], "warm_start.optimizer", warm_start.steps),
        warm_start_content={name: config[name] for name in ("tokenizer", "task", "model", "warm_start")}
        | {
            "microbatch_tokens": batch.microbatch_tokens,
            "max_completion_tokens": batch.max_completion_tokens,
            "max_episode_tokens": batch.max_episode_tokens,
            "buckets": batch.buckets,
        }
        | {"devices": len(devices or jax.local_devices()), "demonstrations": demonstrated(task, warm_start)}
        | {"verifier": without(config["verifier"], *SPARED)},
        sources=[source_file(config[name], name) for name in ("tokenizer", "task", "model")]
        + [source_file(config["warm_start"]["optimizer"], "warm_start.optimizer")],
        terms=terms_of(config),
        lasting={key: value for key, value in flat(config).items() if not key.startswith(ANEW)},
        trackers=[build(node, f"tracker.{name}", kind=Tracker) for name, node in config.get("tracker", {}).items()],
    )
    check_sizes(plan)
    check_arithmetic(plan)
    if warm_start.steps and not plan.start_from and not has_solutions(task):
        raise ConfigError("warm_start.steps", warm_start.steps, f"0: {type(task).__name__} has no reference solutions")
    try:
        with opened(task):
            plan.verifier.rehearse(task)
    except BaseException:
        plan.verifier.close()
        raise
    if plan.sampling != Sampling():
        log.warning("sampling is truncated, recorded log-probabilities are not: the data is off-policy")
    return plan


def started_from(section: dict[str, Any], tokenizer: dict[str, Any], model: Model) -> TrainedPolicy | None:
    """The policy that a run starts from; None where it has a warm start.

    Raises:
      ConfigError: there is none, or it has another model or other tokens.
    """
    start = typed_section(Start, {"run" if key == "from" else key: value for key, value in section.items()}, "start")
    if start.run is None:
        return None
    try:
        policy = TrainedPolicy.of(start.run)
    except ConfigError as error:
        raise ConfigError("start.from", start.run, str(error)) from None
    policy.expect_tokens(tokenizer, "start.from")
    policy.expect_shapes(model, "start.from")
    return policy


def flat(tree: Any, key: str = "") -> dict[str, Any]:
    """A config by dotted keys."""
    if not isinstance(tree, dict):
        return {key: tree}
    return {
        name: leaf for inner, value in tree.items() for name, leaf in flat(value, f"{key}.{inner}".strip(".")).items()
    }


def terms_of(config: dict[str, Any]) -> dict[str, Any]:
    """Keys of a config that decide what a run computes."""
    aside = *ASIDE, *(f"verifier.{name}" for name in SPARED)
    return {key: value for key, value in flat(config).items() if not key.startswith(aside)}


def chosen(devices: list[jax.Device], places: list[int] | None) -> list[jax.Device]:
    """Devices at some places; all where none are named."""
    return devices if places is None else [devices[place] for place in places]


def demonstrated(task: Task, warm_start: WarmStart) -> list[tuple[str, str]]:
    """Prompts and reference solutions of some problems: a task may read them from a file that the config only names."""
    if not has_solutions(task):
        return []
    problems = training_problems(task, warm_start.seed, 0, 256)
    return [(problem.prompt, solution_of(task, problem.state)) for _, problem in problems]


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


def room(task: Task, batch: BatchConfig) -> SequenceLimits:
    """Shapes known before the run, from the task's worst cases; one bucket unless others are configured."""
    bounds = task.bounds
    least = bounds.completion + 1
    completion = batch.max_completion_tokens or least
    if completion < least:
        raise ConfigError(
            "batch.max_completion_tokens", completion, f"at least {least}, for the longest answer and its end"
        )
    least = bounds.turns * least + (bounds.turns - 1) * bounds.observation
    if batch.max_episode_tokens is not None and batch.max_episode_tokens < least:
        raise ConfigError(
            "batch.max_episode_tokens",
            batch.max_episode_tokens,
            f"at least {least}, for the longest answer of every turn and its end, and the observations",
        )
    most = batch.max_episode_tokens
    limits = SequenceLimits(bounds.prompt, completion, bounds.observation, bounds.turns, (), most)
    smaller = sorted(bucket for bucket in batch.buckets or () if bucket < limits.episode)
    return limits._replace(buckets=(*smaller, limits.episode))


def check_sizes(plan: Plan) -> None:
    """Holds numbers of rows to what groups, minibatches and devices divide."""
    for side in ("acting_devices", "learning_devices"):
        places: list[int] | None = getattr(plan.runner, side)
        if places is not None and (not places or len({*places} & {*range(len(plan.devices))}) != len(places)):
            what = f"different places among the {len(plan.devices)} devices, which count from 0"
            raise ConfigError(f"runner.{side}", places, what)
    devices = math.lcm(len(plan.devices), len(plan.acting_devices), len(plan.learning_devices))
    group, samples, minibatches = plan.algorithm.group_size, plan.evaluation.samples, plan.update_config.minibatches
    over_devices = f" ({devices} devices)" if devices > 1 else ""
    for key, rows, unit, why in (
        ("batch.rollouts", plan.rollouts, group * devices, f"algo.group_size = {group}"),
        ("batch.rollouts", plan.rollouts, minibatches * group * devices, "batch.minibatches of whole groups"),
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
