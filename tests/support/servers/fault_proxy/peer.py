"""Owns one side of the conversation: a socket in the loop, and what was read from it ahead of time.

Must never: know what the bytes are for, beyond where a head ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

from tests.support.servers.fault_proxy.messages import BadMessageError, Head, TruncatedError

CHUNK_BYTES = 256 << 10
HEAD_MAX_BYTES = 128 << 10
HEAD_READ_BYTES = 64 << 10
HEAD_END = b"\r\n\r\n"
GOODBYE_LIMIT_S = 2.0


class Peer:
    """A connection to the client or to the server (`side`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: socket.socket, side: str) -> None:
        self._loop = loop
        self._connection = connection
        self.side = side
        self.rest = b""  # read, but not taken yet
        self._buffer: memoryview | None = None
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def receive(self, most: int) -> bytes | memoryview:
        """Return some bytes, good until the next call; nothing at the end."""
        if self.rest:
            data, self.rest = self.rest[:most], self.rest[most:]
            return data
        if self._buffer is None:
            self._buffer = memoryview(bytearray(CHUNK_BYTES))
        try:
            count = await self._loop.sock_recv_into(self._connection, self._buffer[:most])
        except OSError:
            return b""
        return self._buffer[:count]

    def give_back(self, data: bytes | memoryview) -> None:
        """Let the next call return these bytes (again)."""
        self.rest = bytes(data) + self.rest

    async def read_head(self) -> Head | None:
        """Return the head of the next message, None at the end of the connection."""
        data = self.rest
        searched = 0
        while (found := data.find(HEAD_END, searched)) < 0:
            if len(data) > HEAD_MAX_BYTES:
                raise BadMessageError("the head is too large")
            searched = max(0, len(data) - len(HEAD_END) + 1)
            try:
                more = await self._loop.sock_recv(self._connection, HEAD_READ_BYTES)
            except OSError:
                more = b""
            if not more:
                self.rest = b""
                if data.strip():
                    raise TruncatedError(self.side)
                return None
            data += more
        stop = found + len(HEAD_END)
        self.rest = data[stop:]
        return Head(data[:stop].lstrip(b"\r\n"))  # an empty line before the first one is tolerated

    async def send(self, data: bytes | memoryview | bytearray) -> None:
        """Send all bytes. Raises OSError where the peer is gone."""
        await self._loop.sock_sendall(self._connection, data)

    def has_hung_up(self) -> bool:
        """Tell whether the peer has closed its end; never while something it said is not read yet."""
        if self.rest:
            return False
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def is_stale(self) -> bool:
        """Tell of an idle connection whether the peer has closed it, or has said something unasked."""
        try:
            return bool(self.rest) or self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) is not None
        except BlockingIOError:
            return False
        except OSError:
            return True

    def wake(self) -> None:
        """Wake up whoever waits for this connection, which stays open."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    async def say_goodbye(self) -> None:
        """Let the peer finish talking for a moment, so that it gets to read the answer instead of a reset."""
        with contextlib.suppress(OSError, TimeoutError):
            self._connection.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(GOODBYE_LIMIT_S):
                while await self.receive(CHUNK_BYTES):
                    pass

    def close(self, how: str = "fin") -> None:
        """Close the connection, with a reset (`rst`) or in an orderly way (`fin`); again does nothing."""
        if self._connection.fileno() < 0:
            return
        with contextlib.suppress(OSError):
            if how == "rst":
                self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()


async def connect(loop: asyncio.AbstractEventLoop, address: tuple[str, int]) -> Peer:
    """Return a connection to the server. Raises OSError."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        await loop.sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return Peer(loop, connection, "server")
