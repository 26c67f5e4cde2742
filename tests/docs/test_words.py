"""Plain words: a docstring says the thing, not that there is something to say."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("algos", "benchmarks", "examples", "rlbench", "tasks", "tests")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
QUESTIONS = {"What", "Whether", "How", "Which", "Who", "Where", "When", "Why"}


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_opens_with_a_question_word(room):
    found = []
    for path in FILES:
        if path.relative_to(ROOT).parts[0] != room:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = (ast.get_docstring(node) or "").split()
                if words and words[0] in QUESTIONS:
                    found.append(f"{path.relative_to(ROOT)}: {' '.join(words[:8])}")
    assert not found
