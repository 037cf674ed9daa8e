"""Counts what happens between us and the store, for `cubefs status`.

Must never: decide anything; nobody reads a counter but people and tests.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Meter:
    """Named counters, for all threads."""

    def __init__(self) -> None:
        """Begin at zero."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Count `count` more of `name` (a unit stands at the end of a name that needs one: `sent_bytes`)."""
        with self._lock:
            self._counts[name] += count

    def statistics(self) -> Mapping[str, int]:
        """Return all counters that have ever been counted, sorted by name."""
        with self._lock:
            return dict(sorted(self._counts.items()))
