"""Prints the demo: one line per step with its seconds, what it found below, and the figures at the end."""

from __future__ import annotations

import contextlib
import sys
import textwrap
import time
from collections.abc import Iterator

WIDTH = 100
INDENT = 6


class Report:
    """Counts and times the steps of one run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._notes: list[str] = []

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Time what happens inside; print its line when it ends, its notes below. Titles are unique."""
        heading = f"{len(self.seconds) + 1:3}  {title} "
        print(heading, end="", flush=True)
        started = time.monotonic()
        verdict = "FAILED"
        try:
            yield
            verdict = ""
        except BaseException as error:
            if not isinstance(error, Exception):
                verdict = "interrupted"
            raise
        finally:
            self.seconds[title] = time.monotonic() - started
            shown = verdict or f"{self.seconds[title]:.1f} s"
            print("." * (WIDTH - len(heading) - len(shown) - 1), shown, flush=True)
            for note in self._notes:
                print(textwrap.fill(note, WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT))
            self._notes.clear()
            sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say something about the step under way."""
        self._notes.append(text)

    def figures(self, rows: list[tuple[str, str]]) -> None:
        """Print names and values in two columns."""
        widest = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{'':{INDENT - 1}}{name:<{widest}}  {value}")


def mb(size_bytes: float) -> str:
    """Return a size in decimal megabytes."""
    return f"{size_bytes / 1e6:,.1f} MB"
