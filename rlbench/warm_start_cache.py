"""Warm starts that were made before, by the content of everything that determines them."""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import serialization

from .types import Params
from .warm_start import Cost

log = logging.getLogger(__name__)
DIGEST = hashlib.sha256().digest_size  # bytes at the start of a file: the hash of the others
FEATURES = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")  # of /proc/cpuinfo


def cached(
    folder: Path, content: Any, sources: list[Path], like: Params, make: Callable[[], tuple[Params, Cost]]
) -> tuple[Params, Cost]:
    """The weights that `make` returned for this content before, or returns now.

    A file that is not as it was written is made again.

    Args:
      content: everything in the config that determines them.
      sources: files outside rlbench that do, too. The source of rlbench, versions of the libraries
        and what they run on are added.
      like: a tree of the weights' structure, shapes and dtypes.
    """
    path = folder / f"{fingerprint(content, sources)}.msgpack"
    if path.exists():
        if data := intact(path.read_bytes()):
            kept = serialization.from_bytes({"cost": "", "params": jax.tree.map(blank, like)}, data)
            return kept["params"], Cost(**json.loads(kept["cost"]))
        log.warning("the warm start in %s is damaged: it is made again", path)
    params, spent = make()
    folder.mkdir(parents=True, exist_ok=True)
    data = serialization.to_bytes({"cost": json.dumps(spent._asdict()), "params": jax.device_get(params)})
    replace(path, hashlib.sha256(data).digest() + data)
    return params, spent


def blank(shape: Any) -> Any:
    return jnp.zeros(shape.shape, shape.dtype)


def intact(content: bytes) -> bytes:
    """The part after the hash at the start of a file's content; nothing if it is not what was hashed."""
    digest, data = content[:DIGEST], content[DIGEST:]
    return data if hashlib.sha256(data).digest() == digest else b""


def fingerprint(content: Any, sources: list[Path]) -> str:
    """A hash of the content, of what computes it, and of what it runs on."""
    files = sorted(Path(__file__).parent.rglob("*.py")) + sources
    source = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    whole = json.dumps([content, source, versions, rounding()], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def rounding() -> list[Any]:
    """Everything that decides how a program rounds: devices, the compiler's flags, and the instructions of a CPU."""
    devices = jax.local_devices()
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_DEFAULT_MATMUL_PRECISION")]
    on_cpu = any(device.platform == "cpu" for device in devices)
    return [[device.device_kind for device in devices], flags, processor() if on_cpu else None]


def processor() -> list[str]:
    """The CPU's model and features, and how many threads share a matrix product."""
    try:
        first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    except OSError:  # no Linux
        first = ""
    lines = [line for line in first.splitlines() if line.partition("\t")[0].strip(" :") in FEATURES]
    return [platform.machine(), platform.processor(), str(os.cpu_count()), *lines]


def replace(path: Path, data: bytes) -> None:
    """Writes a file in one move: a reader sees all of it or none."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    os.replace(draft, path)
