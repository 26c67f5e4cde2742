"""The tutorial does what it says: its commands run, in its order, and its edits fit, at the size of a test."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from tests import forked
from tests.cli.test_cli import SMALL

from .test_readme import first

TUTORIAL = Path(__file__).parents[2] / "docs/tutorial"
BLOCK = re.compile(r"^```(sh|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HUNK = re.compile(r"((?:^-.*\n)+)((?:^\+.*\n)*)", re.MULTILINE)
COURSES = [["first-run"], ["first-sweep", "reading-a-comparison"], ["first-plugin"]]  # each is read in one folder


def blocks(page: str) -> list[tuple[str, str]]:
    """The commands and the edits of a page, in order."""
    return BLOCK.findall((TUTORIAL / f"{page}.md").read_text())


def commands(page: str) -> list[str]:
    return [line for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]


PAGES = [path.stem for path in sorted(TUTORIAL.glob("*.md"))]
RUNS = [line for page in PAGES for line in commands(page) if line.startswith("rlbench ")]


def test_every_page_is_in_a_course():
    assert sorted(page for course in COURSES for page in course) == PAGES


@pytest.mark.parametrize("command", RUNS)
def test_a_run_composes(command):
    """Of a sweep, its first job."""
    words = [word for word in shlex.split(command)[1:] if "=" in word and not word.startswith("hydra.")]
    with initialize_config_module("rlbench.conf", version_base="1.3"):
        compose("config", [first(word) for word in words])


@pytest.mark.slow
@pytest.mark.parametrize("pages", COURSES, ids=" ".join)
def test_the_commands_run_in_order(pages, cache, tmp_path):
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for kind, text in [block for page in pages for block in blocks(page)]:
        if kind == "diff":
            edit(tmp_path, text)
        for line in text.splitlines() if kind == "sh" else []:
            words = ["bash", "-c", f"set -o pipefail; {tiny(line, cache)}"]
            done = subprocess.run(words, cwd=tmp_path, env=forked.variables() | own, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "failed" not in done.stdout


def tiny(line: str, cache: Path) -> str:
    """A command, made small, which keeps what it says itself but for the number of steps."""
    if not line.startswith("rlbench "):
        return line
    own = {word.partition("=")[0] for word in shlex.split(line)} - {"steps"}
    small = [word for word in [*SMALL, "warm_start.accuracy=0"] if word.partition("=")[0] not in own]
    return shlex.join([*shlex.split(line), *small, "checkpoint.keep=1", f"cache={cache}"])


def edit(folder: Path, text: str) -> None:
    """Replaces lines that begin with - by those that follow with +."""
    name, _, rest = text.removeprefix("--- ").partition("\n")
    content = (folder / name).read_text()
    for old, new in HUNK.findall(rest):
        old, new = (re.sub(r"^[-+]", "", lines, flags=re.MULTILINE) for lines in (old, new))
        assert content.count(old) == 1, old
        content = content.replace(old, new)
    (folder / name).write_text(content)
