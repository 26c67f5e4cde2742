"""From a wheel, in an environment and a folder of its own, as a stranger has it."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.cli.test_cli import TINY

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_works_anywhere(tmp_path, cache):
    """The wheel alone is new; what it depends on is this environment's, which pip would install again."""
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    (site,) = (tmp_path / "env/lib").glob("python*/site-packages")
    assert not {"algos", "tasks", "conf"}.intersection(path.name for path in site.iterdir())
    shipped = {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert shipped == {path.relative_to(site / "rlbench/conf") for path in (site / "rlbench/conf").rglob("*.yaml")}
    # What it depends on, but for this checkout, which is installed here in editable form.
    (libraries,) = (path for path in sys.path if path.endswith("site-packages"))
    for entry in Path(libraries).iterdir():
        if "rlbench" not in entry.name and not (site / entry.name).exists():
            (site / entry.name).symlink_to(entry)
    away = tmp_path / "away"
    away.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONPATH")}
    where = {"cwd": away, "env": environment, "check": True, "capture_output": True, "text": True}
    code = "import rlbench.cli, rlbench.algos.grpo; print(rlbench.cli.__file__, rlbench.algos.grpo.__file__)"
    assert subprocess.run([python, "-c", code], **where).stdout.count(str(site)) == 2
    rlbench = tmp_path / "env/bin/rlbench"
    subprocess.run([rlbench, "-m", "algo=grpo,async_grpo", f"cache={cache}", *TINY], **where)
    statuses = [json.loads(path.read_text())["status"] for path in away.rglob("summary.json")]
    assert statuses == ["finished", "finished"]
