"""Which runs are seeds of one another, and which may be compared: questions, and the groups that answer them."""

import json
import shlex
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .runs import Run, Skipped

# Keys that do not change what is learned: where things are kept and shown, and what is said of the settings.
ASIDE = ("cache", "trials", "tracker")
ABSENT = "-"  # shown for a key that a config does not have


class Group(NamedTuple):
    """Runs of one algorithm that differ in nothing but the seed."""

    label: str
    runs: list[Run]

    @property
    def trials(self) -> int:
        """How many trials the settings were chosen from; 0 is untuned, and so is a config that does not say."""
        return max(int(run.config.get("trials") or 0) for run in self.runs)

    @property
    def tuning(self) -> str:
        return f"best of {self.trials:,} trials" if self.trials else "untuned"


class Question(NamedTuple):
    """One task, measured on the same held-out problems: only within it does a comparison mean something."""

    title: str
    groups: list[Group]


def questions(runs: Iterable[Run]) -> tuple[list[Question], list[Skipped]]:
    """Sorts runs; of two with the same config and seed the first is skipped, since a repetition is no evidence."""
    tasks: defaultdict[Hashable, defaultdict[Hashable, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    skipped = []
    for run in runs:
        asked = {key: value for key, value in run.config.items() if defines_task(key)}
        settings = {key: value for key, value in run.config.items() if defines_group(key)}
        group = tasks[run.summary["task"], frozen(asked)][run.summary["algo"], frozen(settings)]
        seed = run.summary["seed"]
        if earlier := group.get(seed):
            skipped.append(Skipped(earlier.folder, f"seed {seed} was run again with the same config, in {run.folder}"))
        group[seed] = run
    seeds = [[list(group.values()) for group in groups.values()] for groups in tasks.values()]
    titles = labels([groups[0][0] for groups in seeds], "task", defines_task)
    return [Question(title, sorted_groups(groups)) for title, groups in zip(titles, seeds)], skipped


def sorted_groups(groups: Sequence[list[Run]]) -> list[Group]:
    named = labels([runs[0] for runs in groups], "algo", defines_group)
    return [Group(label, sorted(runs, key=lambda run: run.summary["seed"])) for label, runs in zip(named, groups)]


def defines_task(key: str) -> bool:
    return key.startswith("task.") or key == "evaluation.problems"


def defines_group(key: str) -> bool:
    return key.split(".")[0] not in ASIDE and key.split(".")[-1] != "seed"


def frozen(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


def labels(runs: Sequence[Run], name: str, counts: Any) -> list[str]:
    """A name for each run: its algorithm's or task's, and whatever else tells it from others of that name."""
    found = []
    for run in runs:
        alike = [other.config for other in runs if other.summary[name] == run.summary[name]]
        keys = [key for key in differing(alike) if counts(key)]
        found.append(" ".join([run.summary[name], *(f"{short(key, keys)}={shown(run.config, key)}" for key in keys)]))
    return found


def short(key: str, among: Sequence[str]) -> str:
    """The last part of a key, if no other ends so."""
    last = key.split(".")[-1]
    return last if sum(other.split(".")[-1] == last for other in among) == 1 else key


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that do not have one value in all configs, in the order in which they appear."""
    keys = list(dict.fromkeys(key for config in configs for key in config))
    return [key for key in keys if len({shown(config, key) for config in configs}) > 1]


def shown(config: Mapping[str, Any], key: str) -> str:
    """A value as one would type it."""
    if key not in config:
        return ABSENT
    value = config[key]
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def commands(group: Group) -> list[str]:
    """The commands that repeat a group: one for all seeds that were run by the same words."""
    seeds: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    lines = []
    for run in group.runs:
        if run.words is None:
            lines.append(f"# {run.folder}: the words of its command line were not kept")
        else:
            words = tuple(word for word in run.words if not word.startswith("seed="))
            seeds[words].append(str(run.summary["seed"]))
    for words, values in seeds.items():
        many = ["-m"] if len(values) > 1 else []
        lines.append(shlex.join(["rlbench", *many, *words, f"seed={','.join(values)}"]))
    return lines
