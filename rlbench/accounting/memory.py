"""Memory: what lies on a device, what the process holds, and what each component takes."""

import contextlib
import math
import threading
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import psutil

from ..checkpoint import Stateful
from ..types import LearnerState
from .shared import Shared


class MemoryMeter(Stateful):
    """The peak of a device's memory and of the process's resident set, in bytes.

    Reported by the device where it counts (GPU, TPU). Elsewhere: live arrays when a program is
    called, plus what the compiled program adds while it runs, from its memory analysis. Programs of
    two threads that overlap are not added up. Shapes repeat from step to step, so that after a
    program's first calls only every 64th is looked at; the resident set is sampled then, too.

    Args:
      shared: by runs of one process. Then no device can tell whose its bytes are, and the run's own arrays are
        counted, of which it has to `note` all.
    """

    FIRST, EVERY = 4, 64
    STATE = ("resident", "_before")

    def __init__(self, device: jax.Device, shared: Shared | None = None):
        self.device, self._shared = device, shared
        self.resident = 0  # the most that was seen
        self._counts = bool(device.memory_stats()) and not shared
        self._own: dict[int, weakref.ref[jax.Array]] = {}
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
                    own = self.own() if self._shared else live_bytes(self.device)
                    self._peak = max(self._peak, own + added)
                if self._shared:
                    everybody = live_bytes(self.device) + added
                    self._shared.peak = max(self._shared.peak, everybody)

    def note(self, tree: Any) -> Any:
        """The same tree, whose arrays are the run's."""
        if self._shared:
            for leaf in jax.tree.leaves(tree):
                self._own[id(leaf)] = weakref.ref(leaf, partial(self._gone, id(leaf)))
        return tree

    def _gone(self, own: int, _: Any) -> None:
        self._own.pop(own, None)

    def _noted(self) -> list[jax.Array]:
        return [array for one in [*self._own.values()] if (array := one()) is not None]

    def own(self) -> int:
        """Bytes of the arrays that are the run's now, where others are in the process, too."""
        return live_bytes(self.device, self._noted())

    def resident_now(self) -> int:
        """The process's resident set."""
        return int(self._process.memory_info().rss)

    @property
    def source(self) -> str:
        return "device" if self._counts else "live arrays and compiled programs"

    def peak(self) -> int:
        """The most that the run took."""
        return max(self._reported() if self._counts else self._peak, self._before)

    def process_peak(self) -> int:
        """The most that all runs of the process took together."""
        return max(self.peak(), self._shared.peak if self._shared else 0, self._reported())

    def _reported(self) -> int:
        return (self.device.memory_stats() or {}).get("peak_bytes_in_use", 0)


def free_bytes(device: jax.Device) -> int:
    """Bytes that are left of a device's memory, as far as it tells; else of the machine's, or of what we may have."""
    if reported := device.memory_stats():
        return max(reported["bytes_limit"] - reported["bytes_in_use"], 0)
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no Linux, or no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(limit - used, 0))
    return free


def live_bytes(device: jax.Device, arrays: Iterable[jax.Array] | None = None) -> int:
    """Bytes of arrays on one device, by default of all there are; of one that is sharded over several, its share."""
    total, seen = 0, set[int]()
    for array in jax.live_arrays() if arrays is None else arrays:
        if array.is_deleted() or device not in array.sharding.device_set:
            continue
        if len(array.sharding.device_set) == 1:  # one that was copied to the host is there twice, in one place
            with contextlib.suppress(RuntimeError):  # a thread has just given it away
                if (place := array.unsafe_buffer_pointer()) in seen and array.nbytes:
                    continue
                seen.add(place)
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
