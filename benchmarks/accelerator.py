"""A card, and all that rlbench does with it, in a run of under ten minutes: Markdown for docs/results/accelerator.md.

The step benchmark against the plain loop; sampling and training of every size of model against the card's limits; TRL
on the same card, where torch finds one; the demo's start with a cold and a warm cache.

    python -m benchmarks.accelerator [--small]

--small is what the tests run where there is no card: every part that rlbench itself has, at small shapes.
"""

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import peers, step
from benchmarks.side import Side
from rlbench.accounting.account import attended
from rlbench.accounting.peaks import peak_of
from rlbench.acting.slots import Sampling, decode, idle
from rlbench.devices import Devices, keep_freed_memory
from rlbench.learning.learner import Learner, UpdateConfig
from rlbench.models.prefix import Widths
from rlbench.models.transformer import transformer
from rlbench.plugins import build
from rlbench.types import Algorithm, Model, Rollouts

# Bytes a second of a device's memory, by its kind: NVIDIA's data sheets, Google Cloud's pages of TPUs.
BANDWIDTH = (
    ("GH200", 4.0e12),
    ("H200", 4.8e12),
    ("H100 PCIe", 2.0e12),
    ("H100 NVL", 3.9e12),
    ("H100", 3.35e12),
    ("A100", 2.0e12),
    ("B200", 8.0e12),
    ("L40S", 0.864e12),
    ("L4", 0.3e12),
    ("T4", 0.32e12),
    ("TPU v6", 1.64e12),
    ("TPU v5p", 2.76e12),
    ("TPU v5", 0.819e12),
    ("TPU v4", 1.2e12),
)
CHUNK = 16  # decoding steps a call
GRPO = {"group_size": 8, "clip": 0.2, "kl_coef": 0.0, "advantage_eps": 1e-6, "loss_aggregation": "sequences"}


class Letters(NamedTuple):
    """A tokenizer without text, of any size."""

    vocabulary: int
    emits: np.ndarray


class Size(NamedTuple):
    """A model, and what it is timed on."""

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    vocabulary: int
    rows: int  # that sample
    context: int  # tokens that they have read
    groups: int  # of eight rows, that are trained on
    length: int  # of these rows


SIZES = (
    Size("micro, 0.9 M", 4, 128, 4, 4, 384, 98, 512, 64, 64, 64),
    Size("mini, 5 M", 6, 256, 8, 8, 704, 98, 512, 64, 64, 64),
    Size("small, 26 M", 8, 512, 8, 8, 1408, 98, 256, 256, 32, 256),
    Size("large, 100 M", 14, 768, 12, 12, 2048, 98, 256, 512, 16, 512),
    Size("Llama shape, 135 M", 30, 576, 9, 3, 1536, 49152, 256, 512, 16, 512),
)
SHORT = ["warm_start.steps=2", "evaluation.problems=8", "batch.rollouts=16"]  # of the demo's start
SMALL = (Size("micro, 0.9 M", 4, 128, 4, 4, 384, 98, 8, 16, 1, 32),)


def model_of(size: Size, dtype: str, attention: Any) -> Model:
    emits = np.arange(size.vocabulary) > 1  # a completion goes on for as long as it is timed
    return transformer(
        Letters(size.vocabulary, emits),
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        kv_heads=size.kv_heads,
        hidden=size.hidden,
        rope_base=10000.0,
        temperature=1.0,
        param_dtype=dtype,
        compute_dtype=dtype,
        attention=attention,
        chunk_tokens=1 << 16,
    )


def median_of(function: Callable[[], Any], repeats: int) -> float:
    """Seconds of a call, the median of several after a first one."""
    seconds = []
    for _ in range(1 + repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[1:]))


def bandwidth_of(device: jax.Device) -> tuple[float, str]:
    """Bytes a second of a device's memory, and where that is from."""
    for name, bandwidth in BANDWIDTH:
        if name in device.device_kind:
            return bandwidth, "table"
    x = jnp.ones(1 << 26)
    seconds = median_of(lambda: double(x), 5)
    return 2 * x.nbytes / seconds, "measured"


@jax.jit
def double(x: jax.Array) -> jax.Array:
    return 2 * x


