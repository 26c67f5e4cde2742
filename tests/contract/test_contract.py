"""Every algorithm and every task that Hydra finds, through the contract kit. Presets are functions of the shelf's."""

from functools import cache
from importlib.util import find_spec

import pytest
from hydra.utils import get_object

from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS, Case, algorithm_of, options, task_of
from rlbench.testing.subjects import composed
from tests.fakes import SHELF

# Those whose package is installed: make installs reasoning-gym where there is a C compiler.
TASKS = [name for name in options("task") if name != "reasoning_gym" or find_spec(name)]


@cache
def case(name: str) -> Case:
    return algorithm_of(f"algo={name}")


@pytest.mark.parametrize("check", ALGORITHM_CHECKS)
@pytest.mark.parametrize("name", SHELF)
def test_algorithm(name, check):
    ALGORITHM_CHECKS[check](case(name))


@pytest.mark.parametrize("check", TASK_CHECKS)
@pytest.mark.parametrize("name", TASKS)
def test_task(name, check):
    with task_of(f"task={name}") as subject:
        TASK_CHECKS[check](*subject)


@pytest.mark.parametrize("name", options("algo"))
def test_an_algorithm_says_where_it_comes_from(name):
    docstring = get_object(composed([f"algo={name}"])["algo"]["_target_"]).__doc__
    assert "arXiv:" in docstring


@pytest.mark.parametrize("name", options("task"))
def test_a_task_does_not_import_a_model(name):
    import subprocess
    import sys

    target = composed([f"task={name}"])["task"]["_target_"]
    code = f"import sys; from hydra.utils import get_object; get_object({target!r}); import os"
    code += "; print([m for m in sys.modules if m.startswith('rlbench.models') or m.startswith('flax')])"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == "[]"
