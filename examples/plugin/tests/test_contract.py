"""The package, installed, as Hydra finds it, through rlbench's contract."""

import pytest

from rlbench.plugins import build, read
from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS
from rlbench.verifying.verifier import Verifier, Verifying


@pytest.mark.parametrize("check", ALGORITHM_CHECKS)
def test_algorithm(case, check):
    ALGORITHM_CHECKS[check](case)


@pytest.mark.parametrize("check", TASK_CHECKS)
def test_task(config, check):
    verifier = Verifier(read(Verifying, config.verifier, "verifier"))
    TASK_CHECKS[check](build(config.task, "task"), verifier)