def sampling(size: Size, model: Model, params: Any, repeats: int) -> tuple[float, int]:
    """Seconds of a decoding step, and the kernels that it starts."""

    @jax.jit
    def begun() -> Any:
        slots = idle(model, size.rows, size.context + (2 + repeats) * CHUNK)
        there, left = (jnp.full(size.rows, number, jnp.int32) for number in (size.context, 10**6))
        return slots._replace(cache=slots.cache._replace(length=there), left=left)

    slots = begun()

    def chunk(params: Any, slots: Any, key: Any) -> Any:
        return decode(model, params, slots, key, Sampling(), CHUNK)

    program = jax.jit(chunk, donate_argnums=1).lower(params, slots, jax.random.key(0)).compile()

    def more() -> Any:
        nonlocal slots
        slots, sampled = program(params, slots, jax.random.key(0))
        return sampled

    return median_of(more, repeats) / CHUNK, kernels(program.as_text())


def kernels(program: str) -> int:
    """Kernels of the largest loop's body, which is a decoding step."""
    bodies = re.split(r"\n(?=%|ENTRY)", program)
    named = {match[1]: body for body in bodies if (match := re.match(r"%([\w.\-]+)", body))}
    loops = re.findall(r"\bwhile\(.*?body=%([\w.\-]+)", program)
    starts = re.compile(r" (?:fusion|custom-call|dot|convolution|sort|scatter|copy|while)\(")
    return max((len(starts.findall(named.get(name, ""))) for name in loops), default=0)


def training(size: Size, model: Model, params: Any, repeats: int) -> tuple[float, float]:
    """Seconds of a learner step of one update, and the operations that its matrix products ask for."""
    algorithm = build({"_target_": "rlbench.algos.grpo.grpo"} | GRPO, "algo", model, kind=Algorithm)
    prompt = size.length // 4
    widths = Widths(prompt, size.length - prompt)
    devices = Devices(jax.devices()[:1])
    config = UpdateConfig(1, 1, 1 << 15 if devices.devices[0].platform != "cpu" else 1280)
    learner = Learner(algorithm, optax.adamw(1e-6), config, devices, seed=0, donate=True, widths=widths)
    random, rows = np.random.default_rng(0), size.groups * GRPO["group_size"]
    tokens = random.integers(2, size.vocabulary, (rows, size.length)).astype(np.int32)
    tokens = tokens.reshape(size.groups, -1, size.length)
    tokens[:, :, :prompt] = tokens[:, :1, :prompt]
    mask = np.broadcast_to(np.arange(size.length) >= prompt, (rows, size.length))
    reward = np.where(np.arange(size.length) == size.length - 1, random.random((rows, 1)), 0).astype(np.float32)
    group = np.repeat(np.arange(size.groups), GRPO["group_size"]).astype(np.int32)
    logp = np.where(mask, -np.log(size.vocabulary), 0).astype(np.float32)
    version = np.zeros((rows, size.length), np.int32)
    rollouts = Rollouts(tokens.reshape(rows, -1), mask.copy(), logp, reward, group, version)
    batch = devices.shard((rollouts, np.full(size.groups, prompt, np.int32)))
    state = learner.init(jax.random.key(0), params, None)

    def update() -> None:
        nonlocal state
        state, _, _ = learner.step(state, *batch)

    seconds = median_of(update, repeats)
    sizes = model.size(params)
    assert sizes
    after = np.full(rows, size.length - prompt - 1)
    read, seen = after.sum(), attended(np.full(size.groups, prompt)).sum() + attended(after, prompt).sum()
    forward = 2 * sizes.body * (size.groups * prompt + read) + 4 * sizes.attention * seen + 2 * sizes.head * read
    return seconds, 3.0 * forward  # the way back costs twice the way there


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n## {title}\n")
    for cells in (head, ["---:" if index else "---" for index in range(len(head))], *rows):
        print(f"| {' | '.join(cells)} |")
    sys.stdout.flush()


def steps_table(steps: int) -> None:
    """The step benchmark."""
    times = step.compare(steps)
    parts = [[f"{1e3 * x:.2f}" for x in (*row, row.sum())] for row in np.median(times, axis=0)]
    ratio = np.median(times[:, 0].sum(axis=1) / times[:, 1].sum(axis=1))
    rows = [["rlbench", *parts[0]], ["plain loop", *parts[1]], ["ratio", "", "", f"{ratio:.2f}"]]
    table("A GRPO step of 512 rollouts, milliseconds", ["", "acting", "learning", "step"], rows)


