"""Groups of runs that are seeds of one another, and comparisons: the groups that may be compared."""

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..accounting.timeline import DeviceState
from ..records import printable
from .runs import Run, Skipped

# Keys that do not change what is learned: where things are kept and shown, and what is said of the settings.
ASIDE = ("cache", "trials", "tracker")
ABSENT = "-"  # shown for a key that a config does not have
SANDBOX = "sandbox"  # in summary.json: the backend that judged a run's programs
NAMED = 5  # runs that a line names, at most


class Group(NamedTuple):
    """Runs of one algorithm that differ in nothing but their seeds."""

    label: str
    runs: list[Run]

    @property
    def trials(self) -> int:
        """Trials that the settings were chosen from; 0 is untuned, and so is a config that does not say."""
        return max(run.config.get("trials") or 0 for run in self.runs)

    @property
    def tuning(self) -> str:
        return f"best of {self.trials:,} trials" if self.trials else "untuned"


class Comparison(NamedTuple):
    """One task, its held-out problems and the sandbox that judged: only within it does a comparison mean something."""

    title: str
    groups: list[Group]


def comparisons(runs: Iterable[Run]) -> tuple[list[Comparison], list[Skipped]]:
    """Sorts runs; of two with the same config and seeds the first is skipped, since a repetition is no evidence."""
    tasks: defaultdict[Hashable, defaultdict[Hashable, dict[str, Run]]] = defaultdict(lambda: defaultdict(dict))
    skipped = []
    for run in runs:
        group = tasks[run.summary["task"], frozen(asked(run))][run.summary["algo"], frozen(settings(run))]
        seeds = frozen({key: value for key, value in run.config.items() if is_seed(key)})
        if earlier := group.get(seeds):
            seed = run.summary["seed"]
            skipped.append(Skipped(earlier.folder, f"seed {seed} was run again with the same config, in {run.folder}"))
        group[seeds] = run
    seeded = [[list(group.values()) for group in groups.values()] for groups in tasks.values()]
    titles = labels([groups[0][0] for groups in seeded], "task", asked)
    return [Comparison(title, sorted_groups(groups)) for title, groups in zip(titles, seeded)], skipped


def sorted_groups(groups: Sequence[list[Run]]) -> list[Group]:
    named = labels([runs[0] for runs in groups], "algo", settings)
    return [Group(label, sorted(runs, key=lambda run: run.summary["seed"])) for label, runs in zip(named, groups)]


def asked(run: Run) -> dict[str, Any]:
    """The settings of a run's task, and what judged it: where they differ, accuracies mean different things."""
    own = {key: value for key, value in run.config.items() if key.startswith("task.") or key == "evaluation.problems"}
    return own | {SANDBOX: run.summary.get("sandbox")}


def settings(run: Run) -> dict[str, Any]:
    """Everything that makes a group: the config, but for seeds and what does not change what is learned."""
    return {key: value for key, value in run.config.items() if key.split(".")[0] not in ASIDE and not is_seed(key)}


def is_seed(key: str) -> bool:
    """`seed`, `warm_start.seed`, a plugin's `algo.dropout_seed`."""
    return re.fullmatch(r"(.*[._])?seed", key) is not None


def sandboxes(runs: Iterable[Run]) -> list[str]:
    """A line for every task that several sandboxes judged: which, and which runs."""
    tasks: defaultdict[tuple[str, str], defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        same = asked(run) | {SANDBOX: None}
        backend = run.summary.get("sandbox") or "none"
        tasks[run.summary["task"], frozen(same)][backend].append(printable(run.folder))
    return [
        f"{task}: not compared with each other, since different sandboxes judged them: "
        + "; ".join(f"{backend}: {listed(folders)}" for backend, folders in backends.items())
        for (task, _), backends in tasks.items()
        if len(backends) > 1
    ]


def beside_others(runs: Iterable[Run]) -> list[str]:
    """A line if runs computed in turn with others of their process: their wall time holds that of the others."""
    shared = [run for run in runs if run.ledger["time"]["devices"].get(DeviceState.QUEUE, 0.0) > 0]
    if not shared:
        return []
    names = listed([printable(run.folder) for run in shared])
    return [f"seconds are no costs of these, which shared a process and hold the time of others, too: {names}"]


def listed(names: Sequence[str]) -> str:
    more = [f"{len(names) - NAMED:,} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def frozen(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def labels(runs: Sequence[Run], name: str, settings_of: Callable[[Run], Mapping[str, Any]]) -> list[str]:
    """A name for each run: its algorithm's or task's, and whatever else tells it from others of that name."""
    names, own = [run.summary[name] for run in runs], [settings_of(run) for run in runs]
    keys = {one: differing([mine for other, mine in zip(names, own) if other == one]) for one in names}
    return [
        " ".join([one, *(f"{short(key, keys[one])}={shown(mine, key)}" for key in keys[one])])
        for one, mine in zip(names, own)
    ]


def short(key: str, among: Sequence[str]) -> str:
    """The last part of a key, if no other ends so."""
    last = key.split(".")[-1]
    return last if sum(other.split(".")[-1] == last for other in among) == 1 else key


def differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that do not have one value in all configs, in the order in which they appear."""
    keys = list(dict.fromkeys(key for config in configs for key in config))
    return [key for key in keys if len({shown(config, key) for config in configs}) > 1]


def shown(config: Mapping[str, Any], key: str) -> str:
    """A value as one would type it, on one line."""
    if key not in config:
        return ABSENT
    value = config[key]
    if isinstance(value, str) and value.isprintable():
        return value
    return json.dumps(value, separators=(",", ":"))


def commands(group: Group) -> list[str]:
    """The commands that repeat a group: one for all seeds that were run by the same words."""
    seeds: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    lines = []
    for run in group.runs:
        if run.words is None:
            lines.append(f"# {printable(run.folder)}: the words of its command line were not kept")
        else:
            words = tuple(word for word in run.words if not word.startswith("seed="))
            seeds[words].append(str(run.summary["seed"]))
    for words, values in seeds.items():
        many = ["-m"] if len(values) > 1 else []
        lines.append(shlex.join(["rlbench", *many, *words, f"seed={','.join(values)}"]))
    return lines
