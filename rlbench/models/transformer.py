"""A decoder-only transformer: RMSNorm, rotary positions, SwiGLU, grouped-query attention."""

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from pydantic import AfterValidator, Field

from ..plugins import nearest
from ..types import Array, AtLeastOne, ConfigError, Count, Model, Params, Size, Tokenizer, held
from .cache import Cache, positions_of, visible, write

Weights = Literal["float32", "bfloat16"]  # in float16, gradients and an optimizer's mean squares vanish
Arithmetic = Literal["float32", "bfloat16", "float16"]
Temperature = Annotated[
    float, Field(ge=1e-3, allow_inf_nan=False), AfterValidator(held)
]  # below, log-probabilities are float32's rounding


def transformer(
    tokenizer: Tokenizer,
    *,
    layers: Count,
    width: Count,
    heads: Count,
    kv_heads: Count,
    hidden: Count,
    rope_base: AtLeastOne,
    temperature: Temperature,
    param_dtype: Weights,
    compute_dtype: Arithmetic,
    attention: Literal["xla", "cudnn"],
    chunk_tokens: Count,
) -> Model:
    """Decoder-only transformer in the manner of Llama (arXiv:2302.13971), without biases.

    RMSNorm (arXiv:1910.07467) before each block, rotary positions (arXiv:2104.09864), SwiGLU
    (arXiv:2002.05202), grouped-query attention where kv_heads < heads (arXiv:2305.13245).
    Outputs are float32 whatever the compute dtype.

    Args:
      hidden: width of the feed-forward block.
      attention: implementation of full-sequence attention; "cudnn" is the fused kernel of NVIDIA
        GPUs and wants compute_dtype bfloat16 or float16.
      chunk_tokens: tokens that one forward pass may hold at once on a device; larger batches go through in
        chunks.
    """
    own = {"layers": layers, "width": width, "heads": heads, "kv_heads": kv_heads, "hidden": hidden}
    if attention == "cudnn" and compute_dtype == "float32":
        raise ConfigError("attention", attention, "wants model.compute_dtype bfloat16 or float16")

    def build(outputs: int, **sizes: int) -> Model:
        size: dict[str, Any] = own | sizes
        check_sizes(size, known=own)
        network = Network(
            vocabulary=tokenizer.vocabulary,
            outputs=outputs,
            rope_base=rope_base,
            param_dtype=jnp.dtype(param_dtype),
            dtype=jnp.dtype(compute_dtype),
            attention=attention,
            **size,
        )

        def init(key: Array) -> Params:
            return network.init(key, jnp.zeros((1, 1), jnp.int32))["params"]

        def apply(params: Params, tokens: Array) -> Any:
            return network.apply({"params": params}, tokens)

        def branch(params: Params, prompt: Array, length: Array, continuation: Array) -> Any:
            return network.apply({"params": params}, prompt, length, continuation, method=network.branch)

        def extend(params: Params, cache: Cache, tokens: Array, length: Array) -> Any:
            return network.apply({"params": params}, tokens, cache, length, method=network.extend)

        def cache(rows: int, slots: int) -> Cache:
            shape = (rows, network.kv_heads, slots, network.width // network.heads)
            keys, values = (tuple(jnp.zeros(shape, network.dtype) for _ in range(network.layers)) for _ in range(2))
            return Cache(keys, values, jnp.zeros(rows, jnp.int32))

        emits = np.asarray(tokenizer.emits) if outputs == tokenizer.vocabulary else np.ones(outputs, bool)
        limits = temperature, compute_dtype, chunk_tokens
        return Model(init, apply, extend, cache, build, size_of, emits, *limits, branch)

    return build(tokenizer.vocabulary)


def check_sizes(size: dict[str, int], known: Collection[str]) -> None:
    """Sizes that a network cannot have are errors of the config that named them."""
    for name in size:
        if name not in known:
            raise ConfigError(name, size[name], f"no size of a transformer{nearest(name, known)}")
    width, heads, kv_heads = size["width"], size["heads"], size["kv_heads"]
    if width % heads or (width // heads) % 2:
        raise ConfigError("width", width, f"a multiple of 2 * heads = {2 * heads}")
    if heads % kv_heads:
        raise ConfigError("kv_heads", kv_heads, f"a divisor of heads = {heads}")


def size_of(params: Params) -> Size | None:
    """Reads the size of a transformer off its parameters; None of anything else."""
    try:
        blocks = [block for name, block in params.items() if name.startswith("blocks_")]
        body = sum(layer["kernel"].size for block in blocks for layer in block.values() if "kernel" in layer)
        return Size(body, sum(block["out"]["kernel"].shape[0] for block in blocks), params["head"]["kernel"].size)
    except (AttributeError, KeyError, TypeError):
        return None


def graft(params: Params, donor: Params) -> Params:
    """Takes from `donor` every leaf that has the same path and shape in `params`."""
    known = dict(jax.tree_util.tree_leaves_with_path(donor))

    def choose(path: Any, leaf: Array) -> Array:
        other = known.get(path)
        return other if other is not None and other.shape == leaf.shape else leaf

    return jax.tree_util.tree_map_with_path(choose, params)


class Network(nn.Module):
    """tokens i32[B, T] -> f32[B, T, outputs]; with a cache, only at each row's last new token."""

    vocabulary: int
    outputs: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    hidden: int
    rope_base: float
    param_dtype: Any
    dtype: Any
    attention: Literal["xla", "cudnn"]

    def setup(self) -> None:
        kinds = {"param_dtype": self.param_dtype, "dtype": self.dtype}
        # Small, as in GPT-2 and Llama: it is normalised before use, and from 1.0 a learning rate hardly turns it.
        self.embed = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(0.02), **kinds)
        self.blocks = [
            Block(self.width, self.heads, self.kv_heads, self.hidden, 2 * self.layers, **kinds)
            for _ in range(self.layers)
        ]
        self.norm = nn.RMSNorm(**kinds)
        small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        self.head = nn.Dense(self.outputs, use_bias=False, kernel_init=small, **kinds)

    def __call__(self, tokens: Array) -> Array:
        x = self.embed(tokens)
        rotation = self.rope(jnp.arange(tokens.shape[1])[None], tokens.shape[1])
        for block in self.blocks:
            # Rows are padded on the right, so that causality alone hides the padding.
            x, _ = block(x, rotation, lambda *qkv: (self.attend(*qkv), None))
        return self.outputs_of(x)

    def branch(self, prompt: Array, length: Array, continuation: Array) -> tuple[Array, Array]:
        """Outputs f32[N, outputs] at the end of prompts, and f32[N, G, S, outputs] at continuations of them."""
        (_, width), (groups, ways, steps) = prompt.shape, continuation.shape
        start = jnp.repeat(length, ways)[:, None]
        behind, ahead = (
            self.rope(positions, width + steps) for positions in (jnp.arange(width)[None], start + jnp.arange(steps))
        )
        seen = jnp.broadcast_to((jnp.arange(width) < start)[:, None], (groups * ways, steps, width))
        mask = jnp.concatenate([seen, jnp.broadcast_to(causal(steps), (groups * ways, steps, steps))], axis=2)

        def read_prompt(*qkv: Array) -> tuple[Array, Any]:
            return self.attend(*qkv), qkv[1:]

        x, y = self.embed(prompt), self.embed(continuation.reshape(groups * ways, steps))
        for block in self.blocks:
            x, past = block(x, behind, read_prompt)

            def read_on(query: Array, *new: Array, past: Sequence[Array] = past) -> tuple[Array, None]:
                before = (jnp.repeat(x, ways, axis=0) for x in past)
                key, value = (jnp.concatenate(parts, axis=1) for parts in zip(before, new, strict=True))
                return self.attend(query, key, value, mask), None

            y, _ = block(y, ahead, read_on)
        x = jnp.take_along_axis(x, (length - 1)[:, None, None], axis=1)[:, 0]
        return self.outputs_of(x), self.outputs_of(y).reshape(groups, ways, steps, -1)

    def extend(self, tokens: Array, cache: Cache, length: Array) -> tuple[Array, Cache]:
        """Appends length[b] of tokens[b, S] to row b.

        Returns outputs f32[B, outputs] at the last of them (meaningless where length[b] is 0), and
        the longer cache.
        """
        positions = positions_of(cache, tokens.shape[1])
        mask = visible(cache, positions)
        rotation = self.rope(positions, mask.shape[2])
        x = self.embed(tokens)
        layers = []
        for block, *past in zip(self.blocks, cache.keys, cache.values, strict=True):

            def attend(query: Array, *new: Array, past: Sequence[Array] = past) -> tuple[Array, Any]:
                keys, values = (write(old, part, cache.length) for old, part in zip(past, new, strict=True))
                return attention(query, keys, values, mask, "bktd"), (keys, values)

            x, layer = block(x, rotation, attend)
            layers.append(layer)
        keys, values = zip(*layers, strict=True)
        x = jnp.take_along_axis(x, jnp.maximum(length - 1, 0)[:, None, None], axis=1)[:, 0]
        return self.outputs_of(x), Cache(keys, values, cache.length + length)

    def attend(self, query: Array, key: Array, value: Array, mask: Array | None = None) -> Array:
        """Attention of query[B, S, heads, head] over key and value [B, T, kv_heads, head]; without a mask, causal."""
        if self.attention == "xla":
            mask = causal(query.shape[1]) if mask is None else mask
            return attention(query, key, value, mask, "btkd")
        length, odd = query.shape[1], [x.shape[1] % 2 for x in (query, key)]  # the kernel trains on even lengths
        query, key, value = (
            jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0)))
            for x, extra in zip((query, key, value), (*odd, odd[1]), strict=True)
        )
        which: dict[str, Any] = {"is_causal": True}
        if mask is not None:
            which = {"mask": jnp.pad(mask, ((0, 0), (0, odd[0]), (0, odd[1])))[:, None]}
        return jax.nn.dot_product_attention(query, key, value, implementation=self.attention, **which)[:, :length]

    def rope(self, positions: Array, below: int) -> tuple[Array, Array]:
        """Cosines and sines f32[..., 1, head / 2] of positions i32[...] < below, looked up: all layers use the same."""
        return jax.tree.map(lambda x: x[positions], rope(jnp.arange(below), self.width // self.heads, self.rope_base))

    def outputs_of(self, x: Array) -> Array:
        return self.head(self.norm(x)).astype(jnp.float32)


AttendFn = Callable[..., tuple[Array, Any]]  # query, key, value [B, S, heads, head]: what was read, what to keep


class Block(nn.Module):
    """Attention and feed-forward, each normalised before and added after."""

    width: int
    heads: int
    kv_heads: int
    hidden: int
    branches: int  # residual branches of the whole network, which the output layers are scaled by
    param_dtype: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, rotation: Any, attend: AttendFn) -> Any:  # x: [B, S, width]
        batch, length, _ = x.shape
        head = self.width // self.heads
        kinds = {"param_dtype": self.param_dtype, "dtype": self.dtype}
        inward = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        outward = nn.initializers.variance_scaling(1.0 / self.branches, "fan_in", "normal")

        def project(features: int, name: str, init: Any = inward):
            return nn.Dense(features, use_bias=False, kernel_init=init, name=name, **kinds)

        y = nn.RMSNorm(name="attention_norm", **kinds)(x)
        qkv = project(self.width + 2 * self.kv_heads * head, "qkv")(y)
        qkv = qkv.reshape(batch, length, self.heads + 2 * self.kv_heads, head)
        query, key, value = jnp.split(qkv, [self.heads, self.heads + self.kv_heads], axis=2)
        query, key = rotate(query, rotation), rotate(key, rotation)
        y, kept = attend(query, key, value)
        x = x + project(self.width, "out", outward)(y.reshape(batch, length, self.width))

        y = nn.RMSNorm(name="feedforward_norm", **kinds)(x)
        gate, up = jnp.split(project(2 * self.hidden, "gate_up")(y), 2, axis=-1)
        return x + project(self.width, "down", outward)(nn.silu(gate) * up), kept


def causal(length: int) -> Array:
    """bool[1, S, S]: every token sees those before it, and itself."""
    return jnp.tril(jnp.ones((1, length, length), bool))


def attention(query: Array, keys: Array, values: Array, mask: Array, axes: Literal["btkd", "bktd"]) -> Array:
    """Attention of query[B, S, heads, head], softmax in float32.

    Weights are divided by their sum after the values are summed up, as in FlashAttention (arXiv:2205.14135): an
    operation for each number of the result, not for each pair of tokens, on the way back as well.

    Args:
      mask: bool[B or 1, S, T], True where a query sees a key; each sees one at least.
      axes: of keys and values, [B, T, kv_heads, head] or [B, kv_heads, T, head]. To transpose them takes time.
    """
    batch, length, heads, head = query.shape
    kv_heads = keys.shape[axes.index("k")]
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, head)
    score = jnp.einsum(f"bskgd,{axes}->bkgst", query, keys, preferred_element_type=jnp.float32)
    score = jnp.where(mask[:, None, None], score * head**-0.5, -jnp.inf)
    weights = jnp.exp(score - jax.lax.stop_gradient(score.max(axis=-1, keepdims=True)))
    read = jnp.einsum(f"bkgst,{axes}->bskgd", weights.astype(values.dtype), values, preferred_element_type=jnp.float32)
    read /= weights.sum(axis=-1).transpose(0, 3, 1, 2)[..., None]
    return read.astype(values.dtype).reshape(batch, length, heads, head)


def rope(positions: Array, head: int, base: float) -> tuple[Array, Array]:
    """Cosines and sines f32[..., 1, head / 2] of rotary positions."""
    frequency = base ** (-jnp.arange(0, head, 2) / head)
    angle = positions[..., None, None] * frequency
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Array, rotation: tuple[Array, Array]) -> Array:
    """Rotates x[B, S, heads, head] by pairs (i, i + head / 2)."""
    cos, sin = rotation
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
