"""A pytest plugin: the object stores that tests talk to, one of each per worker, started when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.servers.keystone import KeystoneSwift
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.radosgw import RadosGateway
from tests.support.servers.swift import SwiftServer


@pytest.fixture(scope="session")
def swift_server() -> Iterator[SwiftServer]:
    """A real Swift with its own S3 API. Shared by all tests: use a bucket or container of your own."""
    with SwiftServer() as server:
        yield server


@pytest.fixture(scope="session")
def keystone_swift() -> Iterator[KeystoneSwift]:
    """A real Swift that believes a real Keystone. Shared by all tests: use a user or container of your own."""
    with KeystoneSwift() as server:
        yield server


@pytest.fixture(scope="session")
def radosgw() -> Iterator[RadosGateway]:
    """An S3 server that shares no code with Swift; skips where it is not installed. Shared by all tests."""
    server = RadosGateway()
    obstacle = server.find_obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    with server:
        yield server


@pytest.fixture
def proxy() -> Iterator[Callable[[str], FaultProxy]]:
    """Start a fault proxy in front of the server at a URL, as often as called."""
    with ExitStack() as running:
        yield lambda upstream: running.enter_context(FaultProxy(upstream))