def models_table(sizes: Sequence[Size], repeats: int) -> None:
    """Sampling and training."""
    device = jax.devices()[0]
    dtype = "float32" if device.platform == "cpu" else "bfloat16"
    attention = "cudnn" if device.platform == "gpu" else "xla"
    peak, (bandwidth, source) = peak_of([device], dtype).flops_per_second, bandwidth_of(device)
    rows = []
    for size in sizes:
        model = model_of(size, dtype, attention)
        params = model.init(jax.random.key(0))
        weights = sum(x.nbytes for x in jax.tree.leaves(params))
        seconds, started = sampling(size, model, params, repeats)
        head = size.width // size.heads
        cache = 2 * size.rows * size.context * size.layers * size.kv_heads * head * jnp.dtype(dtype).itemsize
        learning, operations = training(size, model, params, repeats)
        memory = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
        rows.append(
            [
                size.name,
                f"{size.rows} x {size.context}",
                f"{size.rows / seconds:,.0f}",
                f"{1e6 * seconds:.0f}",
                f"{started}",
                f"{(weights + cache) / bandwidth / seconds:.0%}",
                f"{size.groups * GRPO['group_size']} x {size.length}",
                f"{1e3 * learning:.1f}",
                f"{operations / peak / learning:.0%}",
                f"{memory / 2**30:.1f}" if memory else "",
            ]
        )
    head = ["model", "rows x context", "tokens/s sampled", "µs a decoding step", "kernels", "of bandwidth"]
    head += ["rows x length", "ms a learner step", "MFU", "peak GiB"]
    table(f"Models in {dtype}: {peak / 1e12:.1f} TFLOP/s, {bandwidth / 1e9:.0f} GB/s ({source})", head, rows)


def trl_table(steps: int) -> None:
    """rlbench against TRL, on the card where torch finds it."""
    if not importlib.util.find_spec("trl"):
        print("\nTRL is not installed, so that nothing is compared with it.")
        return
    rows = []
    for index, work in enumerate(peers.WORKS):
        plan = peers.plan_of(work, "algo.kl_coef=0")
        ours = Side(plan, optax.adamw(peers.RATE))
        with peers.trl_of(index) as theirs, contextlib.closing(plan.verifier):
            times = np.array([(theirs(), sum(ours.step())) for _ in range(peers.WARM_UP + steps)])[peers.WARM_UP :]
        ratio = np.median(times[:, 0] / times[:, 1])
        rows.append([work.name, *(f"{1e3 * x:.1f}" for x in np.median(times, axis=0)), f"{ratio:.1f}"])
    head = ["problems x group x tokens", "TRL, ms a step", "rlbench", "TRL / rlbench"]
    table(f"TRL {metadata.version('trl')}, torch {metadata.version('torch')}", head, rows)


def start_table(words: Sequence[str]) -> None:
    """Seconds to the end of the demo's first learner step, with nothing compiled before, and with all of it."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("rlbench")), "experiment=demo", "algo=grpo", "steps=1"]
        command += ["tracker=none", f"cache={folder}/cache", *words]
        for name in ("cold", "warm"):
            began = time.perf_counter()
            subprocess.run([*command, f"hydra.run.dir={folder}/{name}"], check=True, stdout=subprocess.DEVNULL)
            rows.append([name, f"{time.perf_counter() - began:.1f}"])
    table("The demo's start, warm start and two evaluations included", ["cache", "seconds"], rows)


PARTS: dict[str, Callable[[bool], None]] = {
    "steps": lambda small: steps_table(2 if small else 30),
    "models": lambda small: models_table(SMALL if small else SIZES, 1 if small else 8),
    "trl": lambda small: None if small else trl_table(10),
    "start": lambda small: start_table(SHORT if small else []),
}


def main() -> None:
    """Every part has a process of its own: JAX keeps the memory of a device that it has used."""
    words = sys.argv[1:]
    keep_freed_memory()
    if words[:1] == ["--part"]:
        PARTS[words[1]]("--small" in words)
        return
    own = [sys.executable, "-m", "benchmarks.accelerator", "--part"]
    device = "import jax; print('# Measured on', jax.devices()[0].device_kind)"
    subprocess.run([sys.executable, "-c", device], check=True)
    print(f"\nJAX {jax.__version__}, rlbench {metadata.version('rlbench')}.", flush=True)
    for name in PARTS:
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        subprocess.run([*own, name, *words], check=True, env=environment)


if __name__ == "__main__":
    main()
