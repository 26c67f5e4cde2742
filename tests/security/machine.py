"""What a machine has to have for the sandbox to be tested on it."""

import ctypes
import platform
import sys

import pytest

from rlbench.verifying.confine import KILL, NUMBERS


def kernel_filters() -> bool:
    """Whether this is Linux on a known machine, and its kernel filters system calls (seccomp(2), GET_ACTION_AVAIL)."""
    if sys.platform != "linux" or platform.machine() not in NUMBERS:
        return False
    action, number = ctypes.c_uint32(KILL), {"x86_64": 317, "aarch64": 277}[platform.machine()]
    return ctypes.CDLL(None).syscall(number, 2, 0, ctypes.byref(action)) == 0


needs_sandbox = pytest.mark.skipif(
    not kernel_filters(), reason="the sandbox wants Linux on x86_64 or aarch64, with seccomp filters"
)
