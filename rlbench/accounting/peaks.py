"""The most floating-point operations a second that devices can do: from a table, or measured."""

import re
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

TERA = 1e12

# Dense matrix products of one device, as JAX counts devices: in 16 bits, and in float32 as XLA computes
# it by default (tensor cores in TF32, or bfloat16 passes on a TPU). Half of figures given "with sparsity".
# NVIDIA's data sheets of the named products; Google Cloud's "TPU v2" to "TPU v6e" pages, where a v2 or
# v3 chip is two devices. A name has to stand in the device's kind by itself, and longer ones come first.
PEAKS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250 * TERA, 1125 * TERA),
    ("GH200", 989.4 * TERA, 494.7 * TERA),
    ("H200", 989.4 * TERA, 494.7 * TERA),
    ("H100 PCIe", 756 * TERA, 378 * TERA),
    ("H100 NVL", 835 * TERA, 417.5 * TERA),
    ("H100", 989.4 * TERA, 494.7 * TERA),
    ("A100", 312 * TERA, 156 * TERA),
    ("A10G", 70 * TERA, 35 * TERA),
    ("A10", 125 * TERA, 62.5 * TERA),
    ("L40S", 362 * TERA, 183 * TERA),
    ("L4", 121 * TERA, 60 * TERA),
    ("T4", 65 * TERA, 8.1 * TERA),
    ("V100", 125 * TERA, 15.7 * TERA),
    ("RTX 4090", 165.2 * TERA, 82.6 * TERA),
    ("RTX 3090", 71 * TERA, 35.6 * TERA),
    ("TPU v6 lite", 918 * TERA, 918 * TERA),
    ("TPU v6e", 918 * TERA, 918 * TERA),
    ("TPU v5 lite", 197 * TERA, 197 * TERA),
    ("TPU v5e", 197 * TERA, 197 * TERA),
    ("TPU v5p", 459 * TERA, 459 * TERA),
    ("TPU v5", 459 * TERA, 459 * TERA),
    ("TPU v4", 275 * TERA, 275 * TERA),
    ("TPU v3", 61.5 * TERA, 61.5 * TERA),
    ("TPU v2", 22.5 * TERA, 22.5 * TERA),
)


class Peak(NamedTuple):
    """Of all devices of a run together."""

    flops_per_second: float
    source: str  # "table: ..." or "measured: ..."

    @property
    def measured(self) -> bool:
        return self.source.startswith("measured")


class Impossible(ArithmeticError):
    """More operations a second than the devices can do: something is counted wrongly."""


def peak_of(devices: Sequence[jax.Device], dtype: str) -> Peak:
    """The peak of devices of one kind in a dtype."""
    kind = devices[0].device_kind
    for name, half, single in PEAKS:
        if re.search(rf"\b{name}\b(?! (?:Ti|SUPER|D|Laptop|lite))", kind):
            return Peak((single if dtype == "float32" else half) * len(devices), f"table: {name}, {dtype}")
    return Peak(measured_peak(devices[0], dtype) * groups(devices), f"measured: matrix product on {kind}, {dtype}")


def groups(devices: Sequence[jax.Device]) -> int:
    """Number of the devices that compute at once at full speed: simulated ones share one CPU."""
    return 1 if devices[0].platform == "cpu" else len(devices)


def measured_peak(device: jax.Device, dtype: str, size: int = 1024, repeats: int = 8) -> float:
    """The best of several square matrix products."""
    x = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.matmul).lower(x, x).compile()
    times = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        product(x, x).block_until_ready()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


def reached(flops_per_second: float, peak: Peak) -> str | None:
    """A warning where a measured peak was exceeded.

    Raises:
      Impossible: a tabled one was.
    """
    share = flops_per_second / peak.flops_per_second
    if share <= 1:
        return None
    message = f"{flops_per_second:.3g} FLOP/s is {share:.0%} of the peak ({peak.source})"
    if not peak.measured:
        raise Impossible(message)
    return f"{message}: the machine was busy when it was measured"
