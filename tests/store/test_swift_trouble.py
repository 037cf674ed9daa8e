"""The Swift driver on a bad day: tokens that are refused, answers that are errors, lines that are cut or slow.

A real Swift behind the fault proxy.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cubefs.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from cubefs.model import KIB, MIB
from cubefs.store import swift_http
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


# -- tokens ---------------------------------------------------------------------------------------------------


def test_every_call_gets_a_new_token_when_the_old_one_is_refused(
    swift_server: SwiftServer, store: SwiftStore
) -> None:
    big = os.urandom(5 * MIB)
    store.put("x", big)
    calls: list[tuple[Callable[[], Any], Any]] = [
        (lambda: store.put("y", big), None),
        (lambda: store.put_new("z", big), None),
        (lambda: store.get("x"), big),
        (lambda: store.get_range("x", start=5, length=7), big[5:12]),
        (lambda: store.head("x").size_bytes, len(big)),
        (lambda: [info.name for info in store.list("")], ["x", "y", "z"]),
        (lambda: store.delete("y"), None),
        (lambda: store.delete_many(["z", "y"]), None),
        (lambda: store.now_ns() > 0, True),
        (lambda: [info.name for info in store.list("")], ["x"]),
    ]
    for call, expected in calls:
        swift_server.forget_tokens()
        assert call() == expected


def test_many_threads_renew_a_token_once(swift_server: SwiftServer, far: Far) -> None:
    def ask(_: int) -> None:
        for _turn in range(4):
            far.store.get("seen")

    swift_server.forget_tokens()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    assert far.login_count() == 1


def test_credentials_revoked_and_restored(swift_server: SwiftServer) -> None:
    user = swift_server.add_user(SwiftUser(f"acc{secrets.token_hex(4)}", "user", "key-of-the-user"))
    access = swift_server.swift_as(user)
    access.make_container("own")
    store = open_swift("swift://own/a", environ=access.environment())
    store.put("x", b"1")
    swift_server.revoke(user)
    for _ in range(2):
        with pytest.raises(StoreDeniedError, match=r"swift://own/a: authentication at .* check the user") as caught:
            store.put("x", b"2")
        assert not caught.value.retryable
        assert "key-of-the-user" not in str(caught.value)
    swift_server.add_user(user)
    store.put("x", b"3")
    assert store.get("x") == b"3"


def test_when_authentication_is_away_nobody_waits_in_line(swift_server: SwiftServer, far: Far) -> None:
    swift_server.forget_tokens()
    far.door.rule("latency", ms=2000, path="^/auth/")
    far.door.rule("error", status=503, path="^/auth/", retry_after=7)
    barrier = threading.Barrier(12)

    def ask(_: int) -> StoreError:
        barrier.wait()
        with pytest.raises(StoreBusyError, match="authentication at") as caught:
            far.store.get("seen")
        assert caught.value.retry_after_s == 7.0
        return caught.value

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, range(12)))
    assert far.login_count() == 1
    far.door.clear()
    assert far.store.get("seen") == b""


def test_after_a_broken_put_the_next_one_asks_whether_it_is_welcome(swift_server: SwiftServer, far: Far) -> None:
    """A balancer that resets the connection of a refused put: without asking nobody would ever hear of 401."""
    data = os.urandom(MIB)
    far.door.rule("cut_request", methods="PUT", first=1)
    with pytest.raises(StoreUnavailableError, match="x in swift://"):
        far.store.put("x", data)
    swift_server.forget_tokens()
    far.door.settled_stats(total=1)
    far.door.clear()
    far.store.put("x", data)
    found = far.requests(4)
    assert found == {"HEAD 401": 1, "GET 200": 1, "HEAD 204": 1, "PUT 201": 1}
    far.store.put("y", data)
    assert far.requests(5)["HEAD 204"] == 1


# -- trouble --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "retry_after"),
    [
        (503, StoreBusyError, 3),
        (429, StoreBusyError, None),
        (500, StoreUnavailableError, None),
        (413, StoreFullError, None),
        (507, StoreFullError, None),
        (403, StoreDeniedError, None),
        (400, StoreError, None),
    ],
)
def test_statuses_mean_what_they_mean_for_all_drivers(
    far: Far, status: int, error: type[StoreError], retry_after: int | None
) -> None:
    rule = far.door.rule("error", status=status, methods=["PUT", "GET"], retry_after=retry_after)
    for call in (
        lambda: far.store.put("x", os.urandom(MIB)),
        lambda: far.store.get("seen"),
        lambda: list(far.store.list("")),
    ):
        with pytest.raises(StoreError, match=rf"in swift://.*{status}") as caught:
            call()
        assert type(caught.value) is error
        assert getattr(caught.value, "retry_after_s", None) == retry_after
    far.door.remove(rule)
    assert far.store.get("seen") == b""


@pytest.mark.parametrize("at", ["start", 10, 0.5])
@pytest.mark.parametrize("how", ["fin", "rst"])
def test_an_answer_that_is_cut_short(far: Far, at: Any, how: str) -> None:
    data = os.urandom(500 * KIB)
    far.store.put("x", data)
    for call in (
        lambda: far.store.get("x"),
        lambda: far.store.get_range("x", start=0, length=400 * KIB),
        lambda: list(far.store.list("")),
    ):
        rule = far.door.rule("cut_response", methods="GET", at=at, how=how, first=1)
        with pytest.raises(StoreUnavailableError, match="in swift://") as caught:
            call()
        assert "\n" not in str(caught.value)
        far.door.remove(rule)
        assert far.store.get("x") == data  # on a connection that is whole


def test_a_put_on_a_slow_line_takes_the_time_it_takes(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit for connecting holds for every part of a body, not for all of it."""
    monkeypatch.setattr(swift_http, "CONNECT_TIMEOUT_S", 1.5)
    far.store._links = swift_http.Links(cacert=None)
    far.door.settings(conn_up=4_000_000)
    data = os.urandom(16 * MIB)
    far.store.put("x", data)
    far.door.clear()
    assert far.store.head("x").size_bytes == len(data)


