"""What an examination of a store found: a result for each check, and what follows from all of them.

Must never: ask the store anything, or decide how a report looks on a terminal.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Figure = int | float | str | bool | None

# what we recommend for `-o settle`: nobody needs finer steps, the delays vary more than that
SETTLE_CHOICES_S = (1, 2, 3, 5, 10, 15, 20, 30, 60)


class Verdict(enum.Enum):
    """How bad a result is. The value is what JSON says."""

    OK = "ok"
    WARNING = "warning"  # worth knowing; cubefs can work with it
    BAD = "bad"  # a promise that cubefs relies on is broken


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found."""

    name: str  # stable, for programs
    verdict: Verdict
    sentence: str  # for a person; for BAD it says which promise is broken
    figures: Mapping[str, Figure] = field(default_factory=dict)  # names end in their unit
    read_delay_s: float = 0.0  # how late what was put could be read: what a settle delay must outlast


@dataclass(frozen=True, slots=True)
class Leftover:
    """Test objects that could not be removed."""

    count: int
    where: str  # the URL of the store, and the prefix
    why: str  # one line


@dataclass(frozen=True, slots=True)
class Report:
    """The results of an examination, in the order in which a person should read them."""

    url: str
    results: tuple[Result, ...]
    seconds: float
    call_count: int  # of store calls, each at least one request; repetitions not counted
    retry_count: int
    last_retry: str  # the error that the last repetition was for, "" without any
    leftover: Leftover | None

    @property
    def broken(self) -> tuple[Result, ...]:
        """The results because of which the store cannot be used."""
        return tuple(result for result in self.results if result.verdict is Verdict.BAD)

    @property
    def is_suitable(self) -> bool:
        """Whether cubefs can be used with this store."""
        return not self.broken

    @property
    def settle_s(self) -> int:
        """The value of `-o settle` that the reads seen need, 0 for none (or for no value that helps)."""
        worst_s = max((result.read_delay_s for result in self.results), default=0.0)
        if not worst_s:
            return 0
        return next((choice for choice in SETTLE_CHOICES_S if choice > worst_s), 0)

    def verdict(self) -> str:
        """Return the conclusion: one line for a person."""
        if self.broken:
            more_count = len(self.broken) - 1
            more = f" (and {more_count} more)" if more_count else ""
            return f"NOT suitable: {self.broken[0].sentence}{more}"
        return f"suitable, with -o settle={self.settle_s}s" if self.settle_s else "suitable"

    def to_json(self) -> dict[str, Any]:
        """Return the report as values that `json.dumps` takes. docs/COMMANDS.md describes its members."""
        return {
            "url": self.url,
            "suitable": self.is_suitable,
            "verdict": self.verdict(),
            "settle_s": self.settle_s,
            "checks": [
                {
                    "name": result.name,
                    "verdict": result.verdict.value,
                    "sentence": result.sentence,
                    "figures": {name: _rounded(value) for name, value in result.figures.items()},
                }
                for result in self.results
            ],
            "calls": self.call_count,
            "retries": self.retry_count,
            "last_retry": self.last_retry,
            "left_objects": self.leftover.count if self.leftover else 0,
            "left_where": self.leftover.where if self.leftover else "",
            "left_why": self.leftover.why if self.leftover else "",
            "seconds": _rounded(self.seconds),
        }


def _rounded(value: Figure) -> Figure:
    return round(value, 6) if isinstance(value, float) else value
