"""Commands that run the seeds that a verdict still needs, and nothing else."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hydra.errors import HydraException

from ..command_line import quoted
from ..hydra_adapter import parse_overrides
from .groups import Group
from .pairwise import Judgement, PairwiseTest, Standing

LISTED = 20  # seeds that are named one by one; more are a range


class Sweep(NamedTuple):
    """Runs of a group that are still to be made."""

    words: list[str]  # of the command line, for any seed
    seeds: list[int]
    folder: Path | None  # of the multirun that the group's runs are in; None where they are in none


def commands_of(judgement: Judgement, test: PairwiseTest) -> list[str]:
    """The commands after which both groups of a pair have as many seeds as its words ask for.

    One does for both where their words differ in one value. A group whose words are not known has a comment instead.
    """
    if test.asked is None:
        return []
    sides = [one for one in judgement.standings if one.group.label in (test.ours, test.theirs)]
    missing = [one for one in sides if len(one.scores) < test.asked]
    sweeps = [sweep_of(one, test.asked - len(one.scores)) for one in missing]
    known = [sweep for sweep in sweeps if sweep]
    unknown = [
        f"# {one.group.label}: no command, since the words of its runs were not kept, or cannot be printed"
        for one, sweep in zip(missing, sweeps)
        if not sweep
    ]
    if len(known) == 2 and (both := joined(*known)):
        known = [both]
    return [*map(command, known), *unknown]


def sweep_of(standing: Standing, count: int) -> Sweep | None:
    """As many seeds as are missing, by the words of the group's last run that kept them; None where none did."""
    group = standing.group
    for run in reversed(group.runs):
        if run.words is not None and "".join(run.words).isprintable():
            words = [word for word in run.words if word.partition("=")[0].lstrip("+") != "seed"]
            return Sweep(words, fresh(group, count), run.sweep)
    return None


def fresh(group: Group, count: int) -> list[int]:
    """The lowest seeds that a group does not have; where they are too many to be named, those after its highest."""
    used = {run.summary["seed"] for run in group.runs}
    if count > LISTED:
        first = max(used) + 1
        return [*range(first, first + count)]
    return [seed for seed in range(len(used) + count) if seed not in used][:count]


def joined(ours: Sweep, theirs: Sweep) -> Sweep | None:
    """One sweep in place of two; None unless they differ in nothing but one value."""
    if ours[1:] != theirs[1:] or len(ours.words) != len(theirs.words):
        return None
    different = [place for place, pair in enumerate(zip(ours.words, theirs.words)) if pair[0] != pair[1]]
    if len(different) != 1:
        return None
    words, (place,) = [*ours.words], different
    (key, _, value), (other, _, last) = (one.words[place].partition("=") for one in (ours, theirs))
    words[place] = f"{key}={value},{last}"
    return ours._replace(words=words) if key == other and is_pair(words[place]) else None


def is_pair(word: str) -> bool:
    """True of a word that Hydra reads as two values to sweep over."""
    try:
        (override,) = parse_overrides([word])
        return override.is_sweep_override() and len([*override.sweep_string_iterator()]) == 2
    except HydraException:
        return False


def command(sweep: Sweep) -> str:
    folder = [] if sweep.folder is None else [f"hydra.sweep.dir={quoted(str(sweep.folder))}"]
    return shlex.join(["rlbench", "-m", *sweep.words, f"seed={seed_values(sweep.seeds)}", *folder])


def seed_values(seeds: Sequence[int]) -> str:
    """Seeds as Hydra reads them."""
    return f"range({seeds[0]},{seeds[-1] + 1})" if len(seeds) > LISTED else ",".join(map(str, seeds))
