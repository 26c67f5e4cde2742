"""A run's plan and its policy, from its folder."""

from collections.abc import Sequence
from pathlib import Path

import jax
from hydra import compose, initialize_config_module

from ..discovery import CONFIG, FLAG, config_dirs, find_plugins
from ..hydra_adapter import VERSION_BASE
from ..models.trained import TrainedPolicy
from ..plan import Plan, make_plan
from ..plugins import plain
from ..records import Unreadable, read_hydra, read_own_words
from ..types import ConfigError

ALONE = ("tracker=none", "checkpoint.keep=0", "runner.acting_devices=null", "runner.learning_devices=null")


def plan_of(folder: Path, words: Sequence[str]) -> Plan:
    """The plan of a run, with some words of its command line replaced or added, on one device.

    Raises:
      ConfigError: there is no run in the folder, or the words make no plan.
    """
    try:
        hydra, kept = read_hydra(folder), read_own_words(folder)
    except Unreadable as error:
        raise ConfigError("folder", folder, f"the folder of a run: {error}") from None
    find_plugins([f"{FLAG}={place}" for place in config_dirs(hydra)])
    changed = {key_of(word) for word in (*words, *ALONE)}
    mine = [word for word in kept if key_of(word) not in changed]
    with initialize_config_module("rlbench.conf", version_base=VERSION_BASE):
        config = plain(compose(CONFIG, [*mine, *words, *ALONE]))
    chosen = dict(hydra["hydra"]["runtime"]["choices"]) | dict(word.split("=", 1) for word in words if "=" in word)
    return make_plan(config, {group: chosen[group] for group in ("algo", "task")}, jax.local_devices()[:1])


def policy_of(folder: Path, plan: Plan, *, best: bool) -> TrainedPolicy:
    """The run's policy, for a plan that has the same model.

    Raises:
      ConfigError: it has another, or other tokens.
    """
    policy = TrainedPolicy.of(folder, best=best)
    policy.expect_tokens(plan.warm_start_content["tokenizer"], "tokenizer")
    policy.expect_shapes(plan.model, "model")
    return policy


def key_of(word: str) -> str:
    """The key of an override."""
    return word.lstrip("+~").partition("=")[0]
