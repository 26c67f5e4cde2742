"""From the words of a command line to what is checked: plugins by the names that Hydra knows them under."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_module

from ..contract.task import check_bounds
from ..discovery import find_plugins, split
from ..help import CONFIG
from ..hydra_adapter import VERSION_BASE, group_options
from ..models.tokenizers import check_tokenizer
from ..plugins import build, plain, target_of, typed_section
from ..types import Algorithm, Model, Task, Tokenizer
from ..verifying.verifier import Verifier, Verifying
from .case import Case, algorithm_case

SMALL = ("model.layers=1", "model.width=16", "model.heads=2", "model.hidden=16")  # as long as nobody asks for more


def algorithm_of(*words: str) -> Case:
    """The algorithm that the words choose, on a small model, ready to be checked.

    Args:
      words: Hydra's, as those of `rlbench`: overrides, and `--config-dir` with a folder.

    Raises:
      ConfigError, HydraException: there is no such config, or no algorithm can be made of it.
      PluginError: something else is made of it, or making it raised.
    """
    config = composed(SMALL + words)
    tokenizer = build(config["tokenizer"], "tokenizer", kind=Tokenizer)
    model = build(config["model"], "model", tokenizer, kind=Model)
    algorithm = build(config["algo"], "algo", model, kind=Algorithm)
    return algorithm_case(algorithm, model, target_of(config["algo"], "algo")[0])


@contextlib.contextmanager
def task_of(*words: str) -> Iterator[tuple[Task, Verifier]]:
    """The task that the words choose, and what judges its completions; arguments and errors as of `algorithm_of`."""
    config = composed(words)
    task = build(config["task"], "task", kind=Task)
    check_bounds(task)
    check_tokenizer(build(config["tokenizer"], "tokenizer", kind=Tokenizer), task.bounds.alphabet)
    settings = typed_section(Verifying, config["verifier"], "verifier")
    verifier = Verifier(settings, config["acting"]["environment_workers"])
    with contextlib.closing(verifier):
        yield task, verifier


def options(group: str, words: Sequence[str] = ()) -> list[str]:
    """Every option of a config group, those of installed packages and of the words' folders among them."""
    find_plugins(words)
    with initialize_config_module(CONFIG, version_base=VERSION_BASE):
        return group_options(group)


def composed(words: Sequence[str]) -> dict[str, Any]:
    """The config of a command line, as dicts and lists."""
    find_plugins(words)
    with initialize_config_module(CONFIG, version_base=VERSION_BASE):
        return plain(compose("config", split(words)[1]))
