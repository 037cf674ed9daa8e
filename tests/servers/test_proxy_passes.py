"""The fault proxy without faults: everything HTTP/1.1 allows comes through byte for byte, connections are kept."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import pytest

from tests.servers.conftest import Client, raw_connection
from tests.support.servers.fault_proxy.messages import BadMessageError, ChunkedBody, Head
from tests.support.servers.plain_store import PlainStore
from tests.support.servers.proxy import FaultProxy

BIG = os.urandom(3 << 20)


def test_bodies_of_every_size(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    sizes = (0, 1, 4096, 70_000, 200_000, len(BIG))
    for size in sizes:
        assert client("PUT", "/b/k", BIG[:size]) == (200, b"")
        assert store.objects["/b/k"] == BIG[:size]
        assert client("GET", "/b/k") == (200, BIG[:size])
        assert client("HEAD", "/b/k") == (200, b"")
        assert client.field("Content-Length") == str(size)
    assert client("DELETE", "/b/k") == (204, b"")
    assert client("GET", "/b/k") == (404, b"nope")
    stats = faults.settled_stats(total=20)
    assert stats["requests"] == {"DELETE 204": 1, "GET 200": 6, "GET 404": 1, "HEAD 200": 6, "PUT 200": 6}
    assert stats["bytes_up"] == sum(sizes)
    assert stats["connections"] == 1, "the connection was not kept"
    assert store.hosts == {faults.url.removeprefix("http://")}, "the Host field was changed"


def test_chunked_bodies(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    parts = [BIG[:10], BIG[10:300_000], BIG[300_000:]]
    assert client("PUT", "/b/c", iter(parts), Transfer_Encoding="chunked")[0] == 200
    assert store.objects["/b/c"] == BIG
    assert client("GET", "/b/c?chunked") == (200, BIG)
    assert client("GET", "/b/c") == (200, BIG)
    assert faults.settled_stats(total=3)["connections"] == 1


def test_a_body_that_ends_with_the_connection(client: Client, store: PlainStore) -> None:
    store.objects["/b/e"] = BIG
    assert client("GET", "/b/e?open") == (200, BIG)
    assert client("GET", "/b/e") == (200, BIG)


def test_pipelining(faults: FaultProxy, store: PlainStore) -> None:
    store.objects["/b/p"] = b"hello"
    get = b"GET /b/p HTTP/1.1\r\nHost: x\r\n\r\n"
    put = b"PUT /b/q HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    last = b"GET /b/q HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with raw_connection(faults.url) as (connection, reader):
        connection.sendall(get + put + get + last)
        answers = reader.read()
    assert answers.count(b"HTTP/1.1 200 OK") == 4
    assert answers.endswith(b"abc")


def put_expecting(connection: socket.socket, reader: BinaryIO, path: str, size: int) -> bytes:
    """Send the head of a PUT that wants to be told to go on; return the first line of what comes back."""
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode())
    first = reader.readline()
    while reader.readline().strip():
        pass
    return first


@pytest.mark.parametrize("size", [5, 100_000, len(BIG)])
def test_a_client_that_waits_to_be_told_to_go_on(faults: FaultProxy, store: PlainStore, size: int) -> None:
    with raw_connection(faults.url) as (connection, reader):
        assert b" 100 " in put_expecting(connection, reader, "/b/x", size)
        connection.sendall(BIG[:size])
        assert b" 200 " in reader.readline()
    assert store.objects["/b/x"] == BIG[:size]


def test_a_client_that_is_told_not_to_go_on(faults: FaultProxy, store: PlainStore) -> None:
    with raw_connection(faults.url) as (connection, reader):
        assert b" 403 " in put_expecting(connection, reader, "/b/x?reject", len(BIG))
        assert reader.read(2) == b"no"
        assert store.rejected == 1
        connection.sendall(b"GET /b/none HTTP/1.1\r\nHost: x\r\n\r\n")  # the connection goes on
        assert b" 404 " in reader.readline()


def test_an_answer_before_the_body_is_read_hangs_nobody(client: Client) -> None:
    began_s = time.monotonic()
    try:
        assert client("PUT", "/b/r?reject", BIG)[0] == 403
    except OSError:
        pass  # the server closes without reading: the client may see that first
    assert time.monotonic() - began_s < 5


def test_many_connections_at_once(faults: FaultProxy, store: PlainStore) -> None:
    digest = f'"{hashlib.md5(BIG).hexdigest()}"'

    def put_and_get(number: int) -> None:
        client = Client(faults.url)
        for turn in range(2):
            path = f"/b/{number}-{turn}"
            assert client("PUT", path, BIG)[0] == 200
            assert client.field("ETag") == digest
            assert client("GET", path) == (200, BIG)
        client.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(put_and_get, range(16)))
    assert faults.settled_stats(total=64)["requests"] == {"PUT 200": 32, "GET 200": 32}
    deadline = time.monotonic() + 5
    while faults.stats()["open_connections"]:
        assert time.monotonic() < deadline, "connections are left over"
        time.sleep(0.01)


def test_a_client_that_goes_away_in_the_middle(faults: FaultProxy, store: PlainStore) -> None:
    with raw_connection(faults.url) as (connection, _):
        connection.sendall(b"PUT /b/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + BIG[:300_000])
    assert faults.settled_stats(total=1)["requests"] == {"PUT client-gone": 1}
    deadline = time.monotonic() + 5
    while not store.truncated:
        assert time.monotonic() < deadline, "the server was not told"
        time.sleep(0.01)
    assert "/b/k" not in store.objects


def test_a_client_that_gives_up_waiting(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    store.objects["/b/k"] = BIG
    faults.rule("latency", ms=60_000, path="/b/k", first=1)
    with raw_connection(faults.url) as (connection, _):
        connection.sendall(b"GET /b/k HTTP/1.1\r\nHost: x\r\n\r\n")
        while not faults.stats()["active"]:
            time.sleep(0.01)
    assert faults.settled_stats(total=1)["requests"] == {"GET client-gone": 1}
    assert client("GET", "/b/k") == (200, BIG)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with FaultProxy(f"http://127.0.0.1:{nobody.getsockname()[1]}") as proxy:
            client = Client(proxy.url)
            assert client("GET", "/b/k")[0] == 502
            assert client("PUT", "/b/k", BIG)[0] == 502
            client.close()


def test_a_kept_connection_that_the_server_has_closed_meanwhile() -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve_twice() -> None:
            for _ in range(2):  # one request per connection, although nothing is said of closing
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        server = threading.Thread(target=serve_twice)
        server.start()
        with FaultProxy(f"http://127.0.0.1:{listener.getsockname()[1]}") as proxy:
            client = Client(proxy.url)
            assert client("GET", "/1") == (200, b"ok")
            assert client("GET", "/2") == (200, b"ok")
            client.close()
        server.join()


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_the_end_of_a_chunked_body_is_found(step: int) -> None:
    text = b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\nT: v\r\n\r\nNEXT"
    body, content, place = ChunkedBody(), b"", 0
    while not body.is_done:
        part = text[place : place + step]
        used, spans = body.feed(part)
        content += b"".join(part[start:stop] for start, stop in spans)
        place += used
    assert content == b"hello0123456789"
    assert text[place:] == b"NEXT"


def test_bad_messages_are_refused(faults: FaultProxy) -> None:
    with pytest.raises(BadMessageError):
        ChunkedBody().feed(b"five\r\n")
    for raw in (b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"):
        with pytest.raises(BadMessageError):
            Head(raw)
        with raw_connection(faults.url) as (connection, reader):
            connection.sendall(raw)
            assert b" 400 " in reader.readline()
