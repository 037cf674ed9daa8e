"""Moving bodies no faster than a limit allows: the parts in which drivers send and receive them.

Must never: decide about a limit (throttle.py does).
"""

from __future__ import annotations

import io
from collections.abc import Callable

from cubefs.model import KIB, MIB
from cubefs.store.base import OBJECT_MAX_BYTES, Pace

PART_BYTES = 64 * KIB  # at 1 MB/s some 15 parts a second: smooth enough for others on the same line
FREE_PART_BYTES = MIB  # of a body received while there is no limit: a new one is heard that soon
HEAP_BYTES = 16 * MIB  # of parts received, put together at once


class Unpaced:
    """No limits. Implements `base.Pace`."""

    def is_limited_up(self) -> bool:
        """Return False."""
        return False

    def is_limited_down(self) -> bool:
        """Return False."""
        return False

    def sending(self, byte_count: int) -> None:
        """Do not wait."""

    def received(self, byte_count: int) -> None:
        """Do not wait."""


class PacedBody(io.RawIOBase):
    """A body as a file that can only be read as fast as it may be sent.

    While there is a limit, every byte is announced before it is handed out, at most PART_BYTES at a time, however
    small the pieces are that a library reads. A body that is read again after `seek` is announced again: it is sent
    again. Without a limit nothing is announced, but it is asked for before every part: limits may come at any time.
    """

    def __init__(self, data: bytes | memoryview, pace: Pace) -> None:
        """Read from `data`, which is not copied."""
        self._data = memoryview(data).cast("B")
        self._pace = pace
        self._position = 0
        self._announced = 0  # the bytes before this one may be sent

    def __len__(self) -> int:
        """Return the body's length in bytes, whatever has been read."""
        return len(self._data)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes, at most PART_BYTES unless all are asked for, when they may be sent."""
        rest = len(self._data) - self._position
        wanted = rest if size is None or size < 0 else min(size, rest, PART_BYTES)
        stop = self._position + wanted
        while self._announced < stop:
            part = min(PART_BYTES, len(self._data) - self._announced)
            if self._pace.is_limited_up():
                self._pace.sending(part)
            self._announced += part
        piece = bytes(self._data[self._position : stop])
        self._position = stop
        return piece

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, within the body whatever is asked for."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}[whence]
        position = min(max(base + offset, 0), len(self._data))
        if position != self._position:
            self._position = self._announced = position
        return self._position


def receive(
    read: Callable[[int], bytes], *, length: int | None, pace: Pace, free_part_bytes: int = FREE_PART_BYTES
) -> bytes:
    """Read a body to its end in parts, as fast as they may come.

    read: returns up to that many bytes, b"" at the end. length: the bytes expected, None when nobody has said.
    free_part_bytes: how much to read at a time while there is no limit; a limit is heeded from the next part on.
    A body that is longer (without `length`: longer than OBJECT_MAX_BYTES) is left where that shows: what is
    returned is too long as well, for the caller to find. Memory: the body once, and HEAP_BYTES of it again.
    """
    most_bytes = OBJECT_MAX_BYTES if length is None else length
    body, heap, heap_bytes = io.BytesIO(), list[bytes](), 0
    while body.tell() + heap_bytes <= most_bytes:
        is_limited = pace.is_limited_down()
        part = read(PART_BYTES if is_limited else free_part_bytes)
        if not part:
            break
        if is_limited:
            pace.received(len(part))
        heap.append(part)
        heap_bytes += len(part)
        if heap_bytes >= HEAP_BYTES and heap_bytes != length:
            body.writelines(heap)
            heap, heap_bytes = [], 0
    if body.tell() == 0:
        return b"".join(heap)  # which costs less than a file that grows, and nothing for a single part
    body.writelines(heap)
    return body.getvalue()
