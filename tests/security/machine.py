"""Needs of the sandbox's tests: what this machine has of them."""

import ctypes
import importlib.util
import platform
import sys

import pytest

from rlbench.verifying.confine import KILL, NUMBERS
from rlbench.verifying.probe import bubblewrap


def kernel_filters() -> bool:
    """True if this is Linux on a known machine, and its kernel filters system calls (seccomp(2), GET_ACTION_AVAIL)."""
    if sys.platform != "linux" or platform.machine() not in NUMBERS:
        return False
    action, number = ctypes.c_uint32(KILL), {"x86_64": 317, "aarch64": 277}[platform.machine()]
    return ctypes.CDLL(None).syscall(number, 2, 0, ctypes.byref(action)) == 0


needs_sandbox = pytest.mark.skipif(
    not kernel_filters(), reason="the sandbox wants Linux on x86_64 or aarch64, with seccomp filters"
)
needs_monty = pytest.mark.skipif(
    not importlib.util.find_spec("pydantic_monty"), reason="wants pydantic-monty: pip install rlbench[monty]"
)
WRAPPER, about = bubblewrap()
needs_bubblewrap = pytest.mark.skipif(not WRAPPER, reason=about)
