"""Devices: the mesh that batches are sharded over, the compilation cache, programs compiled ahead of time."""

import contextlib
import ctypes
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import platformdirs
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from .accounting.account import Account
from .accounting.flops import Work, count, networks_of
from .accounting.memory import MemoryMeter
from .accounting.timeline import Activity
from .interrupts import patiently
from .types import Array, OutOfMemory, Phase

SMALLER = dict.fromkeys(Phase, "batch.microbatch_tokens, batch.rollouts") | {
    Phase.PREFILL: "acting.slots, batch.rollouts",
    Phase.DECODE: "acting.slots, batch.rollouts",
    Phase.SCORE: "model.chunk_tokens, batch.rollouts",
}  # keys of the config that make a program of each phase need less memory
DATA = "data"  # the mesh axis that rows are sharded over


def cache_folder(configured: str | None) -> Path:
    """The folder of everything that may be computed again: as configured, or this system's usual place."""
    return Path(configured) if configured else Path(platformdirs.user_cache_dir("rlbench"))


def keep_compilations(folder: Path) -> None:
    """Turns on JAX's persistent compilation cache for every program, however small or quick to compile."""
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def keep_freed_memory() -> None:
    """Lets the C library keep what programs on a CPU free, for the next call.

    glibc maps large buffers one by one and hands them back to the system, which clears their pages again
    at every call of a program: a learner step whose temporaries take 42 MB took 265 ms instead of 216.
    Other systems do not know the call.
    """
    mmap_max, trim_threshold = -4, -1  # of mallopt(3)
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 1 << 30)


def in_chunks(tree: Any, rows: int, length: int, most: int) -> Any:
    """Arrays [B, ...] as [count, B / count, ...], in as few chunks as hold at most `most` tokens on any device.

    Every device has the same number of rows of every chunk, and at least one, however long: a chunk of fewer
    rows would have some devices repeat what others do. Chunk i takes every count-th row, so that rows stay on
    the device they are on. Outside a program on several devices, there is one.

    Args:
      rows: B.
      length: tokens of a row, padding too.
    """
    devices, count = chunks_of(rows, rows * length, most)

    def split(x: Array) -> Array:
        parts = x.reshape(rows // count, count, *x.shape[1:]).swapaxes(0, 1)
        return parts if devices == 1 else jax.lax.with_sharding_constraint(parts, PartitionSpec(None, DATA))

    return jax.tree.map(split, tree)


def in_chunks_by(first: Array, length: int, most: int) -> Array:
    """The order i32[B] of rows in which `in_chunks` puts those that are `first`, bool[B], into the first chunks.

    Rows stay on the device they are on.
    """
    devices, count = chunks_of(len(first), len(first) * length, most)
    share = len(first) // devices
    order = jnp.argsort(~first.reshape(devices, share), axis=1, stable=True)
    place = jnp.arange(share).reshape(count, -1).T.ravel()  # chunk i takes every count-th row
    return (jnp.arange(devices)[:, None] * share + order[:, place]).ravel()


def in_rows(tree: Any) -> Any:
    """Arrays [B, ...], of which each device has its share of the rows: in a program on several, whatever it does."""
    if jax.sharding.get_abstract_mesh().shape.get(DATA, 1) == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(DATA))


def devices_of(rows: int) -> int:
    """Devices that so many rows are sharded over in the program under way; 1 outside a program on several."""
    devices = jax.sharding.get_abstract_mesh().shape.get(DATA, 1)
    return devices if rows % devices == 0 else 1


