"""Plain words: docstrings begin with the thing itself, and the field's own terms stand for it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("algos", "benchmarks", "examples", "rlbench", "tasks", "tests")
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
KINDS = ("*.md", "*.toml", "Makefile", "docs/**/*.md", "conf/**/*.yaml", "examples/**/*.yaml", "examples/**/*.md")
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


# Words that were private to this project, and the field's own. CHANGELOG.md alone may name the old ones.
PRIVATE = {
    r"\brepl(y|ies)\b|reply_tokens": "completion",
    r"\bgold(_of)?\b": "solution",
    r"\blikeliest\b": "greedy, most probable",
    r"\bconversations?\b": "episode",
    r"\btranscripts?\b": "trajectory",
    r"\bheldout(/|_problems)|mean_over|MeanOver": "eval/, eval_problems, loss_aggregation",
    r"\bimitat": "SFT",
    r"\bdivergence\b": "KL",
    r"what was expected of|did not happen": "baseline, masked row",
    r"\b[zZ]ygote": "fork server",
    r"\b(Spending|Doing|DoesNotClose|untold)\b|does not close|\.spread\(": "UpdateConfig, Activity, reconcile, shard",
}


@pytest.mark.parametrize("private", PRIVATE)
def test_private_words_do_not_come_back(private):
    texts = [*FILES, *(path for kind in KINDS for path in ROOT.glob(kind))]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in sorted({*texts} - {Path(__file__), ROOT / "CHANGELOG.md"})
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(private, line)
    ]
    assert not found, f"say: {PRIVATE[private]}"
