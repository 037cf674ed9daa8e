"""File contents for tests: repeatable, with repeats that deduplication must find."""

from __future__ import annotations

import random
from functools import cache

MIB = 1024 * 1024
POOL_BYTES = 12 * MIB


@cache
def _pool(kind: int) -> bytes:
    if kind == 0:
        return bytes(POOL_BYTES)  # zeros that are written are data, not a hole
    if kind == 1:
        line = b"".join(b"line %06d of a text that compresses well\n" % number for number in range(1000))
        return (line * (POOL_BYTES // len(line) + 1))[:POOL_BYTES]
    return random.Random(kind).randbytes(POOL_BYTES)


KINDS = 4  # zeros, text, and two kinds of noise


def content(kind: int, size: int, start: int = 0) -> bytes:
    """Return `size` bytes of the given kind; the same arguments give the same bytes, in every run."""
    return _pool(kind)[start : start + size]
