"""What is particular to the Swift driver: names, ETags, manifests, containers, bulk deletes.

All against a real Swift. Tokens, broken connections and errors are in test_swift_trouble.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cubefs.errors import (
    NoStoreError,
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
    StoreUnsuitableError,
    UsageError,
)
from cubefs.model import MIB
from cubefs.store import base, swift, swift_answers, swift_http
from cubefs.store.pace import Unpaced
from cubefs.store.swift import SwiftStore, open_swift
from tests.support.servers.access import DIRECT
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.swift import SwiftServer, SwiftUser
from tests.support.swift_stores import Far, make_place, open_far, open_near


@pytest.fixture(autouse=True)
def no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in DIRECT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def place(swift_server: SwiftServer) -> str:
    """A container of one's own."""
    return make_place(swift_server)


@pytest.fixture
def store(swift_server: SwiftServer, place: str) -> SwiftStore:
    return open_near(swift_server, place)


@pytest.fixture
def far(swift_server: SwiftServer, proxy: Callable[[str], FaultProxy]) -> Far:
    return open_far(swift_server, proxy(swift_server.url))


@pytest.fixture
def raw(swift_server: SwiftServer) -> Iterator[Any]:
    with swift_server.swift.connection() as connection:
        yield connection


# -- names and listings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("swift://", "container"),
        ("swift:///x", "container"),
        ("swift://user:key@host/x", "credentials"),
        ("swift://c/a//b", "prefix"),
        ("swift://c/a?regoin=x", "regoin.*region"),
        ("swift://c/a?region=", "needs a value"),
    ],
)
def test_wrong_urls_are_refused_in_one_line(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_swift(url, environ={})
    assert "\n" not in str(caught.value)


def test_one_place_has_one_url(swift_server: SwiftServer) -> None:
    environ = swift_server.swift_environment()
    assert open_swift("swift://place/a/?region=x", environ=environ).describe() == "swift://place/a?region=x"
    assert open_swift("swift://place/", environ=environ).describe() == "swift://place"


def test_what_is_not_ours_is_passed_over(store: SwiftStore, raw: Any, place: str) -> None:
    for key in ["a/b", "a/bb/x", "a/b-x", "a/b/", "a/b/ä", "a/b/x y", "a/b/.x", "a/b//x", "a/b/x/", "a/c", "zz"]:
        raw.put_object(place, key, b"foreign")
    for name in ["x", "x/y", "z"]:
        store.put(name, name.encode())
    assert [info.name for info in store.list("")] == ["x", "x/y", "z"]
    assert [info.name for info in store.list("x", start_after="x")] == ["x/y"]


def test_a_container_without_a_prefix(swift_server: SwiftServer, place: str) -> None:
    store = open_swift(f"swift://{place}", environ=swift_server.swift_environment())
    store.put("a/b", b"1")
    assert ([info.name for info in store.list("")], store.get("a/b")) == (["a/b"], b"1")
    store.delete_many(["a/b", "a/c"])
    assert list(store.list("")) == []


def test_times_have_fractions_of_a_second_and_are_the_same_everywhere(store: SwiftStore) -> None:
    store.put("x", b"1")
    (info,) = store.list("")
    assert info == store.head("x")
    assert info.modified_ns % 10**9 != 0


def test_pages_grow_and_end(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "FIRST_PAGE_COUNT", 3)
    far.store.delete("seen")
    for number in range(8):
        far.store.put(f"n/{number}", b"")
    far.door.settled_stats(total=9)
    far.door.reset()
    assert len(list(far.store.list("n/"))) == 8
    assert far.requests(3) == {"GET 200": 3}  # three names, five, none
    next(far.store.list("n/"))
    assert far.requests(4) == {"GET 200": 4}


# -- ETags ----------------------------------------------------------------------------------------------------


def test_a_body_damaged_on_the_way_in_is_not_stored(far: Far) -> None:
    far.door.rule("corrupt", direction="request", methods="PUT", first=1)
    with pytest.raises(StoreUnavailableError, match=r"x in swift://.*422"):
        far.store.put("x", os.urandom(100_000))
    with pytest.raises(ObjectMissingError):
        far.store.get("x")


def test_a_body_damaged_on_the_way_out_is_not_returned(far: Far) -> None:
    data = os.urandom(100_000)
    far.store.put("x", data)
    far.door.rule("corrupt", methods="GET", first=1)
    with pytest.raises(StoreUnavailableError, match=r"x in swift://.* damaged on the way"):
        far.store.get("x")
    assert far.store.get("x") == data


def test_the_etag_is_the_md5(store: SwiftStore, raw: Any, place: str) -> None:
    store.put("x", b"1234")
    assert raw.head_object(place, "a/b/x")["etag"] == hashlib.md5(b"1234").hexdigest()


def test_an_object_without_an_etag_is_no_swift_object(swift_server: SwiftServer, place: str) -> None:
    store = open_swift(f"swift://{place}", environ=swift_server.swift_environment())
    with pytest.raises(StoreUnsuitableError, match="without an ETag"):
        store._compare("x", b"", "")


def test_reading_back_asks_for_the_newest(store: SwiftStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    request = swift_http.Link.request

    def spy(link: Any, method: str, path: str, data: Any = None, headers: Any = None) -> Any:
        seen.append((method, {**headers}.get("X-Newest") == "true"))
        return request(link, method, path, data, headers)

    store.put("x", b"1")
    monkeypatch.setattr(swift_http.Link, "request", spy)
    for newest in (True, False):
        store.get("x", newest=newest)
        store.head("x", newest=newest)
    store.get_range("x", start=0, length=1)
    assert seen == [("GET", True), ("HEAD", True), ("GET", False), ("HEAD", False), ("GET", False)]


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_large_objects_are_not_ours(store: SwiftStore, raw: Any, place: str, kind: str) -> None:
    raw.put_object(place, "parts/1", b"part")
    if kind == "dynamic":
        raw.put_object(place, "a/b/x", b"", headers={"X-Object-Manifest": f"{place}/parts/"})
    else:
        manifest = json.dumps([{"path": f"{place}/parts/1"}])
        raw.put_object(place, "a/b/x", manifest, query_string="multipart-manifest=put")
    for call in (
        lambda: store.get("x"),
        lambda: store.get_range("x", start=0, length=2),
        lambda: store.head("x"),
    ):
        with pytest.raises(StoreError, match=r"x in swift://.* large-object manifest, not one of ours") as caught:
            call()
        assert not caught.value.retryable
    store.put("x", b"ours")
    assert store.get("x") == b"ours"


def test_an_object_that_is_too_long_is_not_read(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    far.store.put("x", bytes(20 * MIB))
    monkeypatch.setattr(base, "OBJECT_MAX_BYTES", MIB)
    with pytest.raises(StoreError, match=f"x in swift://.* is {20 * MIB} bytes long"):
        far.store.get("x")
    far.store.get("seen")
    assert far.door.settled_stats()["bytes_down"] < 12 * MIB  # what is on the way already, no more


# -- two at once ----------------------------------------------------------------------------------------------


HELD_BYTES = 12 * MIB  # more than the kernel keeps for both ends: the server has begun to read


class _Held(Unpaced):
    """Stops a body when much of it has been sent, until told to go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.sent_bytes = 0

    def is_limited_up(self) -> bool:
        return True

    def sending(self, byte_count: int) -> None:
        self.sent_bytes += byte_count
        if self.sent_bytes > HELD_BYTES:
            self.begun.set()
            assert self.go_on.wait(60)


def test_of_two_overlapping_exclusive_puts_the_overtaken_one_learns_of_it(
    swift_server: SwiftServer, store: SwiftStore
) -> None:
    pace = _Held()
    slow = open_swift(store.describe(), pace=pace, environ=swift_server.swift_environment())
    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(slow.put_new, "meta/1", bytes(HELD_BYTES + MIB))
            assert pace.begun.wait(60)
            store.put_new("meta/1", b"second")
        finally:
            pace.go_on.set()
        with pytest.raises(ObjectExistsError, match="meta/1"):
            first.result(60)
    assert store.get("meta/1") == b"second"


def test_a_put_that_was_overtaken_is_fine(swift_server: SwiftServer, store: SwiftStore) -> None:
    pace = _Held()
    slow = open_swift(store.describe(), pace=pace, environ=swift_server.swift_environment())
    with ThreadPoolExecutor(1) as pool:
        try:
            first = pool.submit(slow.put, "x", bytes(HELD_BYTES + MIB))
            assert pace.begun.wait(60)
            store.put("x", b"second")
        finally:
            pace.go_on.set()
        first.result(60)
    assert store.get("x") == b"second"


def test_a_put_that_was_not_stored_is_told_from_one_that_was_overtaken(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202 is what a cluster answers that keeps an object from the future instead."""
    date_ns = swift_answers.date_ns
    monkeypatch.setattr(swift_answers, "date_ns", lambda headers: date_ns(headers) - 3600 * 10**9)
    far.store.put("x", b"from the future")
    far.door.rule("error", status=202, methods="PUT", first=3)
    with pytest.raises(StoreUnavailableError, match=r"clocks of the cluster.*\(202\)"):
        far.store.put("x", b"new")
    far.store.put("x", b"from the future")  # is there, whoever put it
    with pytest.raises(StoreUnavailableError, match=r"missing.*deleted while it was put \(202\)"):
        far.store.put("missing", b"new")
    assert far.store.get("x") == b"from the future"


# -- the container --------------------------------------------------------------------------------------------


def test_a_missing_container_is_told_by_every_call(swift_server: SwiftServer) -> None:
    environ = swift_server.swift_environment()
    calls: list[Callable[[SwiftStore], Any]] = [
        lambda store: store.put("x", os.urandom(3 * MIB)),
        lambda store: store.put_new("x", b""),
        lambda store: store.get("x"),
        lambda store: store.get_range("x", start=0, length=1),
        lambda store: store.head("x"),
        lambda store: list(store.list("")),
        lambda store: store.now_ns(),
    ]
    for call in calls:
        with pytest.raises(NoStoreError, match=r"container missing-one does not exist.*swift post missing-one"):
            call(open_swift("swift://missing-one/a", environ=environ))


def test_missing_objects_cost_one_request_each_and_one_in_a_while(far: Far) -> None:
    store, time_s = far.store, [1000.0]
    store._seen_s, store._clock_s = None, lambda: time_s[0]

    def look(times: int) -> dict[str, int]:
        for number in range(times):
            with pytest.raises(ObjectMissingError):
                store.get(f"meta/{number}")
        found = far.requests(times)
        far.door.reset()
        return found

    assert look(5) == {"GET 404": 5, "HEAD 204": 1}
    assert look(5) == {"GET 404": 5}
    time_s[0] += swift.CONTAINER_TRUST_S + 1
    assert look(5) == {"GET 404": 5, "HEAD 204": 1}
    time_s[0] += swift.CONTAINER_TRUST_S + 1
    store.put("x", b"")
    assert look(5) == {"PUT 201": 1, "GET 404": 5}


def test_a_container_that_cannot_be_asked_for_says_nothing_about_it(far: Far) -> None:
    far.store._seen_s = None
    far.door.rule("error", status=503, methods="HEAD", first=1)
    with pytest.raises(StoreBusyError, match="container"):
        far.store.get("meta/1")
    far.door.rule("error", status=403, methods="HEAD", first=1)
    with pytest.raises(ObjectMissingError):
        far.store.get("meta/1")


def test_a_guest_may_do_what_the_container_allows(swift_server: SwiftServer, raw: Any, place: str) -> None:
    guest = swift_server.add_user(SwiftUser(f"guest{secrets.token_hex(4)}", "user", "key", groups=()))
    owner = swift_server.swift
    environ = {**swift_server.swift_as(guest).environment(), "OS_STORAGE_URL": owner.storage_url}
    store = open_swift(f"swift://{place}/a", environ=environ)
    with pytest.raises(StoreDeniedError, match=r"x in swift://.*\(403\)"):
        store.put("x", os.urandom(MIB))
    raw.post_container(place, {"X-Container-Read": guest.name, "X-Container-Write": guest.name})
    store.put("x", b"1")
    assert ([info.name for info in store.list("")], store.get("x")) == (["x"], b"1")
    raw.post_container(place, {"X-Container-Write": ""})
    for call in (
        lambda: store.put("x", b"2"),
        lambda: store.put_new("y", b"2"),
        lambda: store.delete("x"),
        lambda: store.delete_many(["x", "y"]),
    ):
        with pytest.raises(StoreDeniedError, match="403"):
            call()
    assert store.get("x") == b"1"


# -- deleting many --------------------------------------------------------------------------------------------


def test_bulk_deletes(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swift, "BULK_MAX_COUNT", 4)
    for turn in range(2):
        far.store.put("packs/3", b"")
        far.store.delete_many(f"packs/{number}" for number in range(10))
        assert list(far.store.list("packs/")) == []
        asked = [entry["target"] == "/info" for entry in far.door.log()]
        assert (turn, sum(asked)) == (turn, 1)
    found = far.requests(2 * (1 + 3 + 1) + 1)
    assert found == {"PUT 201": 2, "POST 200": 6, "GET 200": 3}


@pytest.mark.parametrize("status", [403, 404])
def test_without_bulk_deletes_objects_go_one_by_one(far: Far, status: int) -> None:
    far.door.rule("error", status=status, path="^/info")
    far.store.put("a", b"")
    far.store.delete_many(["a", "b"])
    far.store.delete_many(["c", "d"])
    assert far.requests(6) == {"PUT 201": 1, f"GET {status}": 1, "DELETE 204": 1, "DELETE 404": 3}


def test_a_cluster_that_is_busy_is_asked_again_for_its_bulk_deletes(far: Far) -> None:
    far.door.rule("error", status=503, path="^/info", first=1)
    with pytest.raises(StoreBusyError, match="capabilities"):
        far.store.delete_many(["a", "b"])
    far.store.delete_many(["a", "b"])
    assert far.requests(3) == {"GET 503": 1, "GET 200": 1, "POST 200": 1}
