"""How a check ends: passed, not applicable, or failed, with what was expected, what came, and where to look."""

import functools
import inspect
import traceback
import unittest
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ..types import ConfigError


class NotApplicable(unittest.SkipTest):
    """What a check asks can't be asked of this plugin; says why. A test runner reports it as a skipped test."""


class Broken(AssertionError):
    """A promise that a plugin does not keep.

    Args:
      about: the plugin's function to look at: "score" or "loss" of an algorithm, "step" of a task, ...
    """

    def __init__(self, about: str, expected: str, came: str):
        super().__init__(about, expected, came)
        self.about, self.expected, self.came = about, expected, came

    def __str__(self) -> str:
        return f"{self.about}: expected {self.expected}; came {self.came}"


def expect(fine: Any, about: str, expected: str, came: str) -> None:
    """Raises Broken unless it is fine."""
    if not fine:
        raise Broken(about, expected, came)


def leaves_of(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a tree with its name, such as policy/head."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), np.asarray(leaf)


def expect_finite(about: str, tree: Any, when: str) -> None:
    """Every number of a tree is finite."""
    for name, leaf in leaves_of(tree):
        bad = leaf[~np.isfinite(leaf)] if np.issubdtype(leaf.dtype, np.inexact) else leaf[:0]
        expect(not bad.size, about, f"finite numbers {when}", f"{bad.size} of {name} are {bad[:1].sum()}")


def expect_alike(about: str, what: str, came: Any, wanted: Any) -> None:
    """Two trees have the same structure, shapes and dtypes."""

    def described(tree: Any) -> dict[str, str]:
        return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves_of(tree)}

    before, after = described(wanted), described(came)
    for name in [*before, *after]:
        expect(before.get(name) == after.get(name), about, f"{what}: {name} {before.get(name)}", f"{after.get(name)}")
    kinds = [str(jax.tree.structure(tree)) for tree in (wanted, came)]
    expect(kinds[0] == kinds[1], about, f"{what}: {kinds[0]}", kinds[1])


def expect_close(about: str, what: str, came: Any, wanted: Any, rtol: float, atol: float) -> None:
    """Two trees hold the same numbers; the array that is furthest off is named."""
    expect_alike(about, what, came, wanted)
    for (name, x), (_, y) in zip(leaves_of(came), leaves_of(wanted), strict=True):
        off = ~np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=False)
        if off.any():
            place = np.unravel_index(np.argmax(np.where(off, np.nan_to_num(np.abs(x - y), nan=np.inf), 0)), x.shape)
            at = f"{name}{list(map(int, place))}" if place else name
            raise Broken(about, f"{what}: {at} = {y[place]:.7g}", f"{x[place]:.7g}")


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


class Result(NamedTuple):
    """What became of one check of one plugin."""

    check: str
    outcome: Outcome
    asked: str  # what the check asks, in a sentence
    reason: str = ""  # why it is not applicable
    expected: str = ""
    came: str = ""
    where: str = ""  # file:line of the plugin


class Rule(NamedTuple):
    """A check, and the function of the plugin that it is about, unless what it raises names another."""

    check: Callable[..., None]
    about: str

    @property
    def asked(self) -> str:
        return (self.check.__doc__ or "").partition("\n")[0]

    def __call__(self, *subject: Any) -> None:
        self.check(*subject)


class Source:
    """Where the functions of a plugin stand.

    Args:
      maker: the function or class that its YAML names, where to look for want of anything nearer.
      functions: by the names that checks call them.
    """

    def __init__(self, maker: Any, functions: Mapping[str, Any]):
        self.maker, self.functions = maker, functions

    def of(self, about: str) -> str:
        """file:line of one of its functions, and the function's name."""
        return place(self.functions.get(about)) or place(self.maker) or repr(self.maker)

    def raised(self, error: BaseException) -> str | None:
        """file:line of the innermost frame of the plugin's files that an error passed; None if it passed none."""
        files = {inspect.getsourcefile(x) for x in map(unwrapped, (self.maker, *self.functions.values())) if x}
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
        return f"{near(frames[-1].filename)}:{frames[-1].lineno} {frames[-1].name}" if frames else None


def unwrapped(function: Any) -> Any:
    """The function or class within partial applications and decorators; None where Python knows none."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if callable(function) else None
    return function if inspect.isfunction(function) or inspect.isclass(function) else None


def place(function: Any) -> str | None:
    """file:line and name of a function or class; None if it stands in no file."""
    found = unwrapped(function)
    try:
        file, (_, line) = inspect.getsourcefile(found), inspect.getsourcelines(found)
    except (OSError, TypeError):
        return None
    return f"{near(str(file))}:{line} {found.__name__}"


def near(file: str) -> Path:
    """The path as seen from here, where the file is below."""
    path, here = Path(file), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def examine(rules: Mapping[str, Rule], subject: tuple[Any, ...], source: Source) -> Iterator[Result]:
    """Runs every check of a plugin.

    Raises:
      ConfigError: it can't be checked here, as where no sandbox is safe that has to run its programs.
    """
    for name, rule in rules.items():
        try:
            rule(*subject)
        except NotApplicable as error:
            yield Result(name, Outcome.NOT_APPLICABLE, rule.asked, reason=str(error))
        except Broken as error:
            yield failed(name, rule, error.expected, error.came, source.of(error.about))
        except ConfigError:
            raise
        except Exception as error:  # whatever a stranger's function may raise
            came = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            yield failed(name, rule, rule.asked, came, source.raised(error) or source.of(rule.about))
        else:
            yield Result(name, Outcome.PASSED, rule.asked)


def failed(name: str, rule: Rule, expected: str, came: str, where: str) -> Result:
    return Result(name, Outcome.FAILED, rule.asked, expected=expected, came=came, where=where)
