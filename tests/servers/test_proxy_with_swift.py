"""Real clients (boto3, python-swiftclient) to a real Swift through the fault proxy, by both protocols."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from requests.exceptions import RequestException
from swiftclient import ClientException
from urllib3.exceptions import HTTPError

from tests.support.servers.proxy import FaultProxy
from tests.support.servers.swift import SwiftServer

BODY = os.urandom(2 << 20)
BUCKET = "through-the-proxy"
S3_BROKEN = (ClientError, BotoCoreError)
SWIFT_BROKEN = (ClientException, RequestException, HTTPError, OSError)


@pytest.fixture
def faults(swift_server: SwiftServer, proxy: Callable[[str], FaultProxy]) -> FaultProxy:
    """A proxy in front of Swift, in which there is a bucket."""
    swift_server.make_bucket(BUCKET)
    return proxy(swift_server.url)


@pytest.fixture
def s3(swift_server: SwiftServer, faults: FaultProxy) -> Iterator[Any]:
    """A client of S3 behind the proxy."""
    with swift_server.s3.client(via=faults.url) as client:
        yield client


@pytest.fixture
def swift(swift_server: SwiftServer, faults: FaultProxy) -> Iterator[Any]:
    """A client of Swift behind the proxy."""
    with swift_server.swift.connection(via=faults.url) as connection:
        yield connection


def put(s3: Any, key: str, body: bytes = BODY, **options: Any) -> None:
    """Store an object."""
    s3.put_object(Bucket=BUCKET, Key=key, Body=body, **options)


def read(s3: Any, key: str) -> bytes:
    """Return an object."""
    return bytes(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def status_of(call: Callable[..., object], *args: Any) -> int:
    """Return the status with which a call fails."""
    with pytest.raises((ClientError, ClientException)) as caught:
        call(*args)
    if isinstance(caught.value, ClientException):
        return int(caught.value.http_status)
    return int(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])


def test_without_faults_nothing_is_changed(faults: FaultProxy, s3: Any, swift: Any) -> None:
    put(s3, "k")
    assert read(s3, "k") == BODY
    swift.put_object(BUCKET, "o", BODY)
    assert swift.get_object(BUCKET, "o")[1] == BODY
    assert swift.url.startswith(faults.url), "the storage URL leads past the proxy"
    put(s3, "trailer", ChecksumAlgorithm="SHA256")
    assert read(s3, "trailer") == BODY
    assert faults.settled_stats()["faults"] == {}


def test_the_environment_leads_through_the_proxy(swift_server: SwiftServer, faults: FaultProxy) -> None:
    assert swift_server.s3_environment(via=faults.url)["AWS_ENDPOINT_URL_S3"] == faults.url
    assert swift_server.swift_environment(via=faults.url)["ST_AUTH"] == f"{faults.url}/auth/v1.0"


@pytest.mark.parametrize("when", ["before", "after"])
def test_errors(faults: FaultProxy, s3: Any, swift: Any, when: str) -> None:
    faults.rule("error", status=503, when=when, methods="PUT", first=3)
    for key in ("error-1", "error-2"):
        assert status_of(put, s3, key) == 503
        assert status_of(read, s3, key) == 404
    assert status_of(swift.put_object, BUCKET, "error-3", b"") == 503
    put(s3, "error-3")
    assert read(s3, "error-3") == BODY
    assert faults.settled_stats()["faults"] == {"error": 3}


def test_a_client_that_tries_again(swift_server: SwiftServer, faults: FaultProxy) -> None:
    faults.rule("error", status=503, methods="PUT", first=1, retry_after=0)
    with swift_server.s3.client(via=faults.url, attempts=2) as patient:
        put(patient, "again")
        assert read(patient, "again") == BODY
    assert faults.settled_stats()["requests"] == {"GET 200": 1, "PUT 200": 1, "PUT 503": 1}


def test_lost_objects(faults: FaultProxy, s3: Any, swift: Any) -> None:
    faults.rule("lose_put", path=f"^/{BUCKET}/lost", first=2)
    put(s3, "lost-1")
    put(s3, "lost-2", ChecksumAlgorithm="SHA256")  # in chunks, with the checksum behind them
    put(s3, "lost-3")
    assert status_of(read, s3, "lost-1") == 404
    assert status_of(read, s3, "lost-2") == 404
    assert read(s3, "lost-3") == BODY
    faults.rule("lose_put", path=f"/{BUCKET}/lost-by-swift")
    swift.put_object(BUCKET, "lost-by-swift", BODY)
    assert status_of(swift.head_object, BUCKET, "lost-by-swift") == 404


def test_objects_that_appear_late(faults: FaultProxy, s3: Any, swift: Any) -> None:
    number = faults.rule("hide_new", seconds=3600)
    put(s3, "late", b"1")
    swift.put_object(BUCKET, "late-too", b"2")
    assert status_of(read, s3, "late") == 404
    assert status_of(swift.get_object, BUCKET, "late-too") == 404
    faults.remove(number)
    assert read(s3, "late") == b"1"
    assert swift.get_object(BUCKET, "late-too")[1] == b"2"


def test_changed_bytes(faults: FaultProxy, s3: Any, swift: Any) -> None:
    put(s3, "k")
    swift.put_object(BUCKET, "o", BODY)
    number = faults.rule("corrupt", at="random")
    assert read(s3, "k") != BODY
    assert swift.get_object(BUCKET, "o")[1] != BODY
    faults.remove(number)
    faults.rule("corrupt", direction="request", at=1_000_000)
    assert status_of(put, s3, "bad") == 400
    assert status_of(read, s3, "bad") == 404


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_cut_connections(faults: FaultProxy, s3: Any, swift: Any, how: str) -> None:
    put(s3, "k")
    swift.put_object(BUCKET, "o", BODY)
    number = faults.rule("cut_response", at=0.7, how=how, methods="GET", first=2)
    with pytest.raises(S3_BROKEN):
        read(s3, "k")
    with pytest.raises(SWIFT_BROKEN):
        swift.get_object(BUCKET, "o")
    faults.remove(number)
    number = faults.rule("cut_request", at=0.7, how=how, methods="PUT", first=2)
    with pytest.raises(S3_BROKEN):
        put(s3, "cut")
    with pytest.raises(SWIFT_BROKEN):
        swift.put_object(BUCKET, "cut", BODY)
    faults.remove(number)
    assert status_of(read, s3, "cut") == 404
    faults.rule("cut_response", at="start", how=how, methods="PUT", first=1)
    with pytest.raises(S3_BROKEN):
        put(s3, f"done-{how}")
    assert read(s3, f"done-{how}") == BODY


def test_the_store_is_gone_and_comes_back(faults: FaultProxy, s3: Any, swift: Any) -> None:
    put(s3, "k")
    swift.head_object(BUCKET, "k")
    faults.stop()
    with pytest.raises(BotoCoreError):
        read(s3, "k")
    with pytest.raises(SWIFT_BROKEN):
        swift.head_object(BUCKET, "k")
    faults.start()
    assert read(s3, "k") == BODY
    assert swift.head_object(BUCKET, "k")["content-length"] == str(len(BODY))
