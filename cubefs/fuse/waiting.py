"""Waiting for the kernel's next request without a turn of trio's scheduler, while requests keep coming.

A program that does one call after another sends its next request some microseconds after our answer. pyfuse3 takes
a lock and registers with epoll for each, two passes through the scheduler. Here the task that has just answered
looks for the next request some times, then waits a moment in select(2), and only then as pyfuse3 would.
pyfuse3 looks its event-loop library up as `pyfuse3.trio`, so that `pyfuse3.asyncio` can stand in for it; `install`
uses the same door. Must never: keep other tasks from running for longer than a bounded number of requests.
"""

from __future__ import annotations

import select
from types import TracebackType
from typing import Any

import pyfuse3
import trio

_LOOKS = 30  # some 40 µs: a program that is awake on the other processor answers within that
_MOMENT_S = 100e-6  # longer than a program needs between two calls; other tasks wait this much at most
_SELECT_MAX = 1024  # FD_SETSIZE: select(2) takes no descriptor beyond; poll(2) waits in whole milliseconds
_REQUESTS_IN_A_ROW = 16  # then everybody else has a turn


class _BargingLock:
    """A lock for tasks of one loop: taking it when free does not yield, and releasing it does not hand it over."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._is_taken:
            await self._waiting.park()
        self._is_taken = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_taken = False
        self._waiting.unpark()


class _Lowlevel:
    """trio.lowlevel, with another way to wait for the FUSE descriptor."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)

    async def wait_readable(self, descriptor: int) -> None:
        """Return when a read will not block. Raises trio.ClosedResourceError when the session ends."""
        if descriptor < _SELECT_MAX and self._in_a_row < _REQUESTS_IN_A_ROW:
            self._in_a_row += 1
            if _comes_soon(descriptor):
                return
        self._in_a_row = 0
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            # another task may have taken the request since the descriptor was reported
            if _is_readable(descriptor):
                return


def _comes_soon(descriptor: int) -> bool:
    """Whether a request is there or comes within a moment. Looks before it sleeps: being woken costs more."""
    descriptors = (descriptor,)
    for _ in range(_LOOKS):
        if select.select(descriptors, (), (), 0.0)[0]:
            return True
    return bool(select.select(descriptors, (), (), _MOMENT_S)[0])


def _is_readable(descriptor: int) -> bool:
    if descriptor >= _SELECT_MAX:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select((descriptor,), (), (), 0.0)[0])


class _Trio:
    """trio, as pyfuse3 shall see it."""

    def __init__(self) -> None:
        self.lowlevel = _Lowlevel()
        self.Lock = _BargingLock

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


def install() -> None:
    """Let pyfuse3 wait this way. Before the session's main loop starts."""
    pyfuse3.trio = _Trio()  # type: ignore[attr-defined]
