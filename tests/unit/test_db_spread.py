"""The column `spread` keeps SQLite's session hash from meeting in a few buckets.

The hash is that of SQLite's sqlite3session.c: each integer of the key is mixed in as its type and two halves.
"""

from __future__ import annotations

from collections import Counter

import pytest

from cubefs.db.schema import spread
from cubefs.model import MIB

ROWS = 20_000
BUCKETS = 32_768  # what the session's table has grown to by then
INTEGER = 1  # SQLITE_INTEGER


def append(hashed: int, value: int) -> int:
    """Mix 32 bits in (HASH_APPEND)."""
    return (hashed << 3 ^ hashed ^ value) & 0xFFFFFFFF


def bucket(*key: int) -> int:
    """Return the bucket of a key of integers."""
    hashed = 0
    for value in key:
        hashed = append(hashed, INTEGER)
        hashed = append(hashed, value & 0xFFFFFFFF)
        hashed = append(hashed, value >> 32)
    return hashed % BUCKETS


def longest_chain(keys: list[tuple[int, ...]]) -> int:
    """Return how many rows share the fullest bucket."""
    return max(Counter(bucket(*key) for key in keys).values())


@pytest.mark.parametrize("stride", [1, 512, 4096, 65536, MIB, 8 * MIB])
def test_chains_stay_short_at_any_alignment(stride: int) -> None:
    offsets = [number * stride for number in range(ROWS)]
    assert longest_chain([(7, offset, spread(offset)) for offset in offsets]) <= 24
    history = [(7, 3, offset, 4, spread(offset)) for offset in offsets]
    assert longest_chain(history) <= 24


def test_without_it_they_do_not() -> None:
    assert longest_chain([(7, number * MIB) for number in range(ROWS)]) > 500
