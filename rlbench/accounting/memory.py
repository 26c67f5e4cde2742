"""Memory: what lies on a device, and what the process holds."""

import math
import threading

import jax
import psutil


class MemoryMeter:
    """The peak of a device's memory, in bytes.

    Reported by the device where it counts (GPU, TPU). Elsewhere: live arrays when a program is
    called, plus what the compiled program adds while it runs, from its memory analysis. Programs of
    two threads that overlap are not added up.
    """

    def __init__(self, device: jax.Device):
        self.device = device
        self._counts = bool(device.memory_stats())
        self._peak = 0
        self._lock = threading.Lock()

    def observe(self, added: int) -> None:
        """Notes a call that adds so many bytes to what is live."""
        if not self._counts:
            with self._lock:
                self._peak = max(self._peak, live_bytes(self.device) + added)

    def peak(self) -> int:
        reported = self.device.memory_stats()
        return reported["peak_bytes_in_use"] if reported else self._peak


def live_bytes(device: jax.Device) -> int:
    """Bytes of the arrays on one device; of an array that is spread over several, its share."""
    total = 0
    for array in jax.live_arrays():
        if array.is_deleted() or device not in array.sharding.device_set:
            continue
        if array.is_fully_replicated:
            total += array.nbytes
        else:
            total += array.dtype.itemsize * math.prod(array.sharding.shard_shape(array.shape))
    return total


def resident_bytes() -> int:
    """The process's resident set, in bytes, now."""
    return psutil.Process().memory_info().rss
