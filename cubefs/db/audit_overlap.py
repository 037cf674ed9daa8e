"""Finds extents of one body that overlap in some view: a sweep over the file, as an SQL aggregate function.

Must never: need more memory than the versions that meet at one file offset.

Versions of extents are rectangles (file range × range of views) that must not meet. Comparing all pairs that
meet in the file alone grows with the square of the number of snapshots; here each costs a binary search.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from typing import Any, NamedTuple

import apsw


class _Version(NamedTuple):
    lo: int
    hi: int
    start: int
    stop: int


class FirstOverlap:
    """The aggregate `first_overlap(file_offset, length, lo, hi)`; the rows must come in order of file_offset.

    The result is NULL, or a JSON array: file offsets of two extents that overlap, and the views [lo, hi) that
    see both.
    """

    __slots__ = ("_active", "_file_offset", "_found")

    def __init__(self) -> None:
        self._active: list[_Version] = []  # reach beyond the present offset; disjoint in views, sorted
        self._file_offset = -1
        self._found: list[int] | None = None

    def step(self, *version: Any) -> None:
        """Take one version."""
        file_offset, length, lo, hi = version
        if self._found is not None:
            return
        if file_offset != self._file_offset:
            self._file_offset = file_offset
            self._active = [version for version in self._active if version.stop > file_offset]
        place = bisect_left(self._active, (lo,))
        for other in self._active[max(place - 1, 0) : place + 1]:
            if other.lo < hi and lo < other.hi:
                self._found = [other.start, file_offset, max(lo, other.lo), min(hi, other.hi)]
                return
        self._active.insert(place, _Version(lo, hi, file_offset, file_offset + length))

    def final(self) -> str | None:
        """Return the result."""
        return None if self._found is None else json.dumps(self._found)


def register(connection: apsw.Connection) -> None:
    """Make the aggregate known to `connection`."""
    connection.create_aggregate_function("first_overlap", FirstOverlap, 4)
