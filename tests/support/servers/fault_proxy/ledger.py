"""Owns the record: every request that came through, what became of it, and the sums.

Must never: keep bodies or heads of requests that are over.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import Any

from tests.support.servers.fault_proxy.messages import Body, Head
from tests.support.servers.fault_proxy.stream import Flow

LOG_MAX_COUNT = 10_000
S3_PARTS = 2  # /bucket/key
SWIFT_PARTS = 4  # /v1/account/container/object
RADOSGW_SWIFT_PARTS = 5  # /swift/v1/account/container/object


class Exchange:
    """One request and its answer."""

    def __init__(self, head: Head, body: Body) -> None:
        method, target, version = head.start
        self.head = head
        self.body = body
        self.method = method.decode("latin1").upper()
        self.target = target.decode("latin1")
        self.path = self.target.partition("?")[0]
        self.speaks_swift = b"x-auth-token" in head.fields or b"x-auth-user" in head.fields
        parts_count = S3_PARTS
        if self.speaks_swift:
            parts_count = RADOSGW_SWIFT_PARTS if self.path.startswith("/swift/") else SWIFT_PARTS
        parts = self.path.lstrip("/").split("/", parts_count - 1)
        self.is_object = len(parts) == parts_count and bool(parts[-1])
        self.awaits_continue = b"100-continue" in head.fields.get(b"expect", b"").lower() and not body.is_done
        self.wants_close = head.wants_close(version)
        self.status: int | None = None
        self.fault: str | None = None
        self.mishap: str | None = None  # how it ended otherwise: cut, client-gone, server-gone, ...
        self.is_answered = False  # from here on the client may hang up
        self.up, self.down = Flow(), Flow()
        self._began_s = time.time()
        self._took_s = 0.0

    def finish(self) -> None:
        """Stop the clock and let go of what is large: the log keeps exchanges."""
        self._took_s = time.time() - self._began_s
        del self.head, self.body

    @property
    def outcome(self) -> str:
        """The status, the mishap, or both."""
        return " ".join(str(part) for part in (self.status, self.mishap) if part)

    def describe(self) -> dict[str, Any]:
        """Return one entry of the log."""
        return {
            "time": round(self._began_s, 6),
            "seconds": round(self._took_s, 6),
            "method": self.method,
            "target": self.target,
            "status": self.outcome if self.mishap else self.status,
            "up": self.up.bytes,
            "down": self.down.bytes,
            "fault": self.fault,
        }


class Ledger:
    """The sums since the last reset, and the last requests."""

    def __init__(self) -> None:
        self.open_connections = 0
        self._active = 0
        self.reset()

    def reset(self) -> None:
        """Begin anew; what is open or active stays so."""
        self._requests: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._log: deque[Exchange] = deque(maxlen=LOG_MAX_COUNT)
        self._connections = 0
        self._bytes_up = self._bytes_down = 0
        self._max_active = self._active
        self._since_s = time.time()

    def connected(self) -> None:
        """Count a connection."""
        self._connections += 1
        self.open_connections += 1

    def begin(self) -> None:
        """Count a request that begins."""
        self._active += 1
        self._max_active = max(self._max_active, self._active)

    def end(self, exchange: Exchange) -> None:
        """Enter a request that is over, whichever way."""
        self._active -= 1
        exchange.finish()
        self._requests[f"{exchange.method} {exchange.outcome}"] += 1
        if exchange.fault:
            self._faults[exchange.fault] += 1
        self._bytes_up += exchange.up.bytes
        self._bytes_down += exchange.down.bytes
        self._log.append(exchange)

    def log(self) -> list[dict[str, Any]]:
        """Return the last requests, oldest first."""
        return [exchange.describe() for exchange in self._log]

    def statistics(self) -> dict[str, Any]:
        """Return the sums."""
        return {
            "requests": dict(sorted(self._requests.items())),
            "faults": dict(sorted(self._faults.items())),
            "total": self._requests.total(),
            "connections": self._connections,
            "open_connections": self.open_connections,
            "active": self._active,
            "max_active": self._max_active,
            "bytes_up": self._bytes_up,
            "bytes_down": self._bytes_down,
            "seconds": round(time.time() - self._since_s, 3),
            "cpu_seconds": round(time.process_time(), 3),
        }
