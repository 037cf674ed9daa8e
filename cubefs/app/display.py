"""How things look on a terminal: sizes, durations, tables, progress lines.

Must never: show a name or a message that `visible` has not made safe.
"""

from __future__ import annotations

import base64
import datetime
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

from cubefs.model import KIB
from cubefs.visible import one_line, safe

CLEAR_LINE = "\r\x1b[K"
PROGRESS_INTERVAL_S = 0.1  # often enough to look alive, rarely enough to cost nothing
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def json_name(name: bytes) -> dict[str, str]:
    """Return a name for JSON output: `name`, and `name_b64` with its exact bytes where it is not UTF-8."""
    try:
        return {"name": name.decode("utf-8")}
    except UnicodeDecodeError:
        return {"name": safe(name), "name_b64": base64.b64encode(name).decode("ascii")}


def format_bytes(size_bytes: int) -> str:
    """Return a size with a binary unit and three significant digits."""
    if size_bytes < KIB:
        return f"{size_bytes} bytes" if size_bytes != 1 else "1 byte"
    power = 1
    while size_bytes >= (KIB - 0.5) * KIB**power and power < len(_UNITS):
        power += 1
    value, unit = size_bytes / KIB**power, _UNITS[power - 1]
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.{1 if value >= 10 else 2}f} {unit}"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for unit_s, unit, smaller_s, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit_s:
            return f"{whole // unit_s} {unit} {whole % unit_s // smaller_s} {smaller}"
    return f"{whole} s"


def format_time(time_ns: int) -> str:
    """Return a point in time, UTC, to the second (ISO 8601)."""
    moment = datetime.datetime.fromtimestamp(time_ns // 10**9, tz=datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def aligned(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Return `label  value` lines with the values in one column."""
    pairs = list(rows)
    width = max((len(label) for label, _ in pairs), default=0)
    return [f"{label:<{width}}  {value}".rstrip() for label, value in pairs]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a left-aligned table, the header in capitals."""
    lines = [[cell.upper() for cell in header], *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]


def say(message: str) -> None:
    """Print a notice for the person at the terminal: one line on stderr."""
    print(f"cubefs: {one_line(message)}", file=sys.stderr, flush=True)


class ProgressLine:
    """One line on a terminal that is rewritten in place; writes nothing where there is no terminal."""

    def __init__(self, stream: TextIO | None = None) -> None:
        """Write to `stream`, by default stderr."""
        self._stream = stream or sys.stderr
        self._enabled = self._stream.isatty()
        self._shown = False
        self._next_s = 0.0

    def show(self, text: str) -> None:
        """Replace the line, unless it was replaced a moment ago."""
        now_s = time.monotonic()
        if self._enabled and now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_INTERVAL_S
            self._shown = True
            print(f"{CLEAR_LINE}{one_line(text)}", end="", file=self._stream, flush=True)

    def clear(self) -> None:
        """Remove the line, so that the next output starts on a clean one."""
        if self._shown:
            self._shown = False
            print(CLEAR_LINE, end="", file=self._stream, flush=True)
