"""Owns the life of a server program as a child process of the tests.

A server program prints one line of JSON when it is ready, stays in the foreground, and ends when its standard
input does: so it never outlives the tests, however those end.
Must never: know what a server serves.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / "build" / "servers" / "venv" / "bin" / "python"  # has OpenStack, see contrib/test-servers
STOP_LIMIT_S = 8.0
LOG_TAIL_BYTES = 4000


class ServerError(RuntimeError):
    """A server of the tests did not start, or ended by itself."""


class ServerProcess:
    """One server program, started in the root of the checkout."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        start_limit_s: float = 60.0,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = {**os.environ, **(environment or {})}
        self._start_limit_s = start_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> dict[str, Any]:
        """Start the program and return what it announced.

        Raises ServerError with the program's own words where it ends or says nothing for too long.
        """
        assert self._process is None, f"{self.name} runs already"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the program
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            return dict(json.loads(self._first_line()))
        except BaseException:
            self._end()
            self._errors.close()
            raise

    def _first_line(self) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + self._start_limit_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ServerError(f"{self.name} is not ready after {self._start_limit_s:.0f} s{self._words()}")
                more = os.read(output, 65536)
                if not more:
                    raise ServerError(f"{self.name} did not start{self._words()}")
                line += more
        return line

    def _words(self) -> str:
        assert self._errors is not None
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - LOG_TAIL_BYTES))
        text = self._errors.read().decode(errors="replace").strip()
        return f":\n{text}" if text else ""

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None and process.stdin is not None and process.stdout is not None
        process.stdin.close()
        # a process that the tests have forked may still hold the other end of its input: then it has to be told
        for force in (process.terminate, process.kill):
            try:
                process.wait(STOP_LIMIT_S)
                break
            except subprocess.TimeoutExpired:
                force()
        process.wait()
        process.stdout.close()

    def stop(self) -> None:
        """End the program and wait for that; does nothing where it is not started.

        Raises ServerError where it had ended by itself, or ends with an error.
        """
        if self._process is None:
            return
        assert self._errors is not None
        process = self._process
        was_running = process.poll() is None
        self._end()
        words = self._words()
        self._errors.close()
        if not was_running or process.returncode not in (0, -signal.SIGTERM):
            how = "ended with an error" if was_running else "ended by itself"
            raise ServerError(f"{self.name} {how} (status {process.returncode}){words}")
