"""Hashes of texts that are the same in every process, unlike Python's own. Splits of problems rest on them."""

import hashlib

BITS = 64  # of a number


def digest_of(text: str, size: int = BITS // 8) -> bytes:
    """The BLAKE2b hash of a text, bytes[size]. A shorter one is another hash, not the start of it."""
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def number_of(text: str) -> int:
    """The hash of a text as a number, from 0 to 2**BITS - 1."""
    return int.from_bytes(digest_of(text))
