"""Commands in processes of their own, forked from one that has imported rlbench and JAX.

A command line then takes what it does, not the seconds that a new Python needs to import; everything else is as with
`python -m`. The forks share one seed of hashes: a test that compares two processes starts them afresh.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

ROOT = str(Path(__file__).parents[1])
FOUR_DEVICES = "--xla_force_host_platform_device_count=4"  # of this process alone
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["rlbench.cli", "rlbench.experiment", "rlbench.plan", "rlbench.testing.command"])


def run(module: str, *words: str | Path, cwd: Path, env: Mapping[str, str]) -> CompletedProcess[str]:
    """Does as `subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True)`.

    Args:
      env: its variables. Those that JAX reads when it is imported have to be as in this process.
    """
    with TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("out", "err")]
        given = (module, [*map(str, words)], str(cwd), dict(env), outputs)
        process = FORKED.Process(target=become, args=given)
        process.start()
        process.join()
        assert process.exitcode is not None
        out, err = (path.read_text() for path in outputs)
    return CompletedProcess([module, *given[1]], process.exitcode, out, err)


def variables() -> dict[str, str]:
    """Those of a user, who has one device."""
    flags = os.environ["XLA_FLAGS"].replace(FOUR_DEVICES, "").strip()
    own = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    return own | {"XLA_FLAGS": flags}


def become(module: str, words: list[str], cwd: str, env: dict[str, str], outputs: list[Path]) -> None:
    """Makes this process what `python -m` would have made of it."""
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:] = [cwd, *(place for place in sys.path if place not in ("", ROOT))]
    sys.argv = [module, *words]
    sys.modules.pop(module, None)
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which processes of multiprocessing leave out
