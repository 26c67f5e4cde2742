"""The package's algorithm as rlbench finds it, on a small model."""

import pytest

from rlbench.testing import algorithm_of


@pytest.fixture(scope="session")
def case():
    return algorithm_of("algo=topr")
