"""Owns the manners of a server program: it says when it is ready, and ends when it is told to or left alone.

Runs in the server's own interpreter. Must never: import anything that is not in the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
from typing import Any

PR_SET_PDEATHSIG = 1  # prctl(2): the signal that the kernel sends when the parent dies
ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send `number` to this process when its parent ends; Linux only, elsewhere nothing."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def announce(**facts: Any) -> None:
    """Say on standard output that the server is ready, and how to reach it."""
    print(json.dumps(facts), flush=True)


class Foreground:
    """Waits for the end: a signal, or end of file on standard input. Nothing runs inside signal handlers."""

    def __init__(self) -> None:
        self._read_fd, write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(write_fd, False)
        for number in (*ENDING, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        self._is_over = False

    def is_over(self, limit_s: float = 0.0) -> bool:
        """Wait until the program shall end, a child has ended or the time is up; return whether it shall end."""
        if self._is_over:
            return True
        ready, _, _ = select.select([self._read_fd, 0], [], [], limit_s)
        if self._read_fd in ready:
            with contextlib.suppress(BlockingIOError):
                self._is_over = bool(ENDING & set(os.read(self._read_fd, 512)))
        if 0 in ready and not os.read(0, 4096):
            self._is_over = True
        return self._is_over


def forget_foreground() -> None:
    """Give a forked child the usual signals again: it ends on SIGTERM, its parent decides about the others."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
