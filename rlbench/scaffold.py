"""The command `rlbench-new`: writes a start for a plugin, which runs and passes its checks at once.

    rlbench-new algo my_algo
    rlbench-new task my_task --folder elsewhere

writes NAME.py, conf/algo/NAME.yaml or conf/task/NAME.yaml, and test_NAME.py. The start is a copy of what rlbench runs
where nothing else is asked for. Exit codes: 0, and 2 where nothing was written.
"""

import argparse
import ast
import builtins
import inspect
import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import yaml
from hydra.errors import HydraException
from hydra.utils import get_object

from .command_line import parser_of
from .discovery import find_plugins, offers
from .help import composed
from .hydra_adapter import parse_overrides
from .types import ConfigError

KINDS = {"algo": "algorithm", "task": "task"}
FIXTURES = {
    "algo": "    return (algorithm_of(*WORDS),)",
    "task": "    with task_of(*WORDS) as subject:\n        yield subject",
}
TEST = '''\
"""{name} holds the contract of every {kind}. Tests of what is its own belong here, too."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tolerances are those of a CPU

import pytest  # noqa: E402

from rlbench.testing import {checks}, {maker}  # noqa: E402

WORDS = ("--config-dir", str(Path(__file__).parent / "conf"), "{group}={name}")


@pytest.fixture(scope="module")
def subject():
{fixture}


@pytest.mark.parametrize("check", {checks})
def test_contract(check, subject):
    {checks}[check](*subject)
'''


def main() -> None:
    """The entry point."""
    options = parser().parse_args()
    try:
        find_plugins([])
        written = start(options.group, options.name, options.folder)
    except (ConfigError, OSError) as error:
        print(f"rlbench-new: {error}", file=sys.stderr)
        sys.exit(2)
    conf = options.folder / "conf"
    print("\n".join(f"wrote {path}" for path in written))
    print(f"\nrlbench-check --config-dir {conf} {options.group}={options.name}")
    print(f"rlbench --config-dir {conf} {options.group}={options.name}")


def parser() -> argparse.ArgumentParser:
    arguments = parser_of("rlbench-new", __doc__)
    arguments.add_argument("group", choices=KINDS, help="kind of plugin")
    arguments.add_argument("name", help="name of the files and of the option: a Python identifier")
    arguments.add_argument("--folder", type=Path, default=Path(), help="folder to write into; by default this one")
    return arguments


def start(group: str, name: str, folder: Path) -> list[Path]:
    """Writes a plugin's first files. Returns their paths.

    Raises:
      ConfigError: the name cannot be one, or is taken, or a file is there already; then nothing is written.
    """
    model = composed([]).hydra.runtime.choices[group]
    options = next(iter(offers(f"{group}/{model}.yaml"))).read_text()
    target = get_object(yaml.safe_load(options)["_target_"])
    source = inspect.getsource(sys.modules[target.__module__])
    own = camel(name) if inspect.isclass(target) else name
    files = {folder / f"{name}.py", folder / "conf" / group / f"{name}.yaml", folder / f"test_{name}.py"}
    check_name(group, name, {name, own} & defined(source), sorted(filter(Path.exists, files)))

    origin = f"{target.__module__}.{target.__name__}"
    values = re.sub(r"^(#.*\n)*_target_: .*\n", "", options)
    checks = f"{KINDS[group].upper()}_CHECKS"
    test = TEST.format(
        name=name, kind=KINDS[group], group=group, checks=checks, maker=f"{KINDS[group]}_of", fixture=FIXTURES[group]
    )
    texts = {
        f"{name}.py": f"# Begun as a copy of {origin}.\n" + re.sub(rf"\b{target.__name__}\b", own, source),
        f"conf/{group}/{name}.yaml": f"# Begun as a copy of {model}\n_target_: {name}.{own}\n{values}",
        f"test_{name}.py": test,
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("x", encoding="utf-8") as file:
            file.write(text)
    return [folder / path for path in texts]


def check_name(group: str, name: str, used: set[str], existing: list[Path]) -> None:
    """Raises ConfigError for a name that does not work as a file, as a function and as an option."""

    def refuse(reason: str) -> ConfigError:
        return ConfigError("name", name, reason)

    if not re.fullmatch(r"[a-zA-Z]\w*", name, re.ASCII) or keyword.iskeyword(name):
        raise refuse("has to be a Python identifier, in ASCII, that begins with a letter")
    try:
        (override,) = parse_overrides([f"{group}={name}"])
        option = override.value()
    except HydraException:
        option = None
    if option != name:
        raise refuse("means something else on Hydra's command line")
    if offered := offers(f"{group}/{name}.yaml"):
        raise refuse(f"is taken: {next(iter(offered.values())).name} has an option {group}={name}")
    if existing:
        raise refuse(f"{existing[0]} exists, and nothing is overwritten")
    if hasattr(builtins, name):
        raise refuse("is taken: Python itself calls something so")
    if used:
        raise refuse("is taken: the start uses this name itself")
    if find_spec(name):
        raise refuse("is taken: a module that can be imported is called so")


def defined(source: str) -> set[str]:
    """Every identifier of a source."""
    tree = ast.walk(ast.parse(source))
    fields = ("id", "name", "asname", "arg", "attr")
    return {getattr(node, field) for node in tree for field in fields if isinstance(getattr(node, field, None), str)}


def camel(name: str) -> str:
    """my_task as MyTask."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


if __name__ == "__main__":
    main()
