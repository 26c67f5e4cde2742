"""Every algorithm and every task that Hydra finds, through the contract kit."""

from functools import cache

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from rlbench.plugins import build
from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS, Case, algorithm_case
from tests.fakes import LETTERS, VERIFIER, small_model

SMALL = ["model.layers=1", "model.width=16", "model.heads=2", "model.hidden=16"]


def options(group: str) -> list[str]:
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        return GlobalHydra.instance().config_loader().get_group_options(group)


def node(group: str, option: str):
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        return compose("config", [f"{group}={option}", *SMALL])[group]


@cache
def case(name: str) -> Case:
    return algorithm_case(build(node("algo", name), "algo", small_model(LETTERS, hidden=16)), small_model(hidden=16))


@pytest.mark.parametrize("check", ALGORITHM_CHECKS)
@pytest.mark.parametrize("name", options("algo"))
def test_algorithm(name, check):
    ALGORITHM_CHECKS[check](case(name))


@pytest.mark.parametrize("check", TASK_CHECKS)
@pytest.mark.parametrize("name", options("task"))
def test_task(name, check):
    TASK_CHECKS[check](build(node("task", name), "task"), VERIFIER)


@pytest.mark.parametrize("name", options("algo"))
def test_an_algorithm_says_where_it_comes_from(name):
    from hydra.utils import get_object

    docstring = get_object(node("algo", name)["_target_"]).__doc__
    assert "arXiv:" in docstring


@pytest.mark.parametrize("name", options("task"))
def test_a_task_does_not_import_a_model(name):
    import subprocess
    import sys

    code = f"import sys; from hydra.utils import get_object; get_object({node('task', name)['_target_']!r}); import os"
    code += "; print([m for m in sys.modules if m.startswith('rlbench.models') or m.startswith('flax')])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "[]"
