"""The guides do what they say: their files are written, their tests and commands run, in a folder of one's own."""

import inspect
import re
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from rlbench.learning import estimators, objectives
from rlbench.models import likelihood
from rlbench.testing import ALGORITHM_CHECKS, TASK_CHECKS
from rlbench.types import Algorithm, Model
from tests import forked
from tests.cli.test_cli import SMALL

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = {"algorithm": ALGORITHM_CHECKS, "task": TASK_CHECKS}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIG = str(DOCS.parent / "pyproject.toml")
COMMANDS = {"rlbench": "rlbench.cli", "rlbench-check": "rlbench.testing.command"}


def blocks(guide: str) -> tuple[dict[str, str], list[list[str]]]:
    """The files of a page, which say their paths in their first lines, and the words of its commands."""
    files, commands = {}, []
    for language, text in BLOCK.findall((DOCS / f"{guide}.md").read_text()):
        if language == "sh":
            commands += map(shlex.split, text.splitlines())
        else:
            files[text.partition("\n")[0].removeprefix("# ")] = text
    return files, commands


@pytest.fixture(scope="module", params=GUIDES)
def guide(request, tmp_path_factory):
    """A page's name, and a folder with its files."""
    folder = tmp_path_factory.mktemp(request.param)
    files, _ = blocks(request.param)
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return request.param, folder


def run(folder: Path, words: list[str]) -> CompletedProcess:
    return forked.run(*words, cwd=folder, env=forked.variables())


@pytest.mark.parametrize(
    ("guide", "words"),
    [
        pytest.param(guide, words, id=" ".join(words), marks=[pytest.mark.slow] if "-m" in words else [])
        for guide in GUIDES
        for words in blocks(guide)[1]
    ],
    indirect=["guide"],
)
def test_a_command_of_a_guide_runs(guide, words, cache):
    _, folder = guide
    tiny = [*SMALL, "warm_start.accuracy=0"] if words[0] == "rlbench" else []
    own = {word.partition("=")[0] for word in words}
    tiny = [word for word in tiny if word.partition("=")[0] not in own]
    done = run(folder, [COMMANDS[words[0]], *words[1:], f"cache={cache}", *tiny])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout


def test_the_tests_of_a_guide_pass(guide):
    _, folder = guide
    tests = sorted(path.name for path in folder.glob("test_*.py"))
    if tests:
        done = run(folder, ["pytest", "-q", "-p", "no:cacheprovider", *tests])
        assert done.returncode == 0, done.stdout


def test_a_guide_s_code_keeps_our_rules(guide):
    _, folder = guide
    done = run(folder, ["ruff", "check", "--config", CONFIG, "--ignore", "I001", "."])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_explains_every_check(guide):
    text = (DOCS / f"{guide}.md").read_text()
    explained = re.findall(r"^\| ([a-z ]+) \|", text.partition("## What is checked")[2], re.MULTILINE)
    assert explained == ["check", "builds", *GUIDES[guide]]


@pytest.mark.parametrize("module", [estimators, objectives, likelihood], ids=lambda module: module.__name__)
def test_the_guide_of_algorithms_lists_what_there_is(module):
    text = (DOCS / "algorithm.md").read_text().partition("## What there is")[2].partition("\n## ")[0]
    table = text.partition(f"Of `{module.__name__}`")[2].partition("\nOf `")[0]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)))
    reading = {"aggregation_named", "same_both_ways", "dual_beyond_high"}  # a config
    functions = {name for name, x in vars(module).items() if inspect.isfunction(x) and x.__module__ == module.__name__}
    types = {"Clip", "ClipRange", "LossAggregation"} if module is objectives else set()
    assert sorted(listed) == sorted(functions - reading | types)


def test_the_guide_of_algorithms_describes_every_field():
    text = (DOCS / "algorithm.md").read_text()
    for kind, title in ((Algorithm, "## The protocol"), (Model, "## The model")):
        table = text.partition(title)[2].partition("\n## ")[0]
        assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(kind._fields)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_links_of_a_guide_lead_somewhere(guide):
    for target in re.findall(r"\]\(([^)#:]+)\)", (DOCS / f"{guide}.md").read_text()):
        assert (DOCS / target).exists(), target
