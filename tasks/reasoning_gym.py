"""Data sets of the package reasoning-gym (arXiv:2505.24760), judged by its own scorers.

The reward is the score, from 0 to 1, so a scorer's partial credit is passed on. A completion is wrong at which a scorer
raises, as many do at a text that they cannot read, or that is longer than the longest answer. REFUSED lists the data
sets that cannot be used, and why.
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rlbench.hashing import drawn, number_of
from rlbench.plugins import nearest
from rlbench.types import Bounds, ConfigError, Count, Natural, Problem, Status, Step, is_full

HELDOUT = 5  # one problem in so many is held out
NUMBERS = 1 << 31  # of problems of a data set that makes any; one that is made as a whole has SIZE
SIZE = 10_000
UNANSWERED = 256  # characters of a completion, where no data set gives an answer that is right
EVALUATES = "its scorer evaluates a completion as Python"
DIFFERS = "its problems, or its answers, differ from process to process"
REFUSED = {
    "binary_matrix": EVALUATES,
    "spiral_matrix": EVALUATES,
    "string_insertion": EVALUATES,
    "n_queens": EVALUATES,
    "countdown": f"{EVALUATES}, in SymPy; take task=countdown",
    "puzzle24": f"{EVALUATES}, in SymPy",
    "polynomial_multiplication": f"{EVALUATES}, in SymPy",
    "simple_integration": f"{EVALUATES}, in SymPy",
    "intermediate_integration": f"{EVALUATES}, in SymPy",
    "coin_flip": "its scorer does not return from a completion such as 1e9999999999",
    "rubiks_cube": "its scorer needs all memory for a completion such as R9999999999",
    "game_of_life_halting": "its scorer takes any text to be right",
    "complex_arithmetic": "its scorer takes nan to be right",
    "isomorphic_strings": DIFFERS,
    "list_functions": DIFFERS,
    "ransom_note": DIFFERS,
    "codeio": DIFFERS,
    "knight_swap": DIFFERS,
    "word_ladder": DIFFERS,
    "composite": "give task.name a list instead",
}


class Source(NamedTuple):
    """A data set with its settings, which a process makes once."""

    name: str
    level: int | None
    config: str  # JSON


class State(NamedTuple):
    """A problem as its data set knows it."""

    source: Source
    entry: dict[str, Any]


class ReasoningGym:
    """Problems of one data set, or of several, each as often as the others; a hash of the prompt says the split.

    Bounds are those of the first problems of each data set. Later, problems with a longer prompt or answer, or with
    other characters, are left out. So are problems without an answer, unless a data set gives none at all: then
    there are no reference solutions.

    Args:
      name: of a data set, or of several.
      level: of the package's curricula, from 0; None is what a data set is without one.
      config: settings of data sets, by their names; None changes none.
      scan: the number of first problems of each data set that the bounds are taken from.
      max_prompt_characters: leaves out problems with a longer prompt; None leaves out none of the first.
    """

    def __init__(
        self,
        *,
        name: str | list[str],
        level: Natural | None,
        config: Mapping[str, Mapping[str, Any]] | None,
        scan: Count,
        max_prompt_characters: Count | None,
    ):
        names = [name] if isinstance(name, str) else name
        if not names or len(set(names)) < len(names):
            raise ConfigError("name", names, "a data set, or a list of different ones")
        config = config or {}
        for other in config:
            if other not in names:
                raise ConfigError(f"config.{other}", dict(config[other]), "not of a data set in task.name")
        self.sources = [Source(each, level, json.dumps(config.get(each, {}), sort_keys=True)) for each in names]
        scanned = [[entry_of(source, place) for place in range(scan)] for source in self.sources]
        self.answered = all(any(map(answer_of, entries)) for entries in scanned)
        if not self.answered:
            self.solution = None  # type: ignore[method-assign, assignment]
        most = max_prompt_characters or math.inf
        for source, entries in zip(self.sources, scanned):
            entries[:] = [entry for entry in entries if self._asks(entry) and len(prompt_of(entry)) <= most]
            if {*map(split_of, entries)} != {"train", "heldout"}:
                limit = f" of at most {max_prompt_characters} characters" if max_prompt_characters else ""
                why = f"a split has no problem{limit} among the first {scan} (task.scan) of {source.name}"
                raise ConfigError("name", name, why)
        every = [entry for entries in scanned for entry in entries]
        self.bounds = Bounds(
            alphabet=frozenset("".join(prompt_of(entry) + answer_of(entry) for entry in every)),
            prompt=max(len(prompt_of(entry)) for entry in every),
            completion=max(len(answer_of(entry)) for entry in every) if self.answered else UNANSWERED,
        )

    def problem(self, seed: int, split: str) -> Problem:
        (which,) = drawn(f"{split} {seed}", len(self.sources))
        source = self.sources[which]
        for attempt in itertools.count():
            (place,) = drawn(f"{split} {seed} {attempt}", size_of(source))
            entry = entry_of(source, place)
            if split_of(entry) == split and self._asks(entry) and self._fits(entry):
                return Problem(prompt_of(entry), State(source, entry))
        raise AssertionError  # one attempt or another is of the split

    def step(self, state: State, completion: str) -> Step:
        if len(completion) > self.bounds.completion:
            return Step(state, None, 0.0, Status.WRONG, detail="longer than any answer")
        try:
            score = float(dataset_of(state.source).score_answer(completion, state.entry))
        except Exception as error:
            return Step(state, None, 0.0, Status.WRONG, detail=f"{type(error).__name__}: {error}")
        if is_full(score):
            return Step(state, None, 1.0, Status.PASSED)
        return Step(state, None, score if 0 < score < 1 else 0.0, Status.WRONG)

    def solution(self, state: State) -> str:
        return answer_of(state.entry)

    def _asks(self, entry: Mapping[str, Any]) -> bool:
        """True if a problem gives an answer, where there have to be reference solutions."""
        return not self.answered or bool(answer_of(entry))

    def _fits(self, entry: Mapping[str, Any]) -> bool:
        """True if a problem is within the bounds."""
        prompt, solution = prompt_of(entry), answer_of(entry) if self.answered else ""
        fits = len(prompt) <= self.bounds.prompt and len(solution) <= self.bounds.completion
        return fits and self.bounds.alphabet.issuperset(prompt + solution)


def prompt_of(entry: Mapping[str, Any]) -> str:
    return f"{entry['question']}\n"


def answer_of(entry: Mapping[str, Any]) -> str:
    """The answer of a problem; empty where it gives none."""
    return entry["answer"] or ""


def split_of(entry: Mapping[str, Any]) -> str:
    return "train" if number_of(prompt_of(entry)) % HELDOUT else "heldout"


def entry_of(source: Source, place: int) -> dict[str, Any]:
    """A problem of a data set: its question, its answer, and what else its scorer needs."""
    return dataset_of(source)[place]


@functools.cache
def size_of(source: Source) -> int:
    """The number of problems that a data set can make."""
    try:
        entry_of(source, NUMBERS - 1)
    except IndexError:
        return SIZE
    return NUMBERS


@functools.cache
def dataset_of(source: Source) -> Any:
    """The data set of the package.

    Raises:
      ConfigError: there is none, or none that can be used, or none at this level or with these settings.
    """
    try:
        from reasoning_gym.factory import CURRICULA, DATASETS
    except ModuleNotFoundError:
        raise ConfigError("name", source.name, "needs pip install 'rlbench[reasoning]'") from None
    if source.name not in DATASETS:
        raise ConfigError("name", source.name, f"a data set of reasoning-gym{nearest(source.name, DATASETS)}")
    if source.name in REFUSED:
        raise ConfigError("name", source.name, REFUSED[source.name])
    made, configured = DATASETS[source.name]
    try:
        config = configured(seed=0, size=SIZE)
        if source.level is not None:
            config = at_level(source.name, source.level, CURRICULA.get(source.name), config)
        config = dataclasses.replace(config, **json.loads(source.config))
        return made(config=config)  # which validates them
    except ConfigError:
        raise
    except (AssertionError, TypeError, ValueError) as error:
        key = "level" if source.level is not None and source.config == "{}" else f"config.{source.name}"
        value = source.level if key == "level" else source.config
        raise ConfigError(key, value, f"the data set says: {error}") from None


def at_level(name: str, level: int, curriculum: Any, config: Any) -> Any:
    """The settings of a data set at a level of its curriculum; those that the curriculum says nothing of stay."""
    if curriculum is None:
        raise ConfigError("level", level, f"null: {name} has no levels")
    course = curriculum()
    levels = max(len(attribute.levels) for attribute in course.attributes.values())
    if level >= levels:
        raise ConfigError("level", level, f"below {levels}: those are the levels of {name}")
    course.set_global_level(level)
    return course.generate_configuration(vars(config))