def chunks_of(rows: int, tokens: int, most: int) -> tuple[int, int]:
    """Devices that rows are sharded over, and chunks that each one's share has to be cut into, as by `chunk_count`.

    Args:
      tokens: of all rows.
      most: tokens that a chunk may hold on a device, unless it is one row.
    """
    devices = devices_of(rows)
    return devices, chunk_count(rows // devices, tokens // devices, most)


def chunk_count(rows: int, tokens: int, most: int) -> int:
    """Into how many equal chunks rows have to be cut for none to hold over `most` of the tokens, or over one row."""
    return next(count for count in range(min(rows, math.ceil(tokens / most)), rows + 1) if rows % count == 0)


class Devices:
    """The devices of a run, and how arrays and programs get there.

    Batches lie in rows over the mesh axis DATA, everything else on every device.

    Args:
      devices: by default all local ones.
      memory: told of every array that comes there, and of every call of a program.
      programs: those of other runs of the process that came here with the same config, by what they are for.
    """

    def __init__(
        self,
        devices: Sequence[jax.Device] | None = None,
        memory: MemoryMeter | None = None,
        programs: dict[Any, "Programs"] | None = None,
    ):
        self.devices = list(devices or jax.local_devices())
        self.memory = memory or MemoryMeter(self.devices[0])
        self._programs = {} if programs is None else programs
        self._claimed: set[Any] = set()
        self.mesh = jax.make_mesh((len(self.devices),), (DATA,), (AxisType.Auto,), devices=self.devices)
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.rows = NamedSharding(self.mesh, PartitionSpec(DATA))
        self._dispatch = threading.Lock()
        # A program that copies its arguments takes them to a device in a fifth of the time of device_put.
        self._taken = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=self.rows)

    def shard(self, tree: Any) -> Any:
        """Puts arrays [B, ...] on the devices, row by row."""
        if len(self.devices) == 1 and all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree)):
            return self.memory.note(self._taken(tree))
        return self.memory.note(jax.device_put(tree, self.rows))

    def handed(self, tree: Any) -> Any:
        """Arrays [B, ...] of the host for one call of a program, which takes them to a single device faster itself."""
        return tree if len(self.devices) == 1 else self.shard(tree)

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every array on each device."""
        return self.memory.note(jax.device_put(tree, self.everywhere))

    def received(self, tree: Any) -> Any:
        """Replicated arrays of other devices, copied to these; as they are where they are here."""
        here = set(self.devices)
        return tree if all(x.sharding.device_set == here for x in jax.tree.leaves(tree)) else self.replicate(tree)

    def programs(self, function: Callable[..., Any], *use: Any) -> "Programs":
        """Programs of a function, put to some use. Other runs share them; a run that asks twice gets its own."""
        key = function.__module__, function.__qualname__, *use
        if key in self._claimed:
            return Programs()
        self._claimed.add(key)
        return self._programs.setdefault(key, Programs())

    def run(self, executable: Callable[..., Any], arguments: Sequence[Any], added: int) -> Any:
        """Dispatches a compiled program.

        Dispatch is serialised: acting and learning share the devices, which have to see programs with
        collectives in one order. Accelerators run them in that order; CPU devices have no such queue,
        so there each program is run to its end.
        """
        return patiently(self._run, executable, arguments, added)  # a CPU may run it at once

    def _run(self, executable: Callable[..., Any], arguments: Sequence[Any], added: int) -> Any:
        with self._dispatch:
            self.memory.observe(added)
            result = self.memory.note(executable(*arguments))
            if len(self.devices) > 1 and self.devices[0].platform == "cpu":
                jax.block_until_ready(result)
            return result


@contextlib.contextmanager
def in_memory(name: str, phase: str, arguments: Any, added: int = 0) -> Iterator[None]:
    """A block in which a program takes memory, and whose lack of it is told in one line.

    Args:
      added: bytes that a call adds to what is there; 0: not known.

    Raises:
      OutOfMemory: the device has no more.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        largest = sorted(jax.tree.leaves(arguments), key=lambda leaf: -math.prod(leaf.shape) * leaf.dtype.itemsize)
        shapes = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in largest[:3])
        needs = f", which adds {added / 1e9:.2f} GB to what is there" if added else ""
        raise OutOfMemory(
            f"the device has no memory left for the program {name!r} of the phase {phase}{needs}; its largest arrays: "
            f"{shapes}; {SMALLER[Phase(phase)]} or a smaller model make it smaller"
        ) from error


class Executable(NamedTuple):
    """A program for one shape of its arguments."""

    executable: Any
    added: int  # bytes that a call adds to what is live
    temporaries: int  # of them, those that are no results
    work: Work


