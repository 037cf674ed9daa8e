"""The progress bar: one line on a terminal, rewritten in place.

Must never: write anything where stderr is no terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

# (phase, steps done, steps in all; 0 when that is not known)
Progress = Callable[[str, int, int], None]

BAR_CELLS = 30
INTERVAL_S = 0.1  # often enough to look alive, rarely enough to cost nothing
_CLEAR_LINE = "\r\x1b[K"


def silent(phase: str, done: int, total: int) -> None:
    """Show nothing."""


class ProgressBar:
    """Shows phase and percentage; a context manager that cleans up its line."""

    def __init__(self, stream: TextIO | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `stream`, by default stderr."""
        self._stream = stream or sys.stderr
        self._enabled = self._stream.isatty()
        self._clock = clock
        self._next_s = 0.0
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show where the audit is, unless that was done a moment ago."""
        now_s = self._clock()
        if not self._enabled or (phase == self._phase and now_s < self._next_s):
            return
        self._phase = phase
        self._next_s = now_s + INTERVAL_S
        print(_CLEAR_LINE + render(phase, done, total), end="", file=self._stream, flush=True)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._phase:
            print(_CLEAR_LINE, end="", file=self._stream, flush=True)
            self._phase = ""


def render(phase: str, done: int, total: int) -> str:
    """Return the line for a phase; without a total, only how far it got."""
    if total <= 0:
        return f"{phase}: {done:,}"
    fraction = min(max(done / total, 0.0), 1.0)
    filled = int(BAR_CELLS * fraction)
    return f"{phase} [{'#' * filled}{'.' * (BAR_CELLS - filled)}] {int(100 * fraction)} %"
