"""The Swift server of the tests: both protocols reach the same objects, users come and go, nothing is left over."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from swiftclient import ClientException, get_account

from tests.servers.conftest import wait_for_the_end
from tests.support.servers.process import ROOT, ServerError
from tests.support.servers.swift import SwiftServer, SwiftUser

BODY = os.urandom(300_000)


def test_both_protocols_reach_the_same_objects(swift_server: SwiftServer) -> None:
    swift_server.make_bucket("one-store")
    with swift_server.s3.client() as s3, swift_server.swift.connection() as swift:
        s3.put_object(Bucket="one-store", Key="by-s3", Body=BODY)
        assert swift.get_object("one-store", "by-s3")[1] == BODY
        assert swift.put_object("one-store", "by-swift", BODY) == hashlib.md5(BODY).hexdigest()
        assert s3.get_object(Bucket="one-store", Key="by-swift", Range="bytes=7-99")["Body"].read() == BODY[7:100]
        with pytest.raises(ClientError, match="PreconditionFailed"):
            s3.put_object(Bucket="one-store", Key="by-s3", Body=b"", IfNoneMatch="*")
        with pytest.raises(ClientException) as caught:
            swift.put_object("one-store", "bad", BODY, etag="0" * 32)
        assert caught.value.http_status == 422


def test_a_listing_shows_what_was_just_stored(swift_server: SwiftServer) -> None:
    swift_server.make_container("listed")
    with swift_server.s3.client() as s3, swift_server.swift.connection() as swift:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: s3.put_object(Bucket="listed", Key=f"n/{i:03}", Body=b""), range(100)))
        names = [row["name"] for row in swift.get_container("listed", prefix="n/", full_listing=True)[1]]
        assert names == [f"n/{i:03}" for i in range(100)]


def test_the_environment_leads_to_the_server(swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> None:
    swift_server.make_bucket("environment")
    with swift_server.s3.client() as s3:
        s3.put_object(Bucket="environment", Key="k", Body=b"")
    for name in [name for name in os.environ if name.startswith(("AWS_", "ST_", "OS_"))]:
        monkeypatch.delenv(name)
    environment = {**os.environ, **swift_server.s3_environment(), **swift_server.swift_environment()}
    by_s3 = "import boto3; print(boto3.client('s3').list_objects_v2(Bucket='environment')['KeyCount'])"
    assert subprocess.check_output([sys.executable, "-c", by_s3], env=environment) == b"1\n"
    by_swift = [sys.executable, "-m", "swiftclient.shell", "list", "environment"]
    assert subprocess.check_output(by_swift, env=environment) == b"k\n"


def test_users_come_and_go(swift_server: SwiftServer) -> None:
    guest = SwiftUser("test", "guest", "guests-key", groups=())
    swift_server.make_container("shown", {"X-Container-Read": "test:guest"})
    swift_server.make_container("hidden")
    with swift_server.swift.connection() as swift:
        for container in ("shown", "hidden"):
            swift.put_object(container, "k", b"content")
    swift_server.add_user(guest)
    with swift_server.swift_as(guest).connection() as swift, swift_server.s3_as(guest).client() as s3:
        assert swift.get_object("shown", "k")[1] == b"content"
        assert s3.get_object(Bucket="shown", Key="k")["Body"].read() == b"content"
        with pytest.raises(ClientException, match="403"):
            swift.get_object("hidden", "k")
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket="shown", Key="k", Body=b"")
        swift_server.revoke(guest)
        with pytest.raises(ClientException, match="401"):
            swift.get_object("shown", "k")
        with pytest.raises(ClientError, match="403"):
            s3.head_object(Bucket="shown", Key="k")
        swift_server.add_user(guest)
        assert swift.get_object("shown", "k")[1] == b"content"
        assert s3.get_object(Bucket="shown", Key="k")["Body"].read() == b"content"
    swift_server.revoke(guest)


def test_a_token_can_be_made_worthless(swift_server: SwiftServer) -> None:
    with swift_server.swift.connection() as swift:
        url, token = swift.get_auth()
        get_account(url, token)
        swift_server.forget_tokens()
        with pytest.raises(ClientException, match="401"):
            get_account(url, token)
        swift.url, swift.token = url, token
        swift.get_account()  # logs in anew by itself
        assert swift.token != token


def test_a_server_that_dies_is_noticed_and_a_directory_that_is_kept_can_be_used_again(tmp_path: Path) -> None:
    server = SwiftServer(directory=tmp_path / "kept").start()
    server.make_bucket("kept")
    with server.s3.client() as s3:
        s3.put_object(Bucket="kept", Key="k", Body=BODY)
    os.kill(server.pids[0], signal.SIGKILL)
    wait_for_the_end(server.pids)
    with pytest.raises(ServerError, match="account server ended with status -9"):
        server.stop()
    with SwiftServer(directory=tmp_path / "kept") as server, server.s3.client() as s3:
        assert s3.get_object(Bucket="kept", Key="k")["Body"].read() == BODY


STARTER = """
import os, signal, sys
from tests.support.servers.swift import SwiftServer
server = SwiftServer().start()
print(*server.pids, server.directory, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_servers_do_not_outlive_a_starter_that_is_killed() -> None:
    starter = subprocess.run([sys.executable, "-c", STARTER], cwd=ROOT, capture_output=True, text=True, check=False)
    assert starter.returncode == -signal.SIGKILL, starter.stderr
    *pids, directory = starter.stdout.split()
    assert len(pids) == 5
    wait_for_the_end([int(pid) for pid in pids])
    deadline = time.monotonic() + 10
    while Path(directory).exists():
        assert time.monotonic() < deadline, "the data was left behind"
        time.sleep(0.02)


def test_a_server_that_cannot_start_says_why(tmp_path: Path, swift_server: SwiftServer) -> None:
    taken = int(swift_server.url.rpartition(":")[2])
    with pytest.raises(ServerError, match="Address already in use"):
        SwiftServer(directory=tmp_path / "x", port=taken).start()
