"""The fault proxy: every fault it can make happens, to the requests it is meant for and to no others."""

from __future__ import annotations

import hashlib
import http.client
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from tests.servers.conftest import Client, raw_connection
from tests.support.servers.plain_store import PlainStore
from tests.support.servers.proxy import FaultProxy

BIG = os.urandom(3 << 20)
BROKEN = (OSError, http.client.HTTPException)


def timed(call: Callable[[], object]) -> float:
    """Return how many seconds a call takes."""
    began_s = time.monotonic()
    call()
    return time.monotonic() - began_s


def test_latency(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    store.objects["/b/l"] = b"x"
    faults.settings(latency_ms=50, jitter_ms=10)
    times_s = [timed(lambda: client("GET", "/b/l")) for _ in range(6)]
    assert min(times_s) > 0.039
    assert max(times_s) - min(times_s) > 0.001, "no jitter"
    faults.clear()
    faults.rule("latency", ms=80, methods="PUT")
    assert timed(lambda: client("PUT", "/b/l", b"")) > 0.079
    client("GET", "/b/l")
    assert faults.rules()[0]["hits"] == 1


def test_latency_of_many_connections_does_not_add_up(faults: FaultProxy, store: PlainStore) -> None:
    store.objects["/b/l"] = b"x"
    faults.settings(latency_ms=200)

    def get(_: int) -> int:
        client = Client(faults.url)
        try:
            return client("GET", "/b/l")[0]
        finally:
            client.close()

    with ThreadPoolExecutor(16) as pool:
        began_s = time.monotonic()
        assert set(pool.map(get, range(16))) == {200}
        assert time.monotonic() - began_s < 3
    assert faults.settled_stats(total=16)["max_active"] > 8


@pytest.mark.parametrize("way", ["up", "down"])
def test_bandwidth(faults: FaultProxy, store: PlainStore, way: str) -> None:
    body = BIG[: 1 << 20]
    store.objects["/b/w"] = body

    def move(_: int) -> None:
        client = Client(faults.url)
        if way == "up":
            assert client("PUT", "/b/v", body)[0] == 200
        else:
            assert client("GET", "/b/w") == (200, body)
        client.close()

    def move_at_once(count: int) -> float:
        with ThreadPoolExecutor(count) as pool:
            return timed(lambda: list(pool.map(move, range(count))))

    faults.settings(**{f"conn_{way}": 4 << 20})
    assert 0.2 < move_at_once(6) < 1.4, "each has the rate for itself"
    faults.settings(**{f"conn_{way}": 0, f"total_{way}": 4 << 20})
    assert move_at_once(3) > 0.7, "all share the rate"


@pytest.mark.parametrize(
    "spec",
    [
        {"status": 503, "retry_after": 3},
        {"status": 500},
        {"status": 429, "retry_after": 1, "code": "Busy", "message": "later"},
        {"status": 503, "when": "before"},
    ],
)
def test_errors(faults: FaultProxy, client: Client, store: PlainStore, spec: dict[str, Any]) -> None:
    faults.rule("error", first=2, **spec)
    for method, body in (("PUT", BIG), ("GET", None)):
        try:
            status, text = client(method, "/b/k", body)
        except OSError:
            assert spec.get("when") == "before", "only who is still sending may be cut off"
            continue
        assert status == spec["status"]
        assert client.field("Retry-After") == (str(spec["retry_after"]) if "retry_after" in spec else None)
        if status == 503:
            assert b"<Code>SlowDown</Code>" in text
        if "code" in spec:
            assert b"<Code>Busy</Code><Message>later</Message>" in text
    assert "/b/k" not in store.objects
    assert client("PUT", "/b/k", BIG)[0] == 200
    stats = faults.settled_stats(total=3)
    assert stats["faults"] == {"error": 2}
    assert stats["requests"]["PUT 200"] == 1


def test_an_error_to_one_who_waits_to_be_told_to_go_on(faults: FaultProxy, store: PlainStore) -> None:
    faults.rule("error", status=503, when="before", first=1)
    with raw_connection(faults.url) as (connection, reader):
        connection.sendall(b"PUT /b/x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
        assert b" 503 " in reader.readline()
    assert not store.objects


def test_an_error_although_the_work_is_done(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    faults.rule("error", status=500, forward=True, first=1)
    assert client("PUT", "/b/k", BIG)[0] == 500
    assert store.objects["/b/k"] == BIG
    assert client("GET", "/b/k") == (200, BIG)
    assert faults.settled_stats(total=2)["connections"] == 1


def test_whom_a_rule_hits(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    store.objects["/b/k"] = b"x"
    faults.rule("error", status=500, methods=["GET"], path="^/b/k", skip=2, every=2)
    assert [client("GET", "/b/k")[0] for _ in range(8)] == [200, 200, 200, 500, 200, 500, 200, 500]
    assert client("GET", "/c/k")[0] == 404
    assert client("HEAD", "/b/k")[0] == 200
    faults.clear()
    faults.rule("error", min_size=1000)
    assert client("PUT", "/b/small", b"x" * 999)[0] == 200
    assert client("PUT", "/b/large", b"x" * 1000)[0] == 503
    faults.clear()
    faults.rule("error", for_seconds=0.8)
    assert client("GET", "/b/k")[0] == 503
    time.sleep(0.8)
    assert client("GET", "/b/k")[0] == 200


def test_choices_by_chance_can_be_repeated(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    store.objects["/b/k"] = b"x"
    number = faults.rule("error", status=503, fraction=0.25)
    rounds = []
    for _ in range(2):
        faults.settings(seed=7)
        rounds.append([client("GET", "/b/k")[0] for _ in range(100)])
    assert rounds[0] == rounds[1]
    assert 10 < rounds[0].count(503) < 45
    (rule,) = faults.rules()
    assert (rule["seen"], rule["hits"]) == (200, 2 * rounds[0].count(503))
    faults.remove(number)
    assert client("GET", "/b/k")[0] == 200
    with pytest.raises(ValueError, match=f"no rule {number}"):
        faults.remove(number)


@pytest.mark.parametrize(
    ("action", "spec", "complaint"),
    [
        ("explode", {}, "unknown action"),
        ("error", {"fraction": "x"}, "fraction"),
        ("error", {"status": 99}, "99"),
        ("error", {"path": "("}, "path"),
        ("error", {"colour": 1}, "colour"),
        ("error", {"when": "now"}, "before or after"),
        ("latency", {"ms": "much"}, "ms must be a number"),
        ("corrupt", {"at": "start"}, "at must be"),
        ("corrupt", {"xor": 0}, "xor"),
        ("cut_request", {"how": "gently"}, "fin or rst"),
        ("stall", {"direction": "up"}, "direction"),
    ],
)
def test_a_rule_that_makes_no_sense(faults: FaultProxy, action: str, spec: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        faults.rule(action, **spec)
    assert not faults.rules()


def test_a_setting_that_makes_no_sense(faults: FaultProxy) -> None:
    for bad in ({"latency": 5}, {"latency_ms": -1}):
        with pytest.raises(ValueError, match="latency"):
            faults.settings(**bad)


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize(("at", "arrived"), [(0, 0), (100_000, 100_000), (0.5, len(BIG) // 2), ("random", None)])
def test_a_request_is_cut(
    faults: FaultProxy, client: Client, store: PlainStore, how: str, at: float | str, arrived: int | None
) -> None:
    faults.rule("cut_request", at=at, how=how, first=1)
    with pytest.raises(BROKEN):
        client("PUT", "/b/k", BIG)
    assert client("PUT", "/b/k2", b"x")[0] == 200
    assert faults.settled_stats(total=2)["requests"] == {"PUT 200": 1, "PUT cut": 1}
    deadline = time.monotonic() + 5
    while not store.truncated:
        assert time.monotonic() < deadline, "the server was not told"
        time.sleep(0.01)
    assert "/b/k" not in store.objects
    if arrived is not None:
        assert store.truncated == [("/b/k", arrived, len(BIG))]


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("query", ["", "?chunked", "?open"])
def test_an_answer_is_cut(faults: FaultProxy, client: Client, store: PlainStore, how: str, query: str) -> None:
    store.objects["/b/k"] = BIG
    faults.rule("cut_response", at=1_000_000, how=how, first=1)
    if query == "?open" and how == "fin":
        assert client("GET", f"/b/k{query}") == (200, BIG[:1_000_000])
    else:
        with pytest.raises(BROKEN) as caught:
            client("GET", f"/b/k{query}")
        if how == "fin" and not query:
            assert isinstance(caught.value, http.client.IncompleteRead)
            assert len(caught.value.partial) == 1_000_000
    assert client("GET", "/b/k") == (200, BIG)
    assert faults.settled_stats(total=2)["requests"] == {"GET 200": 1, "GET 200 cut": 1}


def test_the_work_is_done_but_no_answer_comes(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    faults.rule("cut_response", at="start", methods="PUT", first=1)
    with pytest.raises(BROKEN):
        client("PUT", "/b/k", BIG)
    assert store.objects["/b/k"] == BIG


@pytest.mark.parametrize("query", ["", "?chunked", "?open"])
@pytest.mark.parametrize("at", [0, 5, 0.5, 40_000, "random"])
def test_a_byte_of_an_answer_is_changed(
    faults: FaultProxy, client: Client, store: PlainStore, query: str, at: float | str
) -> None:
    body = BIG[:60_000]
    store.objects["/b/k"] = body
    faults.rule("corrupt", at=at, first=1)
    status, received = client("GET", f"/b/k{query}")
    assert (status, len(received)) == (200, len(body))
    changed = [place for place in range(len(body)) if body[place] != received[place]]
    if not (at == "random" and query):  # may lie beyond the end where the length is not announced
        assert len(changed) == 1
    if isinstance(at, int):
        assert changed == [at]
        assert received[at] == body[at] ^ 1
    assert client("GET", f"/b/k{query}") == (200, body)


def test_a_byte_of_a_request_is_changed(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    faults.rule("corrupt", direction="request", at=2_000_000, xor=0x80)
    assert client("PUT", "/b/k", BIG)[0] == 200
    wanted = bytearray(BIG)
    wanted[2_000_000] ^= 0x80
    assert store.objects["/b/k"] == wanted


@pytest.mark.parametrize("direction", ["request", "response"])
def test_silence_in_the_middle(faults: FaultProxy, client: Client, store: PlainStore, direction: str) -> None:
    store.objects["/b/k"] = BIG
    faults.rule("stall", at=0.3, seconds=0.4, direction=direction)
    if direction == "request":
        assert timed(lambda: client("PUT", "/b/k", BIG)) > 0.4
    else:
        assert timed(lambda: client("GET", "/b/k")) > 0.4
    assert store.objects["/b/k"] == BIG


def test_an_object_is_lost(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    faults.rule("lose_put", first=2)
    assert client("PUT", "/bucket", b"")[0] == 200
    assert "/bucket" in store.objects, "this is no object"
    assert client("PUT", "/b/k", BIG)[0] == 200
    assert client.field("ETag") == f'"{hashlib.md5(BIG).hexdigest()}"'
    assert client("GET", "/b/k")[0] == 404
    assert client("PUT", "/v1/AUTH_x/c", b"", X_Auth_Token="t")[0] == 200
    assert client("PUT", "/v1/AUTH_x/c/o", b"zz", X_Auth_Token="t")[0] == 201
    assert client.field("Etag") == hashlib.md5(b"zz").hexdigest()
    assert client("PUT", "/b/k", BIG)[0] == 200
    assert client("GET", "/b/k") == (200, BIG)
    stats = faults.settled_stats(total=7)
    assert stats["faults"] == {"lose_put": 2}
    assert stats["connections"] == 1


def test_the_etag_of_a_lost_object_that_was_sent_in_signed_chunks(faults: FaultProxy, client: Client) -> None:
    faults.rule("lose_put")
    parts = [BIG[start : start + 65_536] for start in range(0, 300_000, 65_536)]
    text = b"".join(b"%x;chunk-signature=00\r\n%s\r\n" % (len(part), part) for part in parts)
    text += b"0;chunk-signature=00\r\nx-amz-checksum-crc32:AAAA\r\n\r\n"
    assert client("PUT", "/b/k", text, x_amz_content_sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER")[0] == 200
    assert client.field("ETag") == f'"{hashlib.md5(b"".join(parts)).hexdigest()}"'


def test_an_object_appears_late(faults: FaultProxy, client: Client) -> None:
    faults.rule("hide_new", seconds=1.0, path="/b/")
    assert client("PUT", "/b/k", b"content")[0] == 200
    began_s = time.monotonic()
    assert client("GET", "/b/k")[0] == 404
    assert client("HEAD", "/b/k")[0] == 404
    assert client("GET", "/b/k?versionId=1")[0] == 404
    time.sleep(max(0.0, began_s + 1.0 - time.monotonic()))
    assert client("GET", "/b/k") == (200, b"content")
    assert client("PUT", "/c/k", b"")[0] == 200
    assert client("GET", "/c/k")[0] == 200
    assert faults.settled_stats(total=7)["faults"] == {"hide_new": 3}


def test_the_clock_of_the_server_is_off(faults: FaultProxy, client: Client) -> None:
    for seconds in (3600, -3600):
        faults.clear()
        faults.rule("skew_date", seconds=seconds)
        client("PUT", "/b/k", b"x")
        date = client.field("Date")
        assert date is not None
        assert abs(parsedate_to_datetime(date).timestamp() - time.time() - seconds) < 5


def test_the_store_is_gone_and_comes_back(faults: FaultProxy, client: Client, store: PlainStore) -> None:
    number = faults.rule("error", path="/never")
    assert client("PUT", "/b/k", b"content")[0] == 200
    url = faults.url
    for _ in range(3):
        faults.stop()
        with pytest.raises(BROKEN):
            client("GET", "/b/k")
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                client("GET", "/b/k")
        faults.start()
        assert client("GET", "/b/k") == (200, b"content")
    assert faults.url == url
    assert [rule["id"] for rule in faults.rules()] == [number]
    assert faults.settled_stats(total=4)["total"] == 4


def test_requests_under_way_are_cut_when_the_store_goes(faults: FaultProxy, store: PlainStore) -> None:
    faults.settings(conn_up=100_000)
    with ThreadPoolExecutor(1) as pool:
        client = Client(faults.url)
        put = pool.submit(client, "PUT", "/b/k", BIG)
        while not faults.stats()["active"]:
            time.sleep(0.01)
        faults.stop()
        with pytest.raises(BROKEN):
            put.result(10)
    faults.start()
    assert faults.settled_stats(total=1)["requests"] == {"PUT shut": 1}
    assert not store.objects


def test_the_log_tells_what_came_through(faults: FaultProxy, client: Client) -> None:
    client("PUT", "/b/k", b"12345")
    faults.rule("error", status=503)
    client("GET", "/b/k?x=y")
    faults.settled_stats(total=2)
    put, get = faults.log()
    assert (put["method"], put["target"], put["status"], put["up"]) == ("PUT", "/b/k", 200, 5)
    assert (get["method"], get["target"], get["status"], get["fault"]) == ("GET", "/b/k?x=y", 503, "error")
    faults.reset()
    assert faults.stats()["total"] == 0
    assert faults.log() == []
