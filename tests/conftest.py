"""Before JAX is imported anywhere: four simulated CPU devices, and a compilation cache for the whole session."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.forked import FOUR_DEVICES

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tolerances and memory are those of a CPU; processes inherit it
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FOUR_DEVICES}".strip()
CACHE = Path(
    os.environ.setdefault("RLBENCH_TEST_CACHE", str(Path(tempfile.gettempdir()) / f"rlbench-tests-{os.getuid()}"))
)

import jax  # noqa: E402
import pytest  # noqa: E402

from rlbench.devices import Devices, keep_compilations  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def compilations() -> None:
    """Programs that another test or an earlier session compiled are not compiled again."""
    keep_compilations(CACHE / "compilations")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Processes that tests start can be interrupted, also where a shell's background job would ignore it for them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def devices() -> Devices:
    """One device, which most tests are about."""
    return Devices(jax.devices()[:1])


@pytest.fixture
def plan_of(cache):
    """Makes the plan of a tiny run, of arithmetic unless the words choose another task."""
    from hydra import compose, initialize_config_module

    from rlbench.plan import make_plan
    from tests.cli.test_cli import SMALL

    def make(algo, *words, task="arithmetic", devices=1):
        small = [*SMALL, f"task={task}", *(["task.digits=1"] if task == "arithmetic" else [])]
        with initialize_config_module("rlbench.conf", version_base="1.3"):
            config = compose("config", [*small, "tracker=none", f"algo={algo}", f"cache={cache}", *words])
        return make_plan(config, {"algo": algo, "task": task}, jax.devices()[:devices])

    return make


@pytest.fixture(scope="session")
def cache() -> Path:
    """The cache folder that runs of this session share."""
    return CACHE


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium, which Debian's packages bring where they may be installed."""
    with (Path(tempfile.gettempdir()) / f"rlbench-chromium-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several workers, one installs
        if not shutil.which("chromium") and shutil.which("apt-get") and os.getuid() == 0:
            for words in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
                subprocess.run(["apt-get", "-qq", *words], capture_output=True, timeout=600)
    return shutil.which("chromium") or pytest.skip("there is no chromium, and apt-get cannot install it here")


@pytest.fixture(scope="session")
def browser(chromium):
    """The browser, headless; a test opens its own pages."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the browser: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()
