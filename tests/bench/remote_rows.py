"""The rows of the part "remote", and what was measured for each contender at each latency in each round.

Measures nothing itself.
"""

from __future__ import annotations

import enum
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from contrib.demo.scratch import StepError
from tests.bench.link import Traffic
from tests.bench.rows import Subject


class RemoteRow(enum.Enum):
    """One row: its subject and its label."""

    TREE_IN = (Subject.TREE, "rsync in, until stored")
    TREE_OUT = (Subject.TREE, "rsync out, cold")
    FILE_IN = (Subject.FILE, "cp in, until stored")
    FILE_OUT = (Subject.FILE, "cp out, cold")
    MOUNT = (Subject.BOTH, "mount, cache empty")
    IDLE = (Subject.BOTH, "idle for 10 s")
    PEAK = (Subject.BOTH, "peak memory")

    def __init__(self, subject: Subject, label: str) -> None:
        self.subject = subject
        self.label = label


class Column(NamedTuple):
    """A contender at a latency."""

    contender: str
    latency_ms: float

    def __str__(self) -> str:
        """Return both in words."""
        return f"{self.contender} at {self.latency_ms:g} ms"


class RemoteResults:
    """Samples and failures by column and row. A row that failed in any round is a failed row."""

    def __init__(self) -> None:
        self.traffic: dict[tuple[Column, RemoteRow], list[Traffic]] = defaultdict(list)
        self.peaks: dict[Column, list[int]] = defaultdict(list)
        self.failures: dict[tuple[Column, RemoteRow], str] = {}

    def take(self, column: Column, row: RemoteRow, action: Callable[[], Traffic]) -> None:
        """Keep what `action` returns as a sample, or why it failed."""
        try:
            self.traffic[column, row].append(action())
        except (StepError, OSError) as error:
            self.failures[column, row] = str(error)

    def take_peak(self, column: Column, peak_bytes: int) -> None:
        """Keep the highest memory use of a round."""
        self.peaks[column].append(peak_bytes)

    def fail(self, column: Column, rows: Iterable[RemoteRow], *, round_number: int, reason: str) -> None:
        """Mark the rows that this round (counted from 1) did not measure."""
        for row in rows:
            samples = self.peaks[column] if row is RemoteRow.PEAK else self.traffic[column, row]
            if (column, row) not in self.failures and len(samples) < round_number:
                self.failures[column, row] = reason

    def median_s(self, column: Column, row: RemoteRow) -> float | None:
        """Return the median of the seconds; None when the row failed or does not apply."""
        samples = self._valid(column, row)
        return statistics.median(sample.seconds for sample in samples) if samples else None

    def typical(self, column: Column, row: RemoteRow) -> Traffic | None:
        """Return the sample whose time is the (lower) median, so that its numbers belong together."""
        samples = self._valid(column, row)
        return sorted(samples)[(len(samples) - 1) // 2] if samples else None

    def most(self, column: Column, row: RemoteRow) -> Traffic | None:
        """Return the sample with the most requests of all rounds."""
        samples = self._valid(column, row)
        return max(samples, key=lambda sample: sum(sample.requests)) if samples else None

    def requests_per_pack(self, column: Column) -> float | None:
        """Return how many requests each pack took on its way in, the worst round counts; None: not measured."""
        ratios = [
            sample.pack_requests / sample.packs
            for row in (RemoteRow.TREE_IN, RemoteRow.FILE_IN)
            for sample in self._valid(column, row)
            if sample.packs
        ]
        return max(ratios) if ratios else None

    def peak_bytes(self, column: Column) -> int | None:
        """Return the highest memory use of all rounds."""
        return max(self.peaks[column]) if self.peaks.get(column) else None

    def _valid(self, column: Column, row: RemoteRow) -> list[Traffic]:
        return [] if (column, row) in self.failures else self.traffic.get((column, row), [])
