"""The outcome of a check: passed, not applicable, or failed, with what was expected, what came, and where to look."""

import unittest
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import jax
import numpy as np

from ..contract.algorithm import expect_alike, leaves_of
from ..contract.sources import Source, expect, raised
from ..types import ConfigError, PluginError


class NotApplicable(unittest.SkipTest):
    """A check does not apply to this plugin; says why. A test runner reports it as a skipped test."""


def expect_finite(about: str, tree: Any, when: str) -> None:
    """Every number of a tree is finite."""
    for name, leaf in leaves_of(tree):
        leaf = np.asarray(leaf)
        bad = leaf[~np.isfinite(leaf)] if np.issubdtype(leaf.dtype, np.inexact) else leaf[:0]
        expect(not bad.size, about, f"finite numbers {when}", f"{bad.size} of {name} are {bad[:1].sum()}")


def expect_close(about: str, what: str, came: Any, wanted: Any, rtol: float, atol: float) -> None:
    """Two trees hold the same numbers; the array that is furthest off is named."""
    expect_alike(about, what, came, wanted)
    for (name, x), (_, y) in zip(*map(leaves_of, map(jax.device_get, (came, wanted))), strict=True):
        off = ~np.isclose(x, y, rtol=rtol, atol=atol, equal_nan=False)
        if off.any():
            place = np.unravel_index(np.argmax(np.where(off, np.nan_to_num(np.abs(x - y), nan=np.inf), 0)), x.shape)
            at = f"{name}{list(map(int, place))}" if place else name
            raise PluginError(about, f"{what}: {at} = {y[place]:.7g}", f"{x[place]:.7g}")


class Outcome(StrEnum):
    """Outcome of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


class Result(NamedTuple):
    """Result of one check of one plugin."""

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
        except PluginError as error:
            yield failed(name, rule, error.expected or rule.asked, error.came, error.where or source.of(error.about))
        except ConfigError:
            raise
        except Exception as error:  # whatever a stranger's function may raise
            yield failed(name, rule, rule.asked, raised(error), source.raised(error) or source.of(rule.about))
        else:
            yield Result(name, Outcome.PASSED, rule.asked)


def failed(name: str, rule: Rule, expected: str, came: str, where: str) -> Result:
    return Result(name, Outcome.FAILED, rule.asked, expected=expected, came=came, where=where)
