"""Memory: what lies on a device, what the process holds, and what each component takes."""

import math
import threading
from collections.abc import Mapping
from typing import Any

import jax
import psutil

from ..checkpoint import Stateful
from ..types import LearnerState


class MemoryMeter(Stateful):
    """The peak of a device's memory and of the process's resident set, in bytes.

    Reported by the device where it counts (GPU, TPU). Elsewhere: live arrays when a program is
    called, plus what the compiled program adds while it runs, from its memory analysis. Programs of
    two threads that overlap are not added up. Shapes repeat from step to step, so that after a
    program's first calls only every 64th is looked at; the resident set is sampled then, too.
    """

    FIRST, EVERY = 4, 64
    STATE = ("resident", "_before")

    def __init__(self, device: jax.Device):
        self.device = device
        self.resident = 0  # the most that was seen
        self._counts = bool(device.memory_stats())
        self._peak = self._before = 0  # in this process; in an earlier one of the run
        self._calls: dict[int, int] = {}
        self._process = psutil.Process()
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """The peaks so far."""
        return {"resident": self.resident, "_before": self.peak()}

    def observe(self, added: int) -> None:
        """Notes a call that adds so many bytes to what is live."""
        with self._lock:
            call = self._calls[added] = self._calls.get(added, 0) + 1
            if call <= self.FIRST or call % self.EVERY == 0:
                self.resident = max(self.resident, self.resident_now())
                if not self._counts:
                    self._peak = max(self._peak, live_bytes(self.device) + added)

    def resident_now(self) -> int:
        """The process's resident set."""
        return int(self._process.memory_info().rss)

    @property
    def source(self) -> str:
        return "device" if self._counts else "live arrays and compiled programs"

    def peak(self) -> int:
        reported = self.device.memory_stats()
        return max(reported["peak_bytes_in_use"] if reported else self._peak, self._before)


def live_bytes(device: jax.Device) -> int:
    """Bytes of the arrays on one device; of an array that is sharded over several, its share."""
    total = 0
    for array in jax.live_arrays():
        if array.is_deleted() or device not in array.sharding.device_set:
            continue
        if array.is_fully_replicated:
            total += array.nbytes
        else:
            total += array.dtype.itemsize * math.prod(array.sharding.shard_shape(array.shape))
    return total


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of their shapes."""
    return sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def network_bytes(state: LearnerState) -> dict[str, dict[str, int]]:
    """Bytes that each network takes on a device, from the shapes of a learner's state.

    Gradients are accumulated in float32, whatever the parameters' dtype.
    """
    components: dict[str, dict[str, int]] = {
        name: {
            "parameters": tree_bytes(params),
            "optimizer_state": tree_bytes(state.opt_state[name]),
            "gradients": 4 * sum(leaf.size for leaf in jax.tree.leaves(params)),
        }
        for name, params in state.trainable.items()
    }
    for name, params in state.frozen.items():
        parts = components.setdefault(name, {"parameters": 0})
        parts["parameters"] += tree_bytes(params)
    return components


def prices(components: Mapping[str, Mapping[str, int]], sampler: str) -> dict[str, dict[str, int]]:
    """For every component but the one that samples: bytes of all networks with it, without it, and the difference."""
    total = sum(sum(parts.values()) for parts in components.values())
    own = {name: sum(parts.values()) for name, parts in components.items() if name != sampler}
    return {
        name: {"with": total, "without": total - difference, "difference": difference}
        for name, difference in own.items()
    }