class Programs:
    """Programs of one function, by the shapes of its arguments."""

    def __init__(self) -> None:
        self.executables: dict[Any, Executable] = {}
        self.compiling = threading.Lock()


class CompiledFunction:
    """A jitted function that is compiled ahead of time, once for each shape of its arguments, and accounted for.

    What it costs is what one device does with its share of the rows, times their number: what is no row's, an
    optimizer's update above all, every device does.

    Args:
      function: pure, over pytrees of arrays.
      donate: positions of arguments whose buffers a call may reuse.
      networks: positions of arguments that are dicts of networks, whose names operations are counted under.
      phase: what it is for, where its own scopes don't say.
      iterations: from its results, i32[] of each loop whose length only the run knows.
      account: told of every call; by default one that nobody reads.
    """

    def __init__(
        self,
        devices: Devices,
        function: Callable[..., Any],
        donate: tuple[int, ...] = (),
        *,
        networks: tuple[int, ...] = (),
        phase: Phase,
        iterations: Sequence[Callable[[Any], Array]] = (),
        account: Account | None = None,
    ):
        self.devices, self.name = devices, function.__name__.strip("_")
        self.networks, self.phase, self.iterations = networks, phase, iterations
        self.account = account or Account()
        self._jitted = jax.jit(function, donate_argnums=donate)
        self._programs = devices.programs(function, phase, donate, networks)
        self._known: dict[Any, Executable] = {}  # to the account

    @property
    def compilations(self) -> int:
        """Number of programs so far."""
        return len(self._known)

    def prepare(self, *arguments: Any) -> Executable:
        """The program for arguments of such shapes, compiled if it was not yet."""
        bucket = self._bucket(arguments)
        if bucket not in self._known:
            with self.account.during(Activity.COMPILING):
                self._compile_once(bucket, arguments)
        return self._known[bucket]

    def prepare_aside(self, *arguments: Any) -> Executable:
        """The same, from a thread that has no account: whoever needs the program meanwhile waits for it."""
        bucket = self._bucket(arguments)
        self._compile_once(bucket, arguments)
        return self._known[bucket]

    def _bucket(self, arguments: Sequence[Any]) -> Any:
        """The structure of all, and the shapes of all but the networks, which keep theirs."""
        others = [argument for place, argument in enumerate(arguments) if place not in self.networks]
        shapes = ((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(others))
        return jax.tree.structure(arguments), *shapes

    def _compile_once(self, bucket: Any, arguments: Sequence[Any]) -> None:
        with self._programs.compiling:
            if bucket not in self._programs.executables:
                self._programs.executables[bucket] = self._compile(arguments)
            if bucket not in self._known:
                program = self._known[bucket] = self._programs.executables[bucket]
                self.account.compiled(self.name, program.work, program.temporaries)

    def __call__(self, *arguments: Any) -> Any:
        program = self.prepare(*arguments)
        with in_memory(self.name, self.phase, arguments, program.added):
            result = self.devices.run(program.executable, arguments, program.added)
        self.account.ran(program.work, [times(result) for times in self.iterations])
        return result

    def _compile(self, arguments: Sequence[Any]) -> Executable:
        devices = len(self.devices.devices)
        if devices == 1:
            traced = share = self._jitted.trace(*arguments)
        else:
            share = self._jitted.trace(*jax.tree.map(share_of, arguments))
            with jax.set_mesh(self.devices.mesh):
                traced = self._jitted.trace(*arguments)
        one = count(share.jaxpr, networks_of(arguments, self.networks), self.phase, loops=len(self.iterations))
        work = one.times(devices)
        with in_memory(self.name, self.phase, arguments):
            executable = patiently(traced.lower().compile)
        memory: Any = executable.memory_analysis()
        added = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        return Executable(executable, added, memory.temp_size_in_bytes, work)


def share_of(x: Any) -> Any:
    """The shape of one device's part of an argument."""
    sharding = getattr(x, "sharding", None)
    return jax.ShapeDtypeStruct(sharding.shard_shape(x.shape), x.dtype) if sharding else x
