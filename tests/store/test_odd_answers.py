"""Answers that are no proper HTTP, or of somebody who stands before the store: what the drivers make of them.

Whatever comes, only errors of the store leave a driver; what a gateway says is not taken for the store's word.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cubefs.errors import (
    NoStoreError,
    ObjectMissingError,
    StoreError,
    StoreUnavailableError,
    StoreUnsuitableError,
)
from cubefs.model import MIB
from cubefs.store import s3_errors, swift, swift_answers
from cubefs.store.base import GivenUpError, Store
from cubefs.store.guard import guarded
from cubefs.store.local import LocalStore
from cubefs.store.s3 import open_s3
from cubefs.store.swift import SwiftStore, open_swift
from tests.support.endpoint import Answer, Endpoint, Request
from tests.support.servers.access import DIRECT

Opener = Callable[[str], Store]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in {**DIRECT, **settings, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
        monkeypatch.setenv(name, value)


def open_as_s3(host: str) -> Store:
    return open_s3(f"s3://bucket/prefix?endpoint_url=http://{host}")


def open_as_swift(host: str) -> SwiftStore:
    environ = {"OS_STORAGE_URL": f"http://{host}/v1/AUTH_x", "OS_AUTH_TOKEN": "token"}
    return open_swift("swift://place/prefix", environ=environ)


BOTH = pytest.mark.parametrize("open_driver", [open_as_s3, open_as_swift], ids=["s3", "swift"])
CALLS: dict[str, Callable[[Store], object]] = {
    "put": lambda store: store.put("a", b"1"),
    "put large": lambda store: store.put("a", bytes(2 * MIB)),
    "put_new": lambda store: store.put_new("a", bytes(2 * MIB)),
    "get": lambda store: store.get("a"),
    "get_range": lambda store: store.get_range("a", start=1, length=2),
    "head": lambda store: store.head("a"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("a"),
    "delete_many": lambda store: store.delete_many(["a", "b"]),
    "now_ns": lambda store: store.now_ns(),
}


# -- no proper HTTP -------------------------------------------------------------------------------------------


@contextmanager
def speaker(answer: bytes) -> Iterator[str]:
    """A server that says `answer` to every request, once it has heard its head; yield its address."""

    def speak(client: socket.socket) -> None:
        with client:
            client.settimeout(10)
            heard = b""
            while b"\r\n\r\n" not in heard and (piece := client.recv(65536)):
                heard += piece
            client.sendall(answer)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(0.05)  # a while for the rest of the body, or the answer is lost in a reset
            while client.recv(65536):
                pass

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                speak(client)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@BOTH
@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 503 Service indisponible à ce moment\r\nContent-Length: 0\r\n\r\n".encode(),
        b"HTTP/1.1 xyz\r\n\r\n",
        b"HTTP/1.1 xyz odd words\r\nContent-Length: 0\r\n\r\n",
        "HTTP/ü 200 OK\r\nContent-Length: 0\r\n\r\n".encode(),
        b"220 mail.example.com ESMTP\r\n",
        b"\x00\xff\r\n\r\n",
    ],
)
def test_what_is_no_proper_http_is_trouble_that_may_pass(open_driver: Opener, answer: bytes) -> None:
    with speaker(answer) as host:
        store = open_driver(host)
        for name, call in CALLS.items():
            with pytest.raises(StoreUnavailableError) as caught:
                call(store)
            assert "\n" not in str(caught.value), name
            assert len(str(caught.value)) < 400


# -- somebody who stands before the store -----------------------------------------------------------------------


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


PAGE = b"<!DOCTYPE html><html><body><p>Maintenance</p><br></body></html>"
XHTML = b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>Maintenance</p></body></html>"
HTML = {"Content-Type": "text/html"}
BODY = b"body"
MD5 = hashlib.md5(BODY).hexdigest()
MARK = {"x-amz-request-id": "1", "X-Trans-Id": "tx1"}
OBJECT: Answer = (200, {"ETag": MD5, "X-Timestamp": "1.0", **MARK}, BODY)


def open_at(endpoint: Endpoint, open_driver: Opener) -> Store:
    return open_driver(f"127.0.0.1:{endpoint.server_port}")


@BOTH
@pytest.mark.parametrize("page", [PAGE, XHTML])
@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 405, 410])
def test_a_gateways_page_where_the_store_spoke_before_may_pass(
    endpoint: Endpoint, open_driver: Opener, status: int, page: bytes
) -> None:
    store = open_at(endpoint, open_driver)
    endpoint.answer = lambda request: OBJECT
    assert store.get("a") == BODY
    body = page if status != 204 else b""
    endpoint.answer = lambda request: (status, {**HTML, "Location": "http://127.0.0.1:1/"}, body)
    for name, call in CALLS.items():
        if name == "now_ns" and (open_driver is open_as_s3):
            continue  # any answer has a Date
        with pytest.raises(StoreUnavailableError) as caught:
            call(store)
        assert "\n" not in str(caught.value), name
    endpoint.answer = lambda request: OBJECT
    assert store.get("a") == BODY


@BOTH
@pytest.mark.parametrize("status", [200, 404])
def test_at_first_sight_a_page_is_no_store(endpoint: Endpoint, open_driver: Opener, status: int) -> None:
    endpoint.answer = lambda request: (status, HTML, PAGE)
    store = open_at(endpoint, open_driver)
    calls = ["get"] if status == 200 else ["get", "get_range", "delete"]
    for name in calls:
        with pytest.raises(StoreUnsuitableError, match=r"does not speak S3|no Swift answers"):
            CALLS[name](store)


def test_heads_404_without_a_mark_is_asked_again(endpoint: Endpoint) -> None:
    """HEAD's answer has no body that could name S3's code: a GET's has."""
    missing = b"<Error><Code>NoSuchKey</Code></Error>"
    store = open_at(endpoint, open_as_s3)
    endpoint.answer = lambda request: (404, {"Content-Type": "application/xml"}, missing)
    with pytest.raises(ObjectMissingError):
        store.head("a")
    assert [request.method for request in endpoint.requests] == ["HEAD", "GET"]
    assert store.now_ns() > 0
    endpoint.requests.clear()
    endpoint.answer = lambda request: (404, MARK, b"")
    with pytest.raises(ObjectMissingError):
        store.head("a")
    assert [request.method for request in endpoint.requests] == ["HEAD"]

    def there(request: Request) -> Answer:
        return (404, HTML, PAGE) if request.method == "HEAD" else (206, {"ETag": MD5}, b"b")

    endpoint.answer = there
    with pytest.raises(StoreUnavailableError, match="missing for HEAD, but there for GET"):
        store.head("a")


