"""Prompts and answers from a file of JSON lines; a completion is compared with the answer. Reward 1 if equal, else 0.

A line is an object with "prompt" (or "question") and "answer". What follows the last "####" of an answer or a
completion is compared, or all of it if there is none. So an answer may hold its derivation, as in GSM8K
(arXiv:2110.14168). The reference solution is the answer as it stands. What is compared is

- a number: a sign, a currency ($, €, £), digits, with commas between thousands or without, and decimals. What comes
  after it is left out if it has no digit, such as a unit: "$1,200.50 a year" is 1200.5. Nothing is calculated.
- a text: in Unicode's form NFKC, in lower case, without a full stop at its end; any white space is one space.
- a choice: one letter, in upper or lower case, alone or as in "(B)", "B)" and "B.".
"""

import gzip
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rlbench.hashing import BITS, number_of
from rlbench.types import Bounds, ConfigError, Fraction, Problem, Status, Step

MARK = "####"  # stands before the answer, where its derivation does
EXAMPLE = "word_problems.jsonl"
NUMBER = re.compile(r"([$€£]?[-+]?|[-+][$€£])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(\.[0-9]+)?[^0-9]*")
CHOICE = re.compile(r"\(?([A-Za-z])[).:]?")

Line = tuple[int, dict[str, Any]]  # its number, from 1 on, and the object on it


def number_in(text: str) -> Decimal | None:
    """The number that a text is; None if it is none."""
    if found := NUMBER.fullmatch(text):
        before, whole, decimals = found.groups()
        return Decimal(before.strip("$€£") + whole.replace(",", "") + (decimals or ""))
    return None


def text_in(text: str) -> str | None:
    """The text apart from its spelling; None if it is empty."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".") or None


def choice_in(text: str) -> str | None:
    """The letter that is chosen; None if there is none."""
    found = CHOICE.fullmatch(text)
    return found[1].upper() if found else None


COMPARISONS: Mapping[str, Callable[[str], Any]] = {"number": number_in, "text": text_in, "choice": choice_in}
Comparison = Literal["number", "text", "choice"]


class Jsonl:
    """The problems of a file, in turn; which split one is in is said by a hash of its prompt, or by a second file.

    Args:
      path: of the file, JSON lines or those gzipped; None is a short example that rlbench brings.
      heldout_path: of the held-out problems; None holds out a share of the others.
      heldout: that share.
      comparison: how answers are compared.
      suffix: text that ends every prompt.
    """

    def __init__(
        self, *, path: str | None, heldout_path: str | None, heldout: Fraction, comparison: Comparison, suffix: str
    ):
        self.comparison, self.suffix = comparison, suffix
        given = self._problems("path", Path(path) if path else Path(str(files(__package__) / EXAMPLE)))
        if heldout_path:
            others = self._problems("heldout_path", Path(heldout_path))
            for key in given.keys() & others.keys():
                raise ConfigError(
                    "heldout_path", heldout_path, f"a prompt is in path, too: {others[key].prompt[:80]!r}"
                )
            self.splits = {"train": [*given.values()], "heldout": [*others.values()]}
        else:
            self.splits = {"train": [], "heldout": []}
            for key, problem in given.items():
                self.splits["heldout" if position(key) < heldout else "train"].append(problem)
        for split, problems in self.splits.items():
            if not problems:
                raise ConfigError("heldout", heldout, f"leaves no problem to the split {split!r}")
        everything = [problem for problems in self.splits.values() for problem in problems]
        self.bounds = Bounds(
            alphabet=frozenset("".join(problem.prompt + problem.state for problem in everything)),
            prompt=max(len(problem.prompt) for problem in everything),
            completion=max(len(problem.state) for problem in everything),
        )

    def problem(self, seed: int, split: str) -> Problem:
        problems = self.splits[split]
        return problems[seed % len(problems)]

    def step(self, state: str, completion: str) -> Step:
        right = (answer := self._read(completion)) is not None and answer == self._read(state)
        return Step(state, None, float(right), Status.PASSED if right else Status.WRONG)

    def solution(self, state: str) -> str:
        return state

    def _read(self, text: str) -> Any:
        """The answer in a text; None if there is none."""
        return COMPARISONS[self.comparison](text.rpartition(MARK)[2].strip())

    def _problems(self, name: str, path: Path) -> dict[str, Problem]:
        """The problems of a file by their keys: those whose prompts differ in spelling alone are one, the first."""
        problems: dict[str, Problem] = {}
        for number, line in lines_of(name, path):
            prompt, answer = line.get("prompt", line.get("question")), line.get("answer")
            if not (isinstance(prompt, str) and isinstance(answer, str) and (key := text_in(prompt))):
                raise ConfigError(name, path, f'line {number}: has to hold texts "prompt" (or "question") and "answer"')
            if self._read(answer) is None:
                why = f"line {number}: its answer is no {self.comparison} (task.comparison): {answer[-80:]!r}"
                raise ConfigError(name, path, why)
            problems.setdefault(key, Problem(prompt + self.suffix, answer, key))
        return problems


def lines_of(name: str, path: Path) -> list[Line]:
    """The lines of a file of JSON objects, gzipped if its name ends in .gz. Empty lines are left out, numbers texts.

    Args:
      name: of the key of the config, for errors.

    Raises:
      ConfigError: it cannot be read or has no line, or a line is no object; says which.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(name, path, f"a file of JSON lines: {error}") from None
    lines = []
    for number, text in enumerate(data.split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text.decode(), parse_int=str, parse_float=str)
            json.dumps(line, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (ValueError, RecursionError) as error:
            raise ConfigError(name, path, f"a file of JSON lines; line {number}: {error}") from None
        if not isinstance(line, dict):
            raise ConfigError(name, path, f"line {number}: has to be a JSON object: {str(line)[:80]}")
        lines.append((number, line))
    if not lines:
        raise ConfigError(name, path, "a file of JSON lines; it has none")
    return lines


def position(key: str) -> float:
    """Between 0 and 1, of a problem among all."""
    return number_of(key) / 2**BITS
