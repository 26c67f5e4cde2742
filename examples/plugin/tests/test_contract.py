"""The package, installed, as Hydra finds it, through rlbench's contract. So does `rlbench-check`."""

import pytest

from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS, task_of


@pytest.mark.parametrize("check", ALGORITHM_CHECKS)
def test_algorithm(case, check):
    ALGORITHM_CHECKS[check](case)


@pytest.mark.parametrize("check", TASK_CHECKS)
def test_task(check):
    with task_of("task=bisection") as subject:
        TASK_CHECKS[check](*subject)
