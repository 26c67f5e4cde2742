"""Hydra's internals are imported in one place, and hydra-core has an upper bound for their sake."""

import ast
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
ADAPTER = ROOT / "rlbench/hydra_adapter.py"
INTERNALS = ("hydra._internal", "hydra.core")


def internals(source: str) -> list[str]:
    """Every name of Hydra's internals that a source imports, in full."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if f"{name}.".startswith(tuple(f"{internal}." for internal in INTERNALS))]


@pytest.mark.parametrize(
    "line",
    [
        "import hydra.core",
        "import os, hydra.core.utils as utils",
        "from hydra import core",
        "from hydra import compose, _internal",
        "from hydra.core import utils",
        "def later():\n    from hydra._internal.callbacks import Callbacks",
    ],
)
def test_an_import_of_internals_is_seen(line):
    assert len(internals(line)) == 1


def test_the_interface_is_no_internal():
    assert not internals("import hydra\nfrom hydra.types import RunMode\nfrom hydra.core_of_ours import x")


def test_only_the_adapter_imports_internals():
    found = {path for path in (ROOT / "rlbench").rglob("*.py") if internals(path.read_text())}
    assert found == {ADAPTER}


def test_hydra_core_has_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (specifier,) = (
        requirement.specifier
        for requirement in map(Requirement, project["dependencies"])
        if requirement.name == "hydra-core"
    )
    assert {"<", "<="}.intersection(bound.operator for bound in specifier)
    assert version("hydra-core") in specifier
