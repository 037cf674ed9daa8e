"""The S3 server that the part "remote" stores in, and the line to it: a proxy that delays requests and counts them.

Each contender of each round gets a new server. Must never: know what is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from contrib.demo.scratch import Scratch, StepError
from tests.bench.flows import timed
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.radosgw import RadosGateway
from tests.support.servers.swift import SwiftServer

BUCKET = "bench"
_PACK = re.compile(r"/packs/[^?]+")


class Requests(NamedTuple):
    """How many requests of each kind."""

    put: int
    get: int  # of objects, or parts of them
    head: int
    listing: int
    other: int  # deletions, questions about the bucket

    def __str__(self) -> str:
        """Return the numbers in the order of the table's label; others are added where there are any."""
        text = f"{self.put}/{self.get}/{self.head}/{self.listing}"
        return f"{text} +{self.other}" if self.other else text


class Traffic(NamedTuple):
    """One measured action."""

    seconds: float
    requests: Requests
    up_bytes: int  # in bodies
    down_bytes: int
    packs: int  # different ones of cubefs that requests named
    pack_requests: int  # that named them


def server_name() -> str:
    """Return what the table calls the server that is used here."""
    return "radosgw" if _has_radosgw() else "OpenStack Swift's S3 API"


class Link:
    """A new server and the proxy in front of it; they last until the services of `scratch` are ended."""

    def __init__(self, scratch: Scratch, *, latency_ms: float) -> None:
        server: RadosGateway | SwiftServer = RadosGateway() if _has_radosgw() else SwiftServer()
        scratch.serve(server)
        self._proxy = scratch.serve(FaultProxy(server.url))
        self._proxy.settings(latency_ms=latency_ms)
        server.make_bucket(BUCKET)
        self.url = self._proxy.url
        self.environment: Mapping[str, str] = server.s3_environment(self.url)

    def measure(self, action: Callable[[], object]) -> Traffic:
        """Return what `action` took: the time, and the requests that reached the proxy meanwhile."""
        self._proxy.reset()
        seconds = timed(action)
        try:
            sums = self._proxy.settled_stats()
        except AssertionError as error:
            raise StepError(str(error)) from None
        log = self._proxy.log()
        if len(log) != sums["total"]:
            raise StepError(f"the proxy remembers only {len(log)} of {sums['total']} requests")
        named = [found[0] for entry in log if (found := _PACK.search(entry["target"]))]
        return Traffic(
            seconds, count_requests(log), sums["bytes_up"], sums["bytes_down"], len(set(named)), len(named)
        )


def count_requests(log: Iterable[Mapping[str, Any]]) -> Requests:
    """Return how many requests of each kind are in the proxy's log (path style, as all clients here speak it)."""
    counts = dict.fromkeys(Requests._fields, 0)
    for entry in log:
        path, _, query = entry["target"].partition("?")
        is_object = bool(path.lstrip("/").partition("/")[2])
        method = str(entry["method"]).lower()
        if method == "get" and not is_object and re.search(r"(^|&)(list-type|prefix|delimiter|marker)=", query):
            counts["listing"] += 1
        elif method in ("put", "get", "head") and is_object:
            counts[method] += 1
        else:
            counts["other"] += 1
    return Requests(**counts)


def _has_radosgw() -> bool:
    return RadosGateway().find_obstacle() is None
