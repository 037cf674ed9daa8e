"""What is particular to the S3 driver: real servers on a bad day, and endpoints that are none."""

from __future__ import annotations

import datetime
import itertools
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.auth
import pytest

from cubefs.errors import (
    NoStoreError,
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    StoreUnsuitableError,
    UsageError,
)
from cubefs.model import KIB, MIB
from cubefs.store import open_store
from cubefs.store.base import GivenUpError, Store
from cubefs.store.pace import Unpaced
from cubefs.store.s3 import open_s3
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.swift import SwiftServer, SwiftUser

BUCKET = "s3-driver"
HOUR_S = 3600


@pytest.fixture
def url(swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store of Swift's S3; its credentials and endpoint are in the environment."""
    swift_server.make_bucket(BUCKET)
    use(monkeypatch, swift_server.s3_environment())
    return f"s3://{BUCKET}/{secrets.token_hex(8)}"


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


@pytest.fixture(scope="module")
def faults(swift_server: SwiftServer) -> Iterator[FaultProxy]:
    with FaultProxy(swift_server.url) as proxy:
        yield proxy


@pytest.fixture
def faulty(url: str, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The same store, through a proxy that does what it is told."""
    faults.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faults.url)
    yield open_store(url)
    faults.clear()


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def line_of(caught: pytest.ExceptionInfo[StoreError]) -> str:
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 400
    assert "Exception" not in line and "object at 0x" not in line and "Error(" not in line
    return line


# -- opening --------------------------------------------------------------------------------------------------


def test_nothing_is_asked_when_a_store_is_opened(faulty: Store, faults: FaultProxy) -> None:
    assert faulty.describe().startswith(f"s3://{BUCKET}/")
    assert faulty.free_bytes() is None
    assert faults.stats()["total"] == 0


def test_the_url_says_where_and_how(
    swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The options come before what the environment says; one store has one URL."""
    access = swift_server.s3
    access.make_bucket(BUCKET)
    profile = tmp_path / "credentials"
    profile.write_text(
        f"[backup]\naws_access_key_id = {access.access_key}\naws_secret_access_key = {access.secret_key}\n"
    )
    others = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong", "AWS_DEFAULT_REGION": "eu-north-9"}
    use(monkeypatch, {**access.environment(), **others, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"})
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    prefix = secrets.token_hex(8)
    given = f"s3://{BUCKET}/{prefix}/?region={access.region}&profile=backup&endpoint_url={access.endpoint}/"
    store = open_store(given + "&addressing_style=auto")
    store.put("a", b"1")
    assert store.get("a") == b"1"
    same = f"s3://{BUCKET}/{prefix}?endpoint_url={access.endpoint}&profile=backup&region={access.region}"
    assert store.describe() == same
    assert open_store(same).describe() == same
    path = open_store(given + "&addressing_style=path")
    assert path.get("a") == b"1"
    assert path.describe() == f"{same.partition('?')[0]}?addressing_style=path&{same.partition('?')[2]}"


def test_an_endpoint_called_localhost(url: str, swift_server: SwiftServer) -> None:
    """Not as bucket.localhost, which no resolver has to know."""
    port = swift_server.url.rpartition(":")[2]
    store = open_store(f"{url}?endpoint_url=http://localhost:{port}")
    store.put("a", b"1")
    assert store.get("a") == b"1"


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("profile=nobody", r"profile \(nobody\) could not be found; set AWS_ACCESS_KEY_ID"),
        ("region=not%20a%20region", "cannot use s3://.*: Provided region_name 'not a region'"),
        ("addressing_style=dns", "unknown addressing_style 'dns': there are auto, path, virtual"),
        ("endpoint_url=127.0.0.1:8080", "write endpoint_url=https://host:port"),
        ("endpoint_url=http://me:secret@host", "must not contain credentials"),
    ],
)
def test_options_that_make_no_sense(url: str, option: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        open_store(f"{url}?{option}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", [["AWS_SECRET_ACCESS_KEY"], ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]])
def test_missing_credentials(url: str, missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in missing:
        monkeypatch.delenv(name)
    with pytest.raises(UsageError, match=r"no .*credentials for s3://.*: set AWS_ACCESS_KEY_ID and .*AWS_PROFILE"):
        open_store(url)


# -- refusals -------------------------------------------------------------------------------------------------


def test_a_missing_bucket(url: str, swift_server: SwiftServer) -> None:
    store = open_store("s3://cubefs-has-no-such-bucket/x")
    calls: list[Callable[[], object]] = [
        lambda: store.put("a", b""),
        lambda: store.put_new("a", b""),
        lambda: store.get("a"),
        lambda: store.get_range("a", start=0, length=1),
        lambda: list(store.list("")),
        lambda: store.delete("a"),
        lambda: store.delete_many(["a", "b"]),
    ]
    says = f"the bucket cubefs-has-no-such-bucket does not exist at {swift_server.url}: create it first"
    for call in calls:
        with pytest.raises(NoStoreError) as caught:
            call()
        assert line_of(caught) == says
    with pytest.raises(ObjectMissingError):
        store.head("a")
    assert abs(store.now_ns() - time.time_ns()) < 10 * 10**9


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_keys_are_not_repeated(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "wJalrXUtnFEMI")
    store = open_store(url)
    for call in (lambda: store.get("a"), lambda: store.head("a"), store.now_ns):  # HEAD has no body that tells
        with pytest.raises(
            StoreDeniedError, match=r"the secret key is wrong for this access key.*check both"
        ) as caught:
            call()
        assert "wJalrXUtnFEMI" not in line_of(caught)


def test_read_only_credentials(url: str, swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = swift_server.add_user(SwiftUser("test", "reader", "reading", groups=()))
    swift_server.swift.make_container(BUCKET, {"X-Container-Read": reader.name})
    open_store(url).put("a", b"1")
    use(monkeypatch, swift_server.s3_as(reader).environment())
    store = open_store(url)
    assert store.get("a") == b"1"
    assert [info.name for info in store.list("")] == ["a"]
    for call in (lambda: store.put("a", b"2"), lambda: store.put_new("b", b"2"), lambda: store.delete("a")):
        with pytest.raises(StoreDeniedError, match=r"in s3://.*no permission for that \(AccessDenied\)") as caught:
            call()
        assert not caught.value.retryable
        line_of(caught)
    with pytest.raises(StoreError) as caught:
        store.delete_many(["a", "b"])
    line_of(caught)
    assert store.get("a") == b"1"


@pytest.mark.parametrize(
    ("ahead_s", "says"), [(HOUR_S, "ours is 3[56].. s ahead of"), (-HOUR_S, "ours is 3[56].. s behind")]
)
def test_a_clock_that_is_off(url: str, ahead_s: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of this process, as botocore signs with it and we read it."""
    store, now_s = open_store(url), time.time
    wrong = datetime.timedelta(seconds=ahead_s)
    monkeypatch.setattr(
        botocore.auth,
        "get_current_datetime",
        lambda: datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + wrong,
    )
    monkeypatch.setattr(time, "time", lambda: now_s() + ahead_s)
    for call in (lambda: store.put("a", b"1"), lambda: store.get("a"), lambda: list(store.list("")), store.now_ns):
        with pytest.raises(StoreDeniedError, match=f"{says}.*; set it right") as caught:
            call()
        line_of(caught)


# -- a bad day ------------------------------------------------------------------------------------------------


def test_one_call_is_one_request(faulty: Store, faults: FaultProxy) -> None:
    """botocore repeats nothing: retry.py is the only policy."""
    faults.rule("error", status=503, retry_after=7)
    calls: list[Callable[[], object]] = [
        lambda: faulty.put("a", b"1"),
        lambda: faulty.put_new("a", b"1"),
        lambda: faulty.get("a"),
        lambda: faulty.get_range("a", start=0, length=1),
        lambda: faulty.head("a"),
        lambda: list(faulty.list("")),
        lambda: faulty.delete("a"),
        lambda: faulty.delete_many(["a", "b"]),
        faulty.now_ns,
    ]
    for call in calls:
        with pytest.raises(StoreBusyError, match=r"the store is busy: .* in s3://") as caught:
            call()
        assert caught.value.retry_after_s == 7
        line_of(caught)
    assert faults.settled_stats(len(calls))["total"] == len(calls)


ANSWERS: list[tuple[int, str | None, type[StoreError]]] = [
    (429, None, StoreBusyError),
    (500, None, StoreUnavailableError),
    (502, None, StoreUnavailableError),
    (403, "QuotaExceeded", StoreFullError),
    (507, None, StoreFullError),
    (400, "RequestTimeout", StoreUnavailableError),
    (400, "BadDigest", StoreUnavailableError),
    (400, "ExpiredToken", StoreDeniedError),
    (409, "ConditionalRequestConflict", StoreUnavailableError),
    (501, "NotImplemented", StoreUnsuitableError),
]


def test_what_the_store_may_answer(faulty: Store, faults: FaultProxy) -> None:
    for status, code, kind in ANSWERS:
        faults.clear()
        faults.rule("error", status=status, code=code)
        for call in (lambda: faulty.put_new("a", b"1"), lambda: faulty.get("a"), lambda: list(faulty.list(""))):
            with pytest.raises(kind) as caught:
                call()
            assert type(caught.value) is kind
            assert "s3://" in line_of(caught)


def test_a_large_body_is_not_sent_to_a_store_that_is_busy(faulty: Store, faults: FaultProxy) -> None:
    faults.rule("error", status=503, when="before")
    with pytest.raises(StoreBusyError):
        faulty.put("a", bytes(4 * MIB))
    (request,) = faults.log()
    assert request["up"] < MIB


def test_an_answer_that_is_cut(faulty: Store, faults: FaultProxy) -> None:
    """Above all, a listing that is cut before its first byte must not look empty."""
    data = os.urandom(600 * KIB)
    faulty.put("a", data)
    for at, how in itertools.product([0, 0.5, "start"], ["rst", "fin"]):
        faults.clear()
        faults.rule("cut_response", at=at, how=how, methods="GET")
        for call in (
            lambda: faulty.get("a"),
            lambda: faulty.get_range("a", start=5, length=300 * KIB),
            lambda: list(faulty.list("")),
        ):
            with pytest.raises(StoreUnavailableError, match=r" in s3://") as caught:
                call()
            line_of(caught)
    faults.clear()
    assert faulty.get("a") == data


def test_a_request_that_is_cut(faulty: Store, faults: FaultProxy) -> None:
    for how in ("rst", "fin"):
        faults.clear()
        faults.rule("cut_request", at=0.5, how=how, methods="PUT")
        with pytest.raises(StoreUnavailableError, match=r"a in s3://.*the connection to .* failed") as caught:
            faulty.put("a", os.urandom(3 * MIB))
        line_of(caught)
    faults.clear()
    with pytest.raises(ObjectMissingError):
        faulty.get("a")


def test_a_lost_answer_to_an_exclusive_put(faulty: Store, faults: FaultProxy) -> None:
    faults.rule("cut_response", at="start", methods="PUT", first=1)
    with pytest.raises(StoreUnavailableError):
        faulty.put_new("a", b"1")
    with pytest.raises(ObjectExistsError):
        faulty.put_new("a", b"1")


def test_a_store_that_is_gone_and_back(faulty: Store, faults: FaultProxy) -> None:
    faulty.put("a", b"1")
    faults.stop()
    try:
        with pytest.raises(StoreUnavailableError, match=rf"the connection to {faults.url} failed: ") as caught:
            faulty.get("a")
        line_of(caught)
    finally:
        faults.start()
    assert faulty.get("a") == b"1"


def test_what_is_damaged_on_the_way_up_is_not_stored(faulty: Store, faults: FaultProxy) -> None:
    faults.rule("corrupt", direction="request", methods="PUT")
    for size_bytes in (1000, 2 * MIB):
        with pytest.raises(StoreUnavailableError, match="damaged on the way: a in s3://"):
            faulty.put("a", bytes(size_bytes))
    faults.clear()
    with pytest.raises(ObjectMissingError):
        faulty.get("a")


def test_what_is_damaged_on_the_way_down_is_read_again(faulty: Store, faults: FaultProxy) -> None:
    data = os.urandom(100 * KIB)
    faulty.put("a", data)
    faults.rule("corrupt", at="random", methods="GET", first=1)
    assert faulty.get("a") == data
    assert faults.settled_stats(3)["requests"]["GET 200"] == 2
    faults.rule("corrupt", at="random", methods="GET")
    with pytest.raises(StoreUnavailableError, match=r"a in s3://.* was damaged on the way, twice"):
        faulty.get("a")
    faults.clear()
    assert faulty.get("a") == data


def test_a_get_fits_without_a_second_request(faulty: Store, faults: FaultProxy) -> None:
    faulty.put("a", b"1")
    assert faulty.get("a") == faulty.get("a") == b"1"
    assert faults.settled_stats(3)["total"] == 3


def test_a_store_without_conditional_puts(faulty: Store, faults: FaultProxy) -> None:
    faults.rule("error", status=501, code="NotImplemented", methods="PUT")
    with pytest.raises(StoreUnsuitableError, match=r"cannot create an object only if its name is free") as caught:
        faulty.put_new("a", b"1")
    line_of(caught)


def test_a_store_that_deletes_only_one_by_one(faulty: Store, faults: FaultProxy) -> None:
    names = [f"a/{number}" for number in range(4)]
    for name in names:
        faulty.put(name, b"")
    faults.rule("error", status=501, code="NotImplemented", methods="POST")
    faulty.delete_many(names[:2])
    faulty.delete_many(names[2:])
    assert list(faulty.list("")) == []
    requests = faults.settled_stats()["requests"]
    assert (requests["DELETE 204"], requests["POST 501"]) == (4, 1)  # it is not asked a second time


def test_a_busy_store_deletes_nothing_one_by_one(faulty: Store, faults: FaultProxy) -> None:
    faults.rule("error", status=503, methods="POST")
    with pytest.raises(StoreBusyError):
        faulty.delete_many(["a", "b"])
    assert faults.settled_stats(1)["total"] == 1


def test_the_stores_time_is_that_of_its_answers(faulty: Store, faults: FaultProxy) -> None:
    faults.rule("skew_date", seconds=-HOUR_S)
    for _ in range(2):  # without and with the object that is asked for
        behind_s = (time.time_ns() - faulty.now_ns()) / 10**9
        assert HOUR_S - 5 < behind_s < HOUR_S + 5
        faulty.put("cubefs", b"1")


def test_a_pace_that_gives_up_is_heard(url: str) -> None:
    class Impatient(Unpaced):
        def is_limited_up(self) -> bool:
            return True

        def is_limited_down(self) -> bool:
            return True

        def sending(self, byte_count: int) -> None:
            raise GivenUpError

        def received(self, byte_count: int) -> None:
            raise GivenUpError

    open_s3(url).put("a", b"1")
    impatient = open_s3(url, pace=Impatient())
    with pytest.raises(GivenUpError):
        impatient.put("a", b"2")
    with pytest.raises(GivenUpError):
        impatient.get("a")
    assert open_s3(url).get("a") == b"1"


def test_a_body_may_take_longer_than_a_connection(
    url: str, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """urllib3 sends a body of bytes under the time limit for connecting: no limit for a pack on a slow line."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", faults.url)
    monkeypatch.setattr("cubefs.store.s3_client.CONNECT_TIMEOUT_S", 0.5)
    store = open_store(url)
    body = os.urandom(12 * MIB)
    faults.clear()
    faults.settings(conn_up=5 * MIB)
    try:
        store.put("large", body)
    finally:
        faults.clear()
    assert store.get("large") == body
