"""Imports between rooms: the core names no algorithm and no task."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.stem for folder in ("algos", "tasks") for path in (ROOT / folder).glob("[!_]*.py"))
CORE = sorted((ROOT / "rlbench").rglob("*.py"))


def test_there_is_something_to_look_at():
    assert len(CORE) > 20 and {"ppo", "grpo", "async_grpo", "arithmetic"}.issubset(PLUGINS)


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_no_plugin(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        for name in names:
            assert not {"algos", "tasks", *PLUGINS}.intersection(name.split(".")), f"{path}: imports {name}"


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_reads_no_clock_that_jumps(path):
    """Somebody sets it, or a machine that was asleep does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("time", "time"), ("time", "time_ns"), ("datetime", "now")}


@pytest.mark.parametrize("path", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_names_no_plugin_in_its_code(path):
    """Docstrings may cite; identifiers and strings that steer may not."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        words = []
        if isinstance(node, ast.Name):
            words = [node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            words = [node.value]
        for word in words:
            assert word not in PLUGINS, f"{path}:{node.lineno} names {word}"


@pytest.mark.parametrize("path", sorted((ROOT / "algos").glob("[!_]*.py")), ids=lambda path: path.stem)
def test_an_algorithm_is_at_most_60_lines_and_jits_nothing(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert "jit" not in text
