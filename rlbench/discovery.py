"""Plugins: in which folders Hydra looks for options, and where the code that they name is imported from.

An installed package names its folder of YAML files by an entry point of the group `rlbench.conf`; rlbench's own is
found in the same way. A folder of one's own is given by `--config-dir`; what lies beside it can be imported, in this
process and wherever a job runs whose config was composed here.
"""

import os
import site
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from yaml import MarkedYAMLError, YAMLError

from .contract.sources import near
from .hydra_adapter import ConfigSearchPath, FileConfigSource, register
from .types import ConfigError

GROUP = "rlbench.conf"  # of entry points
FLAG = "--config-dir"  # Hydra's
CONFIG = "config"  # the name of the config that is composed unless `--config-name` says otherwise


class Place(NamedTuple):
    """A folder of options, laid out as conf/ is: a folder a group, a YAML file an option."""

    name: str  # the distribution that brings it, or the folder as the command line gives it
    folder: Path
    package: str | None  # None where the command line gives it


PLACES: list[Place] = []  # that were found; Hydra makes its plugins and sources itself, and they look here


def find_plugins(words: Sequence[str]) -> None:
    """Makes every plugin known to Hydra; to be called before anything is composed.

    A package that cannot be imported is left out, which is said in a line: its options are missing then, no other
    changes its meaning.

    Args:
      words: of the command line.

    Raises:
      ConfigError: a `--config-dir` does not exist.
    """
    folders, _ = split(words)
    PLACES[:] = installed()
    for name in folders:
        folder = Path(os.path.abspath(name))  # as Hydra does: links stay, and what is above them counts
        if not name or not folder.is_dir():
            raise ConfigError(FLAG, name, "no such folder")
        PLACES.append(Place(name, folder, None))
        make_importable(folder.parent)
    for plugin in (Options, Places):
        register(plugin)


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders that a command line gives by `--config-dir` or `-cd`, and its other words."""
    folders, others, rest = [], [], iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in (FLAG, "-cd"):
            folders.append(value or next(rest, ""))
        else:
            others.append(word)
    return folders, others


def installed() -> Iterator[Place]:
    """The folders of all packages that have an entry point."""
    for entry in entry_points(group=GROUP):
        name = entry.dist.name if entry.dist else entry.name
        try:
            yield from (Place(name, Path(folder), entry.module) for folder in folders_of(entry))
        except Exception as error:  # whatever importing a stranger's package may raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"rlbench: the plugin {name} is left out: {entry.value}: {reason}", file=sys.stderr)


def folders_of(entry: EntryPoint) -> list[str]:
    """The folder of a package; nothing but the packages above it is imported.

    Raises:
      ImportError: there is no such package.
    """
    spec = find_spec(entry.module)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("no such package")
    return list(spec.submodule_search_locations)


def make_importable(folder: Path) -> None:
    """Puts a folder on the path of imports, which processes that Python's multiprocessing spawns inherit.

    After the standard library, which a plugin called copy.py is not to hide from everybody; before what is installed,
    which may be an older copy of the plugin.
    """
    if str(folder) not in sys.path:
        libraries = {site.getusersitepackages(), *site.getsitepackages()}
        place = next((place for place, entry in enumerate(sys.path) if entry in libraries), len(sys.path))
        sys.path.insert(place, str(folder))


def config_dirs(config: Any) -> list[str]:
    """The folders, absolute, that `--config-dir` gave when a config was composed.

    Args:
      config: with Hydra's own node, as it is in a job, in a sweep, or in a run's .hydra/hydra.yaml.
    """
    return [source["path"] for source in config["hydra"]["runtime"]["config_sources"] if source["provider"] == FLAG]


def flags(config: Any) -> list[str]:
    """The words that give these folders again, from wherever, and the config that `--config-name` chose."""
    name = config["hydra"]["job"]["config_name"]
    return [f"{FLAG}={folder}" for folder in config_dirs(config)] + [f"--config-name={name}"] * (name != CONFIG)


def offers(path: str) -> dict[Path, Place]:
    """The files that are there by a relative path, and whose they are: one, unless places are in each other's way."""
    return {
        (place.folder / path).resolve(): place for place in reversed(PLACES) if (place.folder / path).is_file()
    }  # reversed: a folder that is given, and installed too, goes by its distribution's name


class Options(FileConfigSource):
    """A place, as Hydra reads it: but an option that another place offers too is refused.

    Hydra would take the first, and a comparison would run another algorithm than its reader thinks.
    """

    @staticmethod
    def scheme() -> str:
        return "options"

    def load_config(self, config_path: str) -> ConfigResult:
        offered = offers(self._normalize_file_name(config_path))
        group, _, option = config_path.rpartition("/")
        if len(offered) > 1:
            names = " and by ".join(sorted(place.name for place in offered.values()))
            raise ConfigError(group or "--config-name", option, f"offered by {names}; rename or remove one")
        try:
            return super().load_config(config_path)
        except (YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(group or "--config-name", option, misread(next(iter(offered)), error)) from error


def misread(file: Path, error: YAMLError | UnicodeDecodeError) -> str:
    """The reason why a file is no YAML, and its line."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        return f"{near(str(file))}:{error.problem_mark.line + 1}: {error.problem}"
    return f"{near(str(file))}: {error}"


class Places(SearchPathPlugin):
    """Hydra's search path: all places, in place of the one that an application names as its own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        path = search_path.get_path()
        named = {f"pkg://{place.package}" for place in PLACES}
        path[:] = [element for element in path if element.path not in named]
        for place in PLACES:
            search_path.append(place.name if place.package else FLAG, f"options://{place.folder}")
