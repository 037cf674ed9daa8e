"""The radosgw of the tests: S3 with bucket policies and users that come and go; nothing is left over."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.servers.conftest import wait_for_the_end
from tests.support.servers.process import ServerError
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.radosgw import RadosGateway

BODY = os.urandom(300_000)


def test_objects(radosgw: RadosGateway) -> None:
    radosgw.make_bucket("objects")
    with radosgw.s3.client() as s3:
        s3.put_object(Bucket="objects", Key="k/1", Body=BODY)
        assert s3.get_object(Bucket="objects", Key="k/1", Range="bytes=7-99")["Body"].read() == BODY[7:100]
        assert s3.head_object(Bucket="objects", Key="k/1")["ETag"] == f'"{hashlib.md5(BODY).hexdigest()}"'
        with pytest.raises(ClientError, match="PreconditionFailed"):
            s3.put_object(Bucket="objects", Key="k/1", Body=b"", IfNoneMatch="*")
        names = [entry["Key"] for entry in s3.list_objects_v2(Bucket="objects", Prefix="k/")["Contents"]]
        assert names == ["k/1"]
        s3.delete_object(Bucket="objects", Key="k/1")
        with pytest.raises(ClientError, match="404"):
            s3.head_object(Bucket="objects", Key="k/1")


def test_the_swift_side(radosgw: RadosGateway) -> None:
    radosgw.make_container("by-swift")
    with radosgw.swift.connection() as swift, radosgw.s3.client() as s3:
        swift.put_object("by-swift", "k", BODY)
        assert s3.get_object(Bucket="by-swift", Key="k")["Body"].read() == BODY
        assert swift.url == radosgw.swift.storage_url


def test_a_policy_lets_another_user_reach_a_prefix_only(radosgw: RadosGateway) -> None:
    radosgw.make_bucket("shared")
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": ["arn:aws:iam:::user/second"]},
        "Action": ["s3:GetObject", "s3:PutObject"],
        "Resource": ["arn:aws:s3:::shared/second/*"],
    }
    with radosgw.s3.client() as s3, radosgw.add_user("second").client() as second:
        s3.put_object(Bucket="shared", Key="first/k", Body=BODY)
        s3.put_bucket_policy(
            Bucket="shared", Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        )
        second.put_object(Bucket="shared", Key="second/k", Body=BODY)
        assert second.get_object(Bucket="shared", Key="second/k")["Body"].read() == BODY
        for key in ("first/k", "second-but-longer/k"):
            with pytest.raises(ClientError, match="AccessDenied"):
                second.put_object(Bucket="shared", Key=key, Body=b"")
        with pytest.raises(ClientError, match="AccessDenied"):
            second.get_object(Bucket="shared", Key="first/k")


def test_users_come_and_go(radosgw: RadosGateway) -> None:
    with radosgw.add_user("guest").client() as s3:
        assert s3.list_buckets()["Buckets"] == []
        radosgw.suspend("guest")
        with pytest.raises(ClientError, match="UserSuspended"):
            s3.list_buckets()
        radosgw.readmit("guest")
        assert s3.list_buckets()["Buckets"] == []


def test_it_works_behind_the_proxy(radosgw: RadosGateway, proxy: Callable[[str], FaultProxy]) -> None:
    faults = proxy(radosgw.url)
    radosgw.make_bucket("behind")
    faults.rule("lose_put", first=1)
    with radosgw.s3.client(via=faults.url) as s3, radosgw.swift.connection(via=faults.url) as swift:
        s3.put_object(Bucket="behind", Key="lost", Body=BODY)
        s3.put_object(Bucket="behind", Key="kept", Body=BODY)
        faults.rule("lose_put", first=1)
        swift.put_object("behind", "lost", BODY)
        assert [row["name"] for row in swift.get_container("behind")[1]] == ["kept"]
    assert faults.settled_stats()["faults"] == {"lose_put": 2}


def test_nothing_is_left_over_and_a_daemon_that_dies_is_noticed(radosgw: RadosGateway) -> None:
    server = RadosGateway().start()
    pids = server.pids
    os.kill(pids[0], signal.SIGKILL)
    wait_for_the_end(pids)
    with pytest.raises(ServerError, match="mon ended with status -9"):
        server.stop()
    radosgw.make_bucket("the-other-one-goes-on")


def test_where_it_is_not_installed_it_says_so(tmp_path: Path) -> None:
    assert "make test-servers" in (RadosGateway(tmp_path).find_obstacle() or "")
