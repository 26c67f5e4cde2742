"""Before a sandbox is trusted it attacks itself: all attacks have to fail, and an honest program to pass."""

import logging
from typing import Literal

from ..types import Call, ConfigError, Program, Status
from .pool import alone
from .sandbox import Limits, WorkerDied

log = logging.getLogger(__name__)

Backend = Literal["auto", "fork", "unsafe"]

# Each returns True if it gets through.
ATTACKS = {
    "reads a file": "def f():\n    open('/etc/passwd').read()\n    return True",
    "lists a folder": "import os\ndef f():\n    os.listdir('/')\n    return True",
    "opens a socket": "import ctypes\ndef f():\n    return ctypes.CDLL(None).socket(2, 1, 0) >= 0",
    "forks": "import os\ndef f():\n    if os.fork() == 0:\n        os._exit(0)\n    return True",
    "signals its parent": "import os\ndef f():\n    os.kill(os.getppid(), 0)\n    return True",
    "maps executable memory": "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.mmap.restype = ctypes.c_long\n"
    "def f():\n    return libc.mmap(None, ctypes.c_size_t(4096), 7, 34, -1, ctypes.c_long(0)) != -1",
    "takes a gigabyte": "def f():\n    return len(bytearray(1 << 30)) > 0",
}
HONEST = Program("def f(a, b):\n    return sorted([a, b])", "f", (Call((2, 1), [1, 2]),))


def holes() -> list[str]:
    """What the sandbox of this machine lets through, or why it does not work; nothing if it is tight."""
    limits = Limits(cpu_seconds=2.0, wall_seconds=10.0)
    with alone(limits) as worker:
        try:
            honest = worker.verify(HONEST)
            if honest.status != Status.PASSED:
                return [f"an honest program: {honest.status}, {honest.detail}"]
            verdicts = {name: worker.verify(Program(code, "f", (Call((), True),))) for name, code in ATTACKS.items()}
        except WorkerDied as error:
            return [f"the worker does not start: {error}"]
        if not worker.greeting["landlock"]:
            log.info("sandbox: the kernel has no Landlock; files are kept away by seccomp alone")
    return [f"a program that {name} gets through" for name, v in verdicts.items() if v.status == Status.PASSED]


def confined(backend: Backend) -> bool:
    """Whether programs will run in chains, once that is known to work.

    Raises:
      ConfigError: the backend is not safe here, with the probe that failed.
    """
    if backend == "unsafe":
        log.warning("sandbox: unsafe; programs that a model wrote may do what this user may")
        return False
    if found := holes():
        wants = "Linux 3.17 or newer on x86_64 or aarch64, and a container that allows seccomp filters"
        raise ConfigError("backend", backend, f"not safe here ({'; '.join(found)}); wants {wants}, or backend=unsafe")
    log.info("sandbox: fork, with seccomp, resource limits and Landlock where the kernel has it")
    return True
