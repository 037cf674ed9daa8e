"""A pseudo-terminal for tests of prompts: what a person would type, what they would see."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT_S = 20.0


class Terminal:
    """Runs a program with a terminal of its own as controlling terminal, stdin, stdout and stderr."""

    def __init__(self, command: Sequence[str | Path], *, environment: Mapping[str, str]) -> None:
        """Start the program."""
        self._master, slave = pty.openpty()
        self.slave = slave  # kept open: the terminal's settings can be looked at when the program has ended
        self.screen = ""
        self._process = subprocess.Popen(
            # `setsid -c` makes stdin the controlling terminal, which is where prompts go
            ["setsid", "-c", "-w", *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=dict(environment),
        )

    def read_until(self, text: str, *, count: int = 1) -> None:
        """Read the screen until it shows `text` (`count` times)."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while self.screen.count(text) < count:
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, f"waited for {text!r} on: {self.screen!r}"
            if select.select([self._master], [], [], min(left_s, 0.1))[0]:
                self.screen += os.read(self._master, 4096).decode()

    def type(self, text: str) -> None:
        """Type."""
        os.write(self._master, text.encode())

    def wait(self) -> int:
        """Wait for the end, read the rest of the screen, return the exit code."""
        code = self._process.wait(TIMEOUT_S)
        while select.select([self._master], [], [], 0.1)[0]:
            self.screen += os.read(self._master, 4096).decode()
        return code

    def is_echoing(self) -> bool:
        """Return whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def close(self) -> None:
        """End the program if it still runs, and close the terminal."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
        os.close(self.slave)
