"""`rlbench --help`, and messages to a mistaken command line: both read from the YAML files."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from hydra import compose, initialize_config_module
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .discovery import PLACES, offers
from .hydra_adapter import VERSION_BASE, raised_by_hydra, unknown_key
from .plugins import nearest
from .types import ConfigError, PluginError

CONFIG = "rlbench.conf"
SWEEPING = ("hydra/launcher", "hydra/sweeper")  # groups of Hydra's that have options of ours
KEY = re.compile(r"^(?P<indent> *)(?P<name>[\w]+):(?P<value>.*?)(?:\s#\s(?P<comment>[^\"]*))?$")

ONE_LINE = (ConfigError, PluginError, HydraException, OmegaConfBaseException)  # errors of a config or of a plugin

USAGE = """\
rlbench runs a reinforcement-learning algorithm with verifiable rewards, and measures what it costs.

  rlbench algo=grpo task=arithmetic seed=3 model.width=64     one run
  rlbench -m algo=ppo,grpo seed=0,1,2                         a sweep: every combination, each in its own process
  rlbench -m experiment=critic_cost                           a sweep that answers a question
  rlbench algo=ppo --cfg job                                  prints the config and runs nothing
  rlbench --config-dir conf algo=mine                         your own algorithm: mine.py and conf/algo/mine.yaml

Results go to outputs/ or multirun/, one folder a run: config.yaml, metrics.jsonl, summary.json, ledger.json.
"""


def print_help(overrides: Sequence[str]) -> None:
    """Every group with its options and every key with its value, each with what its file says of it."""
    config = composed(overrides)
    choices = {
        key: value
        for key, value in config.hydra.runtime.choices.items()
        if key in SWEEPING or not key.startswith("hydra/")
    }
    print(USAGE)
    print("Groups: choose an option with group=option; * marks the current choice.\n")
    groups = {path.parent.name for place in PLACES for path in place.folder.glob("*/*.yaml")}
    for group in [*sorted(groups), *SWEEPING]:
        print(f"  {group}")
        for name in sorted({path.stem for place in PLACES for path in (place.folder / group).glob("*.yaml")}):
            chosen = "*" if name in names(choices.get(group)) else " "
            for path, place in offers(f"{group}/{name}.yaml").items():
                whose = "" if place.package == CONFIG else f" [{place.name}]"
                print(f"   {chosen} {name:19} {summary_of(path)}{whose}")
    print("\nKeys: set a value with key=value.\n")
    comments = dict(comments_of("config", ""))
    for group, option in choices.items():
        for name in names(option):
            folder, _, package = group.partition("@")
            comments |= comments_of(f"{folder}/{name}", package or folder)
    for key, value in leaves(config):
        print(f"  {key:34} {value:24} {comments.get(key, '')}".rstrip())


def composed(overrides: Sequence[str]) -> DictConfig:
    """The config, Hydra's own node included."""
    with initialize_config_module(CONFIG, version_base=VERSION_BASE):
        return compose("config", list(overrides), return_hydra_config=True)


def names(choice: str | list[str] | None) -> list[str]:
    """The options chosen of a group: none, one or several."""
    return choice if isinstance(choice, list) else [choice] if choice else []


def summary_of(option: Path) -> str:
    """The first comment of a YAML file that is not a directive to Hydra."""
    for line in option.read_text().splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:]
    return ""


def comments_of(option: str, package: str) -> Iterator[tuple[str, str]]:
    """(full key, comment) of every key of an option's file that has a comment, those of its parents included."""
    path = next(iter(offers(f"{option}.yaml")), None)
    if path is None:  # an option of Hydra's own
        return
    text = path.read_text()
    if declared := re.search(r"^# @package (\S+)", text, re.MULTILINE):
        package = declared[1]
    for parent in (yaml.safe_load(text) or {}).get("defaults", []):
        if isinstance(parent, str) and parent != "_self_":
            name = parent.partition("@")[0]
            yield from comments_of(str(PurePosixPath("/", option).parent / name)[1:], package)
    stack = [(-1, package)]
    for line in text.splitlines():
        if match := KEY.match(line):
            depth = len(match["indent"])
            while stack[-1][0] >= depth:
                stack.pop()
            key = ".".join(filter(None, (stack[-1][1], match["name"])))
            stack.append((depth, key))
            if match["comment"]:
                yield key, match["comment"]


def leaves(config: DictConfig) -> Iterator[tuple[str, str]]:
    """(full key, value) of everything that can be set, but for Hydra's own and the names of functions."""

    def walk(node: Any, key: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, dict) and node:
            for name, value in node.items():
                if name not in ("hydra", "_target_"):
                    yield from walk(value, f"{key}.{name}" if key else str(name))
        else:
            yield key, "null" if node is None else repr(node) if str(node) != str(node).strip() else str(node)

    with_hydra = {name: value for name, value in config.items() if name != "hydra"}
    return walk(OmegaConf.to_container(OmegaConf.create(with_hydra), resolve=True), "")


def explain(error: Exception, words: Sequence[str]) -> str:
    """One line for an error of the configuration: the key, the value, what is allowed."""
    text = str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = error.options or {path.stem for place in PLACES for path in (place.folder / group).glob("*.yaml")}
        return f"{group}={name}: no such option{nearest(name, known)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: no key=value that can be read; signs such as = {{ [ ( want quotes: 'key=\"a=b\"'"
    if key := unknown_key(error):
        value = next((word.partition("=")[2] for word in words if word.lstrip("+~").startswith(f"{key}=")), "")
        return f"{key}={value}: no such key{nearest(key, known_keys(words))}"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{(error.msg or text).partition(chr(10))[0]}, for {error.full_key}"
    return text or repr(error.__cause__ or error.__context__ or error)


def is_one_line(error: Exception) -> bool:
    """True where a traceback would add nothing: an error of a config or a plugin, or a ValueError of Hydra's own."""
    return isinstance(error, ONE_LINE) or (isinstance(error, ValueError) and raised_by_hydra(error))


def known_keys(words: Sequence[str]) -> list[str]:
    """Every key and group of the config, with the options that words of the command line choose."""
    choices = {f"{path.parent.name}={path.stem}" for place in PLACES for path in place.folder.glob("*/*.yaml")}
    config = composed([word for word in words if word in choices])
    groups = [key for key in config.hydra.runtime.choices if not key.startswith("hydra/")]
    return [key for key, _ in leaves(config)] + groups
