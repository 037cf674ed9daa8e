"""Owns the port that clients connect to: open, shut (connections are refused), open again on the same port.

Must never: lose the port to another program while it is shut.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from tests.support.servers.fault_proxy.ledger import Ledger
from tests.support.servers.fault_proxy.scenario import Scenario
from tests.support.servers.fault_proxy.session import Session

BACKLOG_COUNT = 1024
WATCH_INTERVAL_S = 0.25
ACCEPT_PAUSE_S = 0.05


class Door:
    """The listening socket and the sessions of those who came in."""

    def __init__(
        self, scenario: Scenario, ledger: Ledger, *, upstream: tuple[str, int], host: str, port: int
    ) -> None:
        self._scenario = scenario
        self._ledger = ledger
        self._upstream = upstream
        self._host = host
        # Bound but never listening: nobody else gets the port, and connections to it are refused.
        self._reservation = _bound(host, port)
        self.port: int = self._reservation.getsockname()[1]
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self._acceptor: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._watch = asyncio.create_task(self._watch_clients())

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://{self._host}:{self.port}"

    def open(self) -> None:
        """Let clients in; does nothing where it is open."""
        if self._acceptor is None:
            listener = _bound(self._host, self.port)
            listener.listen(BACKLOG_COUNT)
            self._acceptor = asyncio.create_task(self._accept(listener))

    async def shut(self) -> None:
        """Refuse connections, and cut those that there are."""
        tasks = list(self._sessions)
        for session in list(self._sessions.values()):
            session.cut()
        if self._acceptor is not None:
            self._acceptor.cancel()
            tasks.append(self._acceptor)
            self._acceptor = None
        if tasks:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Shut, and give the port back. Raises what a session failed with: a fault nobody asked for."""
        await self.shut()
        self._watch.cancel()
        self._reservation.close()
        if self._failure is not None:
            raise self._failure

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.closing(listener):
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError:  # out of descriptors, most likely
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                session = Session(self._scenario, self._ledger, self._upstream, connection)
                self._sessions[session.task] = session
                session.task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._sessions[task]
        if not task.cancelled():
            self._failure = self._failure or task.exception()

    async def _watch_clients(self) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            for session in list(self._sessions.values()):
                session.end_if_abandoned()


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound; several may be to one port as long as one at most listens (Linux)."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((host, port))
    bound.setblocking(False)
    return bound
