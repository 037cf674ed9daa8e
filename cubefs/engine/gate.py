"""The write gate, and whether changes may still be made at all.

"May we still write?" is decided here and nowhere else. Must never: stay shut across a wait for the store.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from cubefs.errors import CubefsError, FencedError, LocalDiskError

log = logging.getLogger(__name__)


class Gate:
    """Shut for the milliseconds of a commit; every operation that changes something passes it first.

    After a failure that makes further acknowledgements unsafe it never opens again: operations get the error,
    reads go on.
    """

    def __init__(self) -> None:
        self.is_shut = False
        self.failure: CubefsError | None = None
        self._opened = trio.Event()
        self._failed = trio.Event()

    def check(self) -> None:
        """Raise the failure, if there was one."""
        if self.failure is not None:
            raise type(self.failure)(str(self.failure))

    async def wait_open(self) -> None:
        """Wait until changes may be made. Raises the error that has ended them for good.

        Does not yield when the gate is open: callers test `is_shut` first to save the call.
        """
        while self.is_shut and self.failure is None:
            await self._opened.wait()
        self.check()

    def shut(self) -> None:
        """Let no further change begin. Only the committer does this."""
        assert not self.is_shut
        self.is_shut = True
        self._opened = trio.Event()

    def open(self) -> None:
        """Let changes begin again, unless there was a failure."""
        if self.failure is None:
            self.is_shut = False
        self._opened.set()

    def fail(self, error: CubefsError) -> None:
        """End all changes for good; the first error is the one that counts."""
        if self.failure is not None:
            return
        if not isinstance(error, FencedError | LocalDiskError):
            log.critical("unexpected failure, no more changes are accepted", exc_info=error)
        else:
            log.critical("no more changes are accepted: %s", error)
        self.failure = error
        self.is_shut = True
        self._opened.set()
        self._failed.set()

    async def wait_unless_failed(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Await `wait()`, which may need further changes to end. Raises the error that has ended them."""
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await self._failed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up)
            await wait()
            nursery.cancel_scope.cancel()
        self.check()

    async def wait_failed(self) -> CubefsError:
        """Wait until there is a failure; return it."""
        await self._failed.wait()
        assert self.failure is not None
        return self.failure
