"""The rows of the table, and what was measured for each contender in each round.

Measures nothing itself.
"""

from __future__ import annotations

import enum
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable

from contrib.demo.scratch import StepError


class Unit(enum.Enum):
    """What a row's numbers are."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "µs"
    BYTES = "MB"


class Subject(enum.Enum):
    """What a row is about."""

    TREE = "the small files"
    FILE = "the big file"
    BOTH = "both"


class Row(enum.Enum):
    """One row: its subject, its label, and the unit its numbers (kept in seconds or bytes) are shown in."""

    TREE_IN = (Subject.TREE, "rsync in", Unit.SECONDS)
    TREE_AGAIN = (Subject.TREE, "rsync again, unchanged", Unit.SECONDS)
    TREE_SYNC = (Subject.TREE, "sync: all of it in the store", Unit.SECONDS)
    SNAPSHOT = (Subject.TREE, "mkdir snapshots/NAME", Unit.MILLISECONDS)
    STORED = (Subject.TREE, "bytes stored (du)", Unit.BYTES)
    MOUNT = (Subject.TREE, "mount, cache empty", Unit.SECONDS)
    TREE_OUT = (Subject.TREE, "rsync out, cold", Unit.SECONDS)
    FILE_IN = (Subject.FILE, "cp in", Unit.SECONDS)
    FILE_SYNC = (Subject.FILE, "sync: all of it in the store", Unit.SECONDS)
    FILE_OUT = (Subject.FILE, "cp out, cold", Unit.SECONDS)
    PEAK = (Subject.BOTH, "peak memory", Unit.BYTES)

    def __init__(self, subject: Subject, label: str, unit: Unit) -> None:
        self.subject = subject
        self.label = label
        self.unit = unit


class Results:
    """Samples and failures by contender and row. A row that failed in any round is a failed row."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, Row], list[float]] = defaultdict(list)
        self.failures: dict[tuple[str, Row], str] = {}

    def take(self, contender: str, row: Row, action: Callable[[], float]) -> None:
        """Keep what `action` returns as a sample, or why it failed."""
        try:
            self.samples[contender, row].append(action())
        except (StepError, OSError) as error:
            self.failures[contender, row] = str(error)

    def fail(self, contender: str, rows: Iterable[Row], *, round_number: int, reason: str) -> None:
        """Mark the rows that this round (counted from 1) did not measure."""
        for row in rows:
            if (contender, row) not in self.failures and len(self.samples[contender, row]) < round_number:
                self.failures[contender, row] = reason

    def median(self, contender: str, row: Row) -> float | None:
        """Return the median over the rounds; None when the row failed or does not apply."""
        samples = self.samples.get((contender, row))
        if not samples or (contender, row) in self.failures:
            return None
        return statistics.median(samples)

    def peak(self, contender: str) -> float | None:
        """Return the highest memory use of all rounds."""
        samples = self.samples.get((contender, Row.PEAK))
        return max(samples) if samples else None
