"""Keys of numbers of any size, the same as JAX's below 2^32."""

import jax
import numpy as np
import pytest

from rlbench.randomness import fold_in, key_of, words

EDGE = 1 << 32


def data(key) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@pytest.mark.parametrize("seed", [0, 5, EDGE - 1])
def test_small_seeds_are_those_of_jax(seed):
    assert data(key_of(seed)) == data(jax.random.key(seed))


def test_every_bit_of_a_seed_counts():
    seeds = [0, 1, EDGE, EDGE + 1, 2 * EDGE, EDGE**2, EDGE**2 + EDGE]
    assert len({data(key_of(seed)) for seed in seeds}) == len(seeds)


def test_numbers_on_both_sides_of_a_words_end_differ():
    """From 2^32 - 2 to 2^32 + 1, and as many from 0: below 2^32 as JAX folds them in."""
    key = jax.random.key(7)
    numbers = np.concatenate([words(EDGE - 2 + np.arange(4)), words(np.arange(4))])
    folded = [data(fold_in(key, number)) for number in numbers]
    assert len(set(folded)) == 8
    wanted = [data(jax.random.fold_in(key, np.uint32(number))) for number in (EDGE - 2, EDGE - 1, 0, 1, 2, 3)]
    assert [*folded[:2], *folded[4:]] == wanted


def test_words_are_low_and_high():
    assert words(3 * EDGE - 1 + np.arange(2)).tolist() == [[EDGE - 1, 2], [0, 3]]
