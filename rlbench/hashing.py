"""Hashes of texts that are the same in every process, unlike Python's own. Splits of problems rest on them."""

import hashlib

BITS = 64  # of a number


def digest_of(text: str, size: int = BITS // 8) -> bytes:
    """The BLAKE2b hash of a text, bytes[size]. A shorter one is another hash, not the start of it."""
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def drawn(text: str, *bounds: int) -> list[int]:
    """Numbers from 0 to just below each bound, by the SHAKE128 hash of a text: uniform, but for 2^-64.

    For what has to be the same everywhere and is drawn once: a generator of random numbers takes longer to begin.
    """
    size = 8 + sum(bound.bit_length() + 7 for bound in bounds) // 8
    number = int.from_bytes(hashlib.shake_128(text.encode()).digest(size))
    values = []
    for bound in bounds:
        number, value = divmod(number, bound)
        values.append(value)
    return values


def number_of(text: str) -> int:
    """The hash of a text as a number, from 0 to 2**BITS - 1."""
    return int.from_bytes(digest_of(text))
