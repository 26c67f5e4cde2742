"""Keys of numbers of any size: JAX by itself keeps the lowest 32 bits of an integer."""

import jax
import jax.numpy as jnp
import numpy as np

from .types import Array

WORD = (1 << 32) - 1


def key_of(seed: int) -> Array:
    """The key of a seed, which is not negative. Below 2^32 it is that of jax.random.key."""
    key = jax.random.key(seed & WORD)
    while seed := seed >> 32:
        key = jax.random.fold_in(key, np.uint32(seed & WORD))
    return key


def words(numbers: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 2^63 - 1 as u32[..., 2]: the low word of each, and the high one."""
    numbers = numbers.astype(np.uint64)
    return np.stack([numbers & np.uint64(WORD), numbers >> np.uint64(32)], axis=-1).astype(np.uint32)


def fold_in(key: Array, number: Array) -> Array:
    """A key made of another and of a number in words, u32[2]. Below 2^32 it is that of jax.random.fold_in."""
    low, high = number
    return jax.random.fold_in(jnp.where(high > 0, jax.random.fold_in(key, high), key), low)
