"""From a wheel, in an environment and a folder of its own, as a stranger has it."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.cli.test_cli import SMALL, TINY, folders, rows

ROOT = Path(__file__).parents[2]


def installed(folder: Path, *projects: Path) -> Path:
    """Builds the wheels of projects and installs them into a new environment; returns its site-packages.

    The wheels alone are new; what they depend on is this environment's, which pip would install again.
    """
    for project in projects:
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", project], check=True)
    venv.create(folder / "env", with_pip=True)
    wheels = (folder / "dist").glob("*.whl")
    subprocess.run([folder / "env/bin/python", "-m", "pip", "install", "--quiet", "--no-deps", *wheels], check=True)
    (site,) = (folder / "env/lib").glob("python*/site-packages")
    # What they depend on, but for this checkout, which is installed here in editable form.
    (libraries,) = (path for path in sys.path if path.endswith("site-packages"))
    for entry in Path(libraries).iterdir():
        if "rlbench" not in entry.name and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    return site


@pytest.fixture
def where(tmp_path):
    """Runs a command in an empty folder, as a stranger would."""
    (tmp_path / "away").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    return {"cwd": tmp_path / "away", "env": environment, "check": True, "capture_output": True, "text": True}


@pytest.mark.slow
def test_a_wheel_works_anywhere(tmp_path, cache, where):
    site = installed(tmp_path, ROOT)
    assert not {"algos", "tasks", "conf", "examples"}.intersection(path.name for path in site.iterdir())
    shipped = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert shipped == {path.relative_to(site / "rlbench/conf") for path in (site / "rlbench/conf").rglob("*.yaml")}
    code = "import rlbench.cli, rlbench.algos.grpo; print(rlbench.cli.__file__, rlbench.algos.grpo.__file__)"
    assert subprocess.run([tmp_path / "env/bin/python", "-c", code], **where).stdout.count(str(site)) == 2
    rlbench = tmp_path / "env/bin/rlbench"
    subprocess.run([rlbench, "-m", "algo=grpo,async_grpo", f"cache={cache}", *TINY], **where)
    statuses = [json.loads(path.read_text())["status"] for path in where["cwd"].rglob("summary.json")]
    assert statuses == ["finished", "finished"]


@pytest.mark.slow
def test_the_example_of_a_package_is_found_learns_and_passes_its_own_tests(tmp_path, cache, where):
    example = shutil.copytree(ROOT / "examples/plugin", tmp_path / "example")
    installed(tmp_path, ROOT, example)
    rlbench = tmp_path / "env/bin/rlbench"
    listed = subprocess.run([rlbench, "--help"], **where).stdout
    assert re.search(r"^   \* grpo +Group", listed, re.MULTILINE)
    for option in ("topr", "bisection"):
        assert re.search(rf"^     {option} +\S.*\[rlbench-example\]$", listed, re.MULTILINE)
    subprocess.run([rlbench, "-m", "algo=topr", "task=bisection", f"cache={cache}", *SMALL], **where)
    (folder,) = folders(where["cwd"])
    summary = json.loads((folder / "summary.json").read_text())
    assert {"algo": "topr", "task": "bisection", "status": "finished", "learner_steps": 3}.items() <= summary.items()
    assert summary["accuracy_after"] is not None
    assert all(row["weight"] <= 1 for row in rows(folder) if "weight" in row) and "weight" in rows(folder)[-1]
    tested = subprocess.run([tmp_path / "env/bin/python", "-m", "pytest", "-q", example], **where | {"check": False})
    assert tested.returncode == 0, tested.stdout