def test_silence_ends_in_time(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    far.store.put("x", os.urandom(MIB))
    monkeypatch.setattr(swift_http, "READ_TIMEOUT_S", 2.0)
    far.store._links = swift_http.Links(cacert=None)
    far.door.rule("stall", methods="GET", seconds=60, first=1)
    with pytest.raises(StoreUnavailableError, match="no answer in time"):
        far.store.get("x")
    assert len(far.store.get("x")) == MIB


def test_connections_are_few_reused_and_survive_errors(far: Far) -> None:
    for _ in range(3):
        far.store.put("x", b"1")
        with pytest.raises(ObjectMissingError):
            far.store.get("missing")
        with pytest.raises(ObjectExistsError):
            far.store.put_new("x", os.urandom(MIB))
        far.store.delete("missing")
        list(far.store.list(""))
    assert far.store._links.idle_count() == 1
    before = far.door.stats()["connections"]
    with ThreadPoolExecutor(swift_http.IDLE_MAX_COUNT + 8) as pool:
        list(pool.map(lambda _: far.store.get("x"), range(200)))
    assert far.store._links.idle_count() <= swift_http.IDLE_MAX_COUNT
    assert far.door.stats()["connections"] - before <= 60


def test_connections_that_were_idle_too_long_are_closed(store: SwiftStore) -> None:
    time_s = [0.0]
    links = store._links = swift_http.Links(cacert=None, clock_s=lambda: time_s[0])
    with links.link("http://127.0.0.1:1"), links.link("http://127.0.0.1:1"), links.link("http://127.0.0.1:1"):
        assert links.idle_count() == 0
    assert links.idle_count() == 3
    time_s[0] += swift_http.IDLE_MAX_S + 1
    with links.link("http://127.0.0.1:1"):
        pass
    assert links.idle_count() == 1
    with links.link("http://127.0.0.1:2"):  # the account has moved
        assert links.idle_count() == 0
