"""The package's options, composed as a run composes them, on a small model."""

import pytest
from hydra import compose, initialize_config_module

from rlbench.discovery import find_plugins
from rlbench.plugins import build
from rlbench.testing import algorithm_case

SMALL = ["model.layers=1", "model.width=16", "model.heads=2", "model.hidden=16"]


@pytest.fixture(scope="session")
def config():
    find_plugins([])
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        return compose("config", ["algo=topr", "task=bisection", *SMALL])


@pytest.fixture(scope="session")
def case(config):
    model = build(config.model, "model", build(config.tokenizer, "tokenizer"))
    return algorithm_case(build(config.algo, "algo", model), model)
