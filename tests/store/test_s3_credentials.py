"""Credentials that change while a store is in use: new ones in the file that boto3 reads are found without help."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cubefs.errors import StoreDeniedError, UsageError
from cubefs.store.s3 import S3Store, open_s3
from cubefs.store.s3_client import RENEWAL_INTERVAL_S
from tests.support.endpoint import Answer, Endpoint, Request

BODY = b"body"
CODES = ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "AccessDenied", ""]


class Door:
    """An endpoint that lets in whoever signs with the key `valid`, and the file of credentials of a profile."""

    def __init__(self, endpoint: Endpoint, file: Path) -> None:
        self.endpoint, self.file = endpoint, file
        self.valid, self.code = "old", "InvalidAccessKeyId"
        endpoint.answer = self.answer
        self.write("old")

    def write(self, key: str) -> None:
        self.file.write_text(f"[backup]\naws_access_key_id = {key}\naws_secret_access_key = secret-of-{key}\n")

    def answer(self, request: Request) -> Answer:
        if f"Credential={self.valid}/" in request.headers["authorization"]:
            return 200, {"ETag": '"x"'}, BODY if request.method == "GET" else b""
        text = f"<Error><Code>{self.code}</Code></Error>".encode() if self.code else b""
        return 403, {"Content-Type": "application/xml", "x-amz-request-id": "1"}, text

    def open(self, clock_s: list[float]) -> S3Store:
        url = f"s3://bucket/a?profile=backup&endpoint_url=http://127.0.0.1:{self.endpoint.server_port}"
        store = open_s3(url)
        store._clients._clock_s = lambda: clock_s[0]
        return store


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Door(server, file)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("code", CODES)
def test_new_credentials_are_found_by_the_call_that_is_refused(door: Door, code: str) -> None:
    store = door.open([0.0])
    store.put("x", BODY)
    door.valid, door.code = "new", code
    door.write("new")
    large = bytes(2 << 20)
    store.put("x", large)
    assert door.endpoint.requests[-1].body == large
    assert store.get("x") == BODY
    assert store.head("x").size_bytes == 0
    refused = [request for request in door.endpoint.requests if "=old/" in request.headers["authorization"]]
    assert len(refused) == 2  # the first put, and the one that was refused


def test_the_file_is_read_once_a_minute_at_most(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    time_s = [0.0]
    store = door.open(time_s)
    door.valid = "new"
    for _ in range(3):
        with pytest.raises(StoreDeniedError, match="InvalidAccessKeyId"):
            store.put("x", BODY)
    door.write("new")
    time_s[0] = RENEWAL_INTERVAL_S - 1
    with pytest.raises(StoreDeniedError):
        store.put("x", BODY)
    time_s[0] = RENEWAL_INTERVAL_S
    store.put("x", BODY)
    first = store._clients.current
    door.valid = "another"
    time_s[0] += RENEWAL_INTERVAL_S
    with pytest.raises(StoreDeniedError):
        store.put("x", BODY)
    assert store._clients.current is first  # the same credentials: nothing is made anew


@pytest.mark.parametrize(
    "content", ["", "[backup]\naws_access_key_id = half\n", "[other]\n", "not a file of settings"]
)
def test_a_file_that_is_just_being_written_does_no_harm(door: Door, content: str) -> None:
    time_s = [0.0]
    store = door.open(time_s)
    door.valid = "new"
    door.file.write_text(content)
    with pytest.raises(StoreDeniedError, match="InvalidAccessKeyId") as caught:
        store.put("x", BODY)
    assert "secret" not in str(caught.value)
    with pytest.raises(UsageError):
        door.open(time_s)
    door.write("new")
    time_s[0] += RENEWAL_INTERVAL_S
    store.put("x", BODY)


def test_many_threads_are_refused_at_once(door: Door) -> None:
    """One of them reads the file; all go on with what it has found."""
    store = door.open([0.0])
    door.valid = "new"
    door.write("new")
    barrier = threading.Barrier(8)

    def put(number: int) -> None:
        barrier.wait(60)
        store.put(f"x{number}", BODY)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(put, number) for number in range(8)]:
            future.result(60)
