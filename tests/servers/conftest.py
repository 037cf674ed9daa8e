"""What the tests of the servers share: a small server, a proxy in front of it, clients that see every byte."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pytest

from tests.support.servers.plain_store import PlainStore, plain_store
from tests.support.servers.proxy import FaultProxy

Body = bytes | Iterable[bytes] | None


class Client:
    """One connection; calling it sends a request and returns status and body."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        self.answer: http.client.HTTPResponse | None = None

    def __call__(self, method: str, path: str, body: Body = None, **fields: str) -> tuple[int, bytes]:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        is_chunked = "Transfer-Encoding" in named
        try:
            self._connection.request(method, path, body=body, headers=named, encode_chunked=is_chunked)
            self.answer = self._connection.getresponse()
            return self.answer.status, self.answer.read()
        except BaseException:
            self.close()  # the next call connects anew
            raise

    def close(self) -> None:
        """Close the connection; an answer that is not read to its end holds on to it."""
        if self.answer is not None:
            self.answer.close()
        self._connection.close()

    def field(self, name: str) -> str | None:
        """Return a field of the last answer."""
        assert self.answer is not None
        return self.answer.headers.get(name)


@contextmanager
def raw_connection(url: str) -> Iterator[tuple[socket.socket, BinaryIO]]:
    """Open a connection that is spoken to byte by byte."""
    parts = urlsplit(url)
    address = (parts.hostname, parts.port)
    with socket.create_connection(address, timeout=10) as connection, connection.makefile("rb") as reader:
        yield connection, reader


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and is not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_the_end(pids: list[int]) -> None:
    """Wait until none of the processes runs."""
    deadline = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "the servers outlived their starter"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def running_store() -> Iterator[PlainStore]:
    """A small server with known behaviour."""
    with plain_store() as store:
        yield store


@pytest.fixture(scope="session")
def running_proxy(running_store: PlainStore) -> Iterator[FaultProxy]:
    """A proxy in front of it."""
    with FaultProxy(running_store.url) as proxy:
        yield proxy


@pytest.fixture
def store(running_store: PlainStore) -> PlainStore:
    """The server, empty."""
    running_store.forget()
    return running_store


@pytest.fixture
def faults(running_proxy: FaultProxy, store: PlainStore) -> Iterator[FaultProxy]:
    """The proxy, without faults."""
    running_proxy.clear()
    yield running_proxy
    running_proxy.clear()


@pytest.fixture
def client(faults: FaultProxy) -> Iterator[Client]:
    """A connection to the proxy."""
    client = Client(faults.url)
    yield client
    client.close()
