"""Owns the Swift stores of the driver's tests: a container of one's own, near, or far behind a fault proxy.

Must never: start a server.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cubefs.store.swift import SwiftStore, open_swift
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.swift import SwiftServer

PREFIX = "a/b"


def make_place(server: SwiftServer) -> str:
    """Make a container that nobody else uses; return its name."""
    return server.make_container(f"own-{secrets.token_hex(8)}")


def open_near(server: SwiftServer, place: str) -> SwiftStore:
    """Open a store in the container `place`."""
    return open_swift(f"swift://{place}/{PREFIX}", environ=server.swift_environment())


@dataclass(frozen=True)
class Far:
    """A store behind a proxy, logged in, with one object `seen`; the proxy counts from there."""

    store: SwiftStore
    door: FaultProxy

    def requests(self, total: int) -> dict[str, int]:
        """Return how often what was asked and answered, once `total` requests have been."""
        return dict(self.door.settled_stats(total=total)["requests"])

    def login_count(self) -> int:
        """Return how often a token was asked for."""
        self.door.settled_stats()
        return sum("/auth/" in entry["target"] for entry in self.door.log())


def open_far(server: SwiftServer, door: FaultProxy) -> Far:
    """Open a store in a container of its own, through `door`."""
    url = f"swift://{make_place(server)}/{PREFIX}"
    store = open_swift(url, environ=server.swift_environment(via=door.url))
    store.put("seen", b"")
    door.settled_stats(total=2)
    door.reset()
    return Far(store, door)
