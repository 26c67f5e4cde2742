"""From the words of a command line to what is checked: plugins by the names that Hydra knows them under."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object

from ..help import CONFIG
from ..plugins import build, plain, read
from ..types import ConfigError, Task
from ..verifying.verifier import Verifier, Verifying
from .case import Case, algorithm_case

SMALL = ("model.layers=1", "model.width=16", "model.heads=2", "model.hidden=16")  # as long as nobody asks for more
FOLDER = ("--config-dir", "-cd")


def algorithm_of(*words: str) -> Case:
    """The algorithm that the words choose, on a small model, ready to be checked.

    Args:
      words: Hydra's, as those of `rlbench`: overrides, and `--config-dir` with a folder.

    Raises:
      ConfigError, HydraException: there is no such config, or no algorithm can be made of it.
    """
    config = composed(SMALL + words)
    model = build(config["model"], "model", build(config["tokenizer"], "tokenizer"))
    return algorithm_case(build(config["algo"], "algo", model), model, maker_of(config["algo"]))


@contextlib.contextmanager
def task_of(*words: str) -> Iterator[tuple[Task, Verifier]]:
    """The task that the words choose, and what judges its replies; arguments and errors as of `algorithm_of`."""
    config = composed(words)
    task = build(config["task"], "task")
    build(config["tokenizer"], "tokenizer").encode("".join(sorted(task.bounds.alphabet)))
    verifier = Verifier(read(Verifying, config["verifier"], "verifier"))
    with contextlib.closing(verifier):
        yield task, verifier


def maker_of(node: dict[str, Any]) -> Any:
    """The function or class that a node of the config names."""
    return get_object(node["_target_"])


def options(group: str, words: Sequence[str] = ()) -> list[str]:
    """Every option of a config group, those of the words' folders among them."""
    overrides = overrides_of(words)
    with initialize_config_module(CONFIG, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        return loader.get_group_options(group, config_name="config", overrides=overrides)


def composed(words: Sequence[str]) -> dict[str, Any]:
    """The config of a command line, as dicts and lists."""
    overrides = overrides_of(words)
    with initialize_config_module(CONFIG, version_base="1.3"):
        return plain(compose("config", overrides))


def overrides_of(words: Sequence[str]) -> list[str]:
    """The words as Hydra's overrides: a folder of configs, which is an option of its command, among them."""
    overrides, folders, rest = [], [], iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in FOLDER:
            folders.append(Path(value if equals else next(rest, "")).absolute())
        else:
            overrides.append(word)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("--config-dir", folder, "a folder of configs")
    if folders:
        paths = ",".join(f'"file://{folder}"' for folder in folders)
        overrides.append(f"hydra.searchpath=[{paths}]")
    return overrides
