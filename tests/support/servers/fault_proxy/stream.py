"""Owns the passing on of bodies: at which pace, and with which byte changed.

Must never: pass on a byte that belongs to the next message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tests.support.servers.fault_proxy.messages import Body, Span, TruncatedError
from tests.support.servers.fault_proxy.peer import CHUNK_BYTES, Peer

PORTION_S = 0.05  # with a limit in force, read no more at a time than takes so long
PORTION_MIN_BYTES = 1024
CREDIT_S = 0.02  # so that waking up late does not lower the rate


class CutError(Exception):
    """A rule wants the connection cut, with `rst` or `fin`."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Rate:
    """Paces bytes to so many per second; 0 is no limit."""

    def __init__(self, bytes_per_s: float = 0) -> None:
        self.bytes_per_s = bytes_per_s
        self._free_s = 0.0  # when everything so far is through

    def reserve(self, count: int, *, now_s: float) -> float:
        """Return when so many more bytes are through."""
        self._free_s = max(self._free_s, now_s - CREDIT_S) + count / self.bytes_per_s
        return self._free_s


class Lane:
    """One direction of one connection: what limits it, beside the limit of all connections together."""

    def __init__(self, limit: Callable[[], float], total: Rate) -> None:
        self._limit = limit
        self._own = Rate()
        self._total = total

    def portion_bytes(self) -> int:
        """Return how much to read at a time."""
        limits = [limit for limit in (self._limit(), self._total.bytes_per_s) if limit]
        return max(PORTION_MIN_BYTES, min(CHUNK_BYTES, int(min(limits) * PORTION_S))) if limits else CHUNK_BYTES

    async def pace(self, count: int) -> None:
        """Wait until so many more bytes may be through."""
        self._own.bytes_per_s = self._limit()
        rates = [rate for rate in (self._own, self._total) if rate.bytes_per_s]
        if rates:
            now_s = asyncio.get_running_loop().time()
            wait_s = max(rate.reserve(count, now_s=now_s) for rate in rates) - now_s
            if wait_s > 0:
                await asyncio.sleep(wait_s)


@dataclass
class Flow:
    """How many bytes of a body have passed."""

    bytes: int = 0


@dataclass(frozen=True)
class Tamper:
    """What to do to one body, where its content reaches `offset`: flip bits, fall silent, or cut."""

    offset: int
    xor: int | None = None
    silence_s: float | None = None
    cut: str = "fin"

    async def strike(self, data: bytes | memoryview, index: int, target: Peer) -> bytes | memoryview | bytearray:
        """Do it at data[index]; return what is left to send. Raises CutError."""
        if self.xor is not None:
            changed = bytearray(data)
            changed[index] ^= self.xor
            return changed
        await target.send(data[:index])
        if self.silence_s is None:
            raise CutError(self.cut)
        kept = bytes(data[index:])
        await asyncio.sleep(self.silence_s)
        return kept


async def take(source: Peer, body: Body, lane: Lane, flow: Flow) -> tuple[bytes | memoryview, list[Span]]:
    """Return some bytes of the body and where its content is; nothing at the end of an open body.

    Raises TruncatedError where the sender stops in the middle.
    """
    data = await source.receive(body.want(lane.portion_bytes()))
    if not data:
        if body.ends_with_connection:
            body.is_done = True
            return b"", []
        raise TruncatedError(source.side)
    used, spans = body.feed(data)
    if used < len(data):
        source.give_back(data[used:])
        data = data[:used]
    await lane.pace(used)
    flow.bytes += used
    return data, spans


async def transfer(
    source: Peer, target: Peer, body: Body, *, lane: Lane, flow: Flow, tamper: Tamper | None = None
) -> None:
    """Pass a body on exactly as it comes, except for what `tamper` does."""
    content_offset = 0
    while not body.is_done:
        data: bytes | memoryview | bytearray
        data, spans = await take(source, body, lane, flow)
        if tamper is not None:
            size = sum(stop - start for start, stop in spans)
            if content_offset <= tamper.offset < content_offset + size:
                data = await tamper.strike(data, raw_index(spans, tamper.offset - content_offset), target)
            content_offset += size
        await target.send(data)


async def discard(source: Peer, body: Body, *, lane: Lane, flow: Flow) -> None:
    """Read a body to its end."""
    while not body.is_done:
        await take(source, body, lane, flow)


def raw_index(spans: list[Span], content_offset: int) -> int:
    """Return where in a buffer the byte of its content stands."""
    for start, stop in spans:
        if content_offset < stop - start:
            return start + content_offset
        content_offset -= stop - start
    raise IndexError("beyond the content")
