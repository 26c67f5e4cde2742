"""The README shows what is there: its code, its links and its command lines."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
]
COMMANDS = re.findall(r"^    (rlbench [^#\n]*)", README, re.M)


def test_the_code_is_that_of_grpo():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert squeezed(code) in squeezed((ROOT / "algos/grpo.py").read_text())


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_composes(command):
    """Of a sweep, its first job. Flags and Hydra's own keys are left out, and so are options of plugins."""
    words = [word for word in shlex.split(command.rstrip("\\ ")[len("rlbench ") :]) if "=" in word]
    if "algo=my_algo" not in words:
        with initialize_config_module("rlbench.conf", version_base="1.3"):
            compose("config", [first(word) for word in words if not word.startswith("hydra")])


def squeezed(code: str) -> str:
    """Code without indentation and empty lines."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


def first(override: str) -> str:
    """The first choice of a sweep over simple values."""
    key, _, value = override.partition("=")
    return override if value.startswith("[") else f"{key}={value.split(',')[0]}"
