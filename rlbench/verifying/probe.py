"""Before a sandbox is trusted it attacks itself: all attacks have to fail, and an honest program to pass."""

import importlib.util
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

from ..types import Call, ConfigError, Program, Status
from .pool import alone, tried
from .sandbox import FORK, Limits, Sandbox

log = logging.getLogger(__name__)

Backend = Literal["auto", "fork", "monty", "unsafe"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)

# Each returns True if it gets through.
ATTACKS = {
    "reads a file": "def f():\n    open('/etc/passwd').read()\n    return True",
    "lists a folder": "import os\ndef f():\n    os.listdir('/')\n    return True",
    "opens a socket": "import ctypes\ndef f():\n    return ctypes.CDLL(None).socket(2, 1, 0) >= 0",
    "forks": "import os\ndef f():\n    if os.fork() == 0:\n        os._exit(0)\n    return True",
    "signals its parent": "import os\ndef f():\n    os.kill(os.getppid(), 0)\n    return True",
    "maps executable memory": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_long\n"
    "def f():\n    return libc.mmap(None, ctypes.c_size_t(4096), 7, 34, -1, ctypes.c_long(0)) != -1",
    "takes a gigabyte": "def f():\n    return len('x' * (1 << 30)) > 0",
}
HONEST = Program("def f(a, b):\n    return sorted([a, b])", "f", (Call((2, 1), [1, 2]),))


WANTS = {
    "fork": "Linux 3.17 or newer on x86_64 or aarch64, and a container that allows seccomp filters",
    "monty": "pip install rlbench[monty]",
}
# Folders that hold what is nobody's business; what is needed of them is put back.
PRIVATE = ("/home", "/root", "/run", "/tmp", "/var/tmp")


def choose(backend: Backend) -> Sandbox:
    """The sandbox that programs will run in, once it is known to hold: with `auto` fork, or else Monty.

    Raises:
      ConfigError: nothing is safe here, with the probes that failed.
    """
    if backend == "unsafe":
        log.warning("sandbox: unsafe; programs that a model wrote may do what this user may")
        return Sandbox("unsafe", why="it was asked for")
    candidates: tuple[Literal["fork", "monty"], ...] = ("fork", "monty") if backend == "auto" else (backend,)
    failed: list[str] = []
    for candidate in candidates:
        wrapper, about = bubblewrap()
        found = holes(Sandbox(candidate, wrapper))
        if found and wrapper:
            wrapper, about = (), f"not in bubblewrap, where {' and '.join(found)}"
            found = holes(Sandbox(candidate))
        if not found:
            sandbox = Sandbox(candidate, wrapper, "; ".join([about, *failed]))
            log.log(logging.WARNING if failed else logging.INFO, "sandbox: %s, %s", sandbox.backend, sandbox.why)
            return sandbox
        failed.append(f"{candidate} is not safe here ({'; '.join(found)}) and wants {WANTS[candidate]}")
    raise ConfigError("backend", backend, f"{'; '.join(failed)}; or backend=unsafe")


def bubblewrap() -> tuple[tuple[str, ...], str]:
    """The command that gives a worker name spaces of its own, and a word on that; empty where it does not work.

    A second wall around fork, and the only one around Monty's interpreter: no network, no process outside,
    nothing to write to. If it is killed, or whoever started it ends, all within ends.
    """
    command = shutil.which("bwrap")
    if not command:
        return (), "without bubblewrap, which is not installed"
    spaces = [f"--unshare-{name}" for name in ("user", "pid", "net", "ipc", "uts", "cgroup-try")]
    wrapper = [command, *spaces, "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    wrapper += ["--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--chdir", "/"]
    for folder in PRIVATE:
        if Path(folder).is_dir():
            wrapper += ["--tmpfs", str(Path(folder).resolve())]
    for needed in dict.fromkeys([sys.base_prefix, sys.prefix, str(Path(__file__).parent)]):
        wrapper += ["--ro-bind", needed, needed]
    trial = [*wrapper, sys.executable, "-I", "-S", "-c", ""]
    try:
        done = subprocess.run(trial, env={}, capture_output=True, text=True, errors="replace", timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), f"without bubblewrap: {error}"
    if done.returncode:
        return (), f"without bubblewrap: {done.stderr.strip()[:200] or done.returncode}"
    return tuple(wrapper), "in bubblewrap"


def holes(sandbox: Sandbox = FORK) -> list[str]:
    """Leaks of a sandbox on this machine, or why it does not work; nothing if it is tight."""
    if sandbox.backend == "fork" and sys.platform != "linux":
        return ["this is not Linux"]
    if sandbox.backend == "monty" and not importlib.util.find_spec("pydantic_monty"):
        return ["pydantic-monty is not installed"]
    limits = Limits(cpu_seconds=2.0, wall_seconds=10.0)
    with alone(limits, sandbox) as worker:
        honest = tried(worker, HONEST)
        if honest.status != Status.PASSED:
            return [f"an honest program: {honest.status}, {honest.detail}"]
        got = (Call((), True),)
        verdicts = {name: tried(worker, Program(source, "f", got)) for name, source in ATTACKS.items()}
        if not worker.greeting.get("landlock", True):
            log.info("sandbox: the kernel has no Landlock; files are kept away by seccomp alone")
    unknown = [
        f"a program that {name}: {v.detail}" for name, v in verdicts.items() if v.status == Status.INFRASTRUCTURE
    ]
    return unknown + [
        f"a program that {name} gets through" for name, v in verdicts.items() if v.status == Status.PASSED
    ]