def test_an_answer_that_does_not_say_how_long_it_is(endpoint: Endpoint) -> None:
    """0 would read as an object that ends before it begins."""
    endpoint.answer = lambda request: (200, {"ETag": MD5, "Transfer-Encoding": "chunked", **MARK}, b"0\r\n\r\n")
    with pytest.raises(StoreUnavailableError, match=r"a in s3://bucket/prefix.*does not say how long it is"):
        open_at(endpoint, open_as_s3).head("a")


def test_swifts_container_is_asked_for_when_an_object_is_missing(endpoint: Endpoint) -> None:
    """A whole account may be away: that is no word about the objects in it."""
    time_s = [1000.0]
    store = open_at(endpoint, open_as_swift)
    assert isinstance(store, SwiftStore)
    store._clock_s = lambda: time_s[0]
    endpoint.answer = lambda request: OBJECT
    assert store.get("a") == BODY
    endpoint.answer = lambda request: (404, {**HTML, **MARK}, PAGE)
    time_s[0] += swift.CONTAINER_TRUST_S + 0.1
    for call in (CALLS["get"], CALLS["get_range"], CALLS["head"], CALLS["delete"]):
        with pytest.raises(NoStoreError, match="the container place does not exist"):
            call(store)
    assert swift.CONTAINER_TRUST_S <= 10


def test_without_a_way_to_bulk_deletes_they_go_one_by_one(endpoint: Endpoint) -> None:
    """Somebody before the cluster who lets /info not through must not stop all deletions."""

    def answer(request: Request) -> Answer:
        if request.target == "/info":
            return 404, HTML, PAGE
        return OBJECT if request.method == "GET" else (204, MARK, b"")

    endpoint.answer = answer
    store = open_at(endpoint, open_as_swift)
    assert store.get("a") == BODY
    store.delete_many(["a", "b"])
    assert [request.method for request in endpoint.requests] == ["GET", "GET", "DELETE", "DELETE"]


# -- faults of ours -------------------------------------------------------------------------------------------


@BOTH
def test_a_library_that_stumbles_over_an_answer(
    endpoint: Endpoint, open_driver: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.answer = lambda request: OBJECT
    for error in (KeyError("x"), TypeError("x"), AttributeError("x"), OverflowError("x"), RecursionError("x")):

        def stumble(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(swift_answers, "head", stumble)
            patch.setattr("botocore.parsers.RestXMLParser._do_parse", stumble)
            with pytest.raises(StoreUnavailableError) as caught:
                open_at(endpoint, open_driver).head("a")
            assert caught.value.__cause__ is error


@BOTH
def test_faults_of_the_driver_itself_stay_in_it(
    endpoint: Endpoint, open_driver: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: Any) -> Any:
        raise TypeError("one\ntwo")

    monkeypatch.setattr("cubefs.store.base.check_name", stumble)
    monkeypatch.setattr("cubefs.store.base.check_prefix", stumble)
    store = open_at(endpoint, open_driver)
    for name, call in CALLS.items():
        if name == "now_ns":
            continue
        with pytest.raises(
            StoreError, match=r"unexpected fault of [a-z_]+: TypeError: one\\ntwo; please"
        ) as caught:
            call(store)
        assert type(caught.value) is StoreError


def test_the_net_lets_through_what_is_meant_to_be_heard() -> None:
    @guarded
    class Odd(LocalStore):
        def __init__(self, error: Exception) -> None:
            self.error = error

        def head(self, name: str, *, newest: bool = False) -> Any:
            raise self.error

        def describe(self) -> str:
            return "odd://"

    for error in (GivenUpError("stop"), StoreUnsuitableError("no")):
        with pytest.raises(type(error)) as caught:
            Odd(error).head("a")
        assert caught.value is error
    with pytest.raises(StoreError, match="a in odd://: unexpected fault of head: KeyError: 'x'"):
        Odd(KeyError("x")).head("a")


def test_marks() -> None:
    assert s3_errors.has_id({"x-amz-id-2": "x"})
    assert not s3_errors.has_id({"x-amz-meta": "x"})
