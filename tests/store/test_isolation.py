"""Accounts that share a bucket: the documented policies allow all that is needed below a prefix, and no more."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from cubefs.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StoreBusyError,
    StoreDeniedError,
    StoreUnsuitableError,
)
from cubefs.store.base import Store
from cubefs.store.examine import require_suitable
from tests.support import policies
from tests.support.isolation import SUPERBLOCK, assert_out_of_reach, calls_upon, exercise, live, open_remote
from tests.support.mounting import Remote
from tests.support.servers.access import S3Access
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.radosgw import RadosGateway

POLICIES = {"ann": policies.PREFIX, "bob": policies.APPEND_ONLY}  # user and prefix -> what it may do
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "STORES.md"


@dataclass(frozen=True)
class Shared:
    """A bucket in which `ann` and `bob` have a prefix each, and its owner."""

    bucket: str
    owner: Any  # a client of boto3
    users: dict[str, S3Access]

    def remote(self, user: str, prefix: str | None = None, *, via: str | None = None) -> Remote:
        """Return the store at a prefix, the user's own if none is given, as that user reaches it."""
        prefix = user if prefix is None else prefix
        url = f"s3://{self.bucket}/{prefix}".rstrip("/")
        return Remote(url, self.users[user].environment(via))

    def open(self, user: str, prefix: str | None = None, *, via: str | None = None) -> Store:
        """Open that store."""
        return open_remote(self.remote(user, prefix, via=via))

    def keep_versions(self) -> None:
        """Do what the document recommends."""
        self.owner.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    def versions(self, *, with_deletions: bool = True) -> list[tuple[str, str]]:
        """Return name and number of all versions of all objects."""
        found = self.owner.list_object_versions(Bucket=self.bucket)
        entries = [*found.get("Versions", ()), *(found.get("DeleteMarkers", ()) if with_deletions else ())]
        return [(entry["Key"], entry["VersionId"]) for entry in entries]


@pytest.fixture(scope="module")
def users(radosgw: RadosGateway) -> dict[str, S3Access]:
    return {user: radosgw.add_user(user) for user in POLICIES}


@pytest.fixture
def empty(radosgw: RadosGateway, users: dict[str, S3Access]) -> Iterator[Shared]:
    """A bucket in which nobody but its owner may do anything."""
    with radosgw.s3.client() as owner:
        yield Shared(radosgw.make_bucket(f"shared-{secrets.token_hex(4)}"), owner, users)


@pytest.fixture
def shared(empty: Shared) -> Shared:
    """A bucket with the documented policy."""
    give_rights(empty)
    return empty


def filled_in(shared: Shared, user: str, name: str) -> dict[str, Any]:
    return policies.filled_in(name, bucket=shared.bucket, prefix=user, user=user)


def give_rights(shared: Shared, *more: dict[str, Any]) -> None:
    """Set the policy of the bucket; `more`: further policies."""
    filled = [filled_in(shared, user, name) for user, name in POLICIES.items()]
    shared.owner.put_bucket_policy(Bucket=shared.bucket, Policy=policies.joined([*filled, *more]))


def refused(call: Callable[..., object], **arguments: Any) -> bool:
    """Tell whether S3 refuses a call."""
    try:
        call(**arguments)
    except ClientError as error:
        return bool(error.response["ResponseMetadata"]["HTTPStatusCode"] == 403)
    return False


# -- what is documented ---------------------------------------------------------------------------------------


def test_the_document_has_these_very_policies() -> None:
    text = DOCUMENT.read_text()
    for name in (policies.PREFIX, policies.IAM, policies.LIFECYCLE):
        assert f"```json\n{policies.text_of(name)}```\n" in text, name
        assert f"contrib/policies/{name}.json" in text
    assert f"contrib/policies/{policies.APPEND_ONLY}.json" in text


def test_the_policies_differ_in_what_the_document_says() -> None:
    full = policies.text_of(policies.PREFIX)
    assert policies.text_of(policies.APPEND_ONLY) == full.replace(', "s3:DeleteObject"', "")
    lines = full.splitlines(keepends=True)
    assert policies.text_of(policies.IAM) == "".join(line for line in lines if "Principal" not in line)
    assert full.count("Principal") == full.count('"Effect": "Allow"') == 2


# -- below the prefix -----------------------------------------------------------------------------------------


def test_an_account_can_do_everything(shared: Shared) -> None:
    exercise(shared.open("ann"))


def test_an_append_only_account_can_do_all_but_delete(shared: Shared) -> None:
    exercise(shared.open("bob"), may_delete=False)


def test_the_same_rights_given_to_the_user(radosgw: RadosGateway, empty: Shared) -> None:
    """By IAM; thousands of accounts do not fit into the policy of one bucket."""
    assert_out_of_reach(empty.open("ann"))
    radosgw.permit_user_policies()
    settings = Config(retries={"total_max_attempts": 1}, proxies={})
    access = radosgw.s3
    with ExitStack() as stack:
        iam = boto3.session.Session().client(
            "iam",
            endpoint_url=access.endpoint,
            region_name=access.region,
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            config=settings,
        )
        stack.callback(iam.close)
        document = json.dumps(filled_in(empty, "ann", policies.IAM))
        iam.put_user_policy(UserName="ann", PolicyName="cubefs", PolicyDocument=document)
        stack.callback(iam.delete_user_policy, UserName="ann", PolicyName="cubefs")
        exercise(empty.open("ann"))
        assert_out_of_reach(empty.open("ann", "bob"))
        assert_out_of_reach(empty.open("ann", ""))


@pytest.mark.parametrize("user", POLICIES)
def test_a_file_system_lives(shared: Shared, user: str, tmp_path: Path) -> None:
    made = live(shared.remote(user), tmp_path)
    left = [info.name for info in shared.open(user).list("store-test-")]
    lines = made.err.splitlines()
    if user == "ann":
        assert (lines, left) == ([], [])
    else:
        assert len(lines) == 2 and "deleting is refused: fine for an append-only key" in lines[0]
        assert f"{len(left)} small test objects stay in " in lines[1]
        assert 0 < sum(info.size_bytes for info in shared.open(user).list("store-test-")) < 16 * 1024


# -- beyond it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("user", "other"), [("ann", "bob"), ("bob", "ann")])
def test_nothing_else_can_be_reached(shared: Shared, user: str, other: str) -> None:
    places = {other: shared.open(other), f"{user}-too": None, "": None}
    for prefix, rightful in places.items():
        body, key = os.urandom(100), f"{prefix}/{SUPERBLOCK}".lstrip("/")
        if rightful is not None:
            rightful.put(SUPERBLOCK, body)
        else:
            shared.owner.put_object(Bucket=shared.bucket, Key=key, Body=body)
        before = shared.versions()
        assert_out_of_reach(shared.open(user, prefix))
        assert shared.versions() == before
        if rightful is not None:
            assert rightful.get(SUPERBLOCK) == body


@pytest.mark.parametrize("user", POLICIES)
def test_the_bucket_itself_is_out_of_reach(shared: Shared, user: str) -> None:
    bucket, other = shared.bucket, "bob" if user == "ann" else "ann"
    shared.open(user).put(SUPERBLOCK, b"mine")
    shared.open(other).put(SUPERBLOCK, b"the other's")
    with shared.users[user].client() as s3:
        lists: list[dict[str, str]] = [{}, {"Prefix": ""}, {"Prefix": user}, {"Prefix": f"{other}/"}]
        lists += [{"Delimiter": "/"}, {"Prefix": user, "Delimiter": "/"}, {"StartAfter": f"{user}/"}]
        for arguments in lists:
            assert refused(s3.list_objects_v2, Bucket=bucket, **arguments), arguments
            assert refused(s3.list_objects, Bucket=bucket, **_old(arguments)), arguments
        suspended, rules = {"Status": "Suspended"}, json.loads(policies.text_of(policies.LIFECYCLE))
        calls: list[Callable[[], object]] = [
            lambda: s3.list_object_versions(Bucket=bucket, Prefix=f"{user}/"),
            lambda: s3.list_multipart_uploads(Bucket=bucket),
            lambda: s3.get_bucket_policy(Bucket=bucket),
            lambda: s3.put_bucket_policy(Bucket=bucket, Policy="{}"),
            lambda: s3.delete_bucket_policy(Bucket=bucket),
            lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=suspended),
            lambda: s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules),
            lambda: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
            lambda: s3.delete_bucket(Bucket=bucket),
            lambda: s3.copy_object(Bucket=bucket, Key=f"{user}/k", CopySource=f"{bucket}/{other}/{SUPERBLOCK}"),
            lambda: s3.copy_object(Bucket=bucket, Key=f"{other}/k", CopySource=f"{bucket}/{user}/{SUPERBLOCK}"),
            lambda: s3.create_multipart_upload(Bucket=bucket, Key=f"{other}/k"),
        ]
        assert [number for number, call in enumerate(calls) if not refused(call)] == []
        s3.put_object(Bucket=bucket, Key=f"{user}/../{other}/{SUPERBLOCK}", Body=b"dots mean nothing")
    assert shared.open(other).get(SUPERBLOCK) == b"the other's"


def _old(arguments: dict[str, str]) -> dict[str, str]:
    return {"Marker" if name == "StartAfter" else name: value for name, value in arguments.items()}


# -- missing or refused ---------------------------------------------------------------------------------------


def test_what_is_missing_is_told_from_what_is_refused(shared: Shared) -> None:
    """The server answers 403 to both."""
    store = shared.open("ann")
    store.put("locked", b"x")
    principal = filled_in(shared, "ann", policies.PREFIX)["Statement"][0]["Principal"]
    actions, resources = ["s3:GetObject"], [f"arn:aws:s3:::{shared.bucket}/ann/locked"]
    deny = {"Effect": "Deny", "Principal": principal, "Action": actions, "Resource": resources}
    give_rights(shared, {"Statement": [deny]})
    with shared.users["ann"].client() as s3:
        for name in ("locked", "missing"):
            assert refused(s3.get_object, Bucket=shared.bucket, Key=f"ann/{name}")
    for name, kind in {
        "locked": StoreDeniedError,
        "missing": ObjectMissingError,
        "lock": ObjectMissingError,
    }.items():
        for call in ("get", "get_range", "head"):
            with pytest.raises(kind, match=name):
                calls_upon(store, name)[call]()


def test_an_object_that_comes_in_the_moment_between(shared: Shared, proxy: Callable[[str], FaultProxy]) -> None:
    """Refused for want of it, but listed: another machine has put it. That is no lack of permission."""
    faults = proxy(shared.users["ann"].endpoint)
    store = shared.open("ann", via=faults.url)
    store.put("meta/7", b"x")
    for call in ("get", "get_range", "head"):
        faults.rule("error", status=403, code="AccessDenied", path="meta/7$", first=1)
        calls_upon(store, "meta/7")[call]()
        faults.clear()


def test_a_busy_store_is_not_taken_for_a_refusal(shared: Shared, proxy: Callable[[str], FaultProxy]) -> None:
    faults = proxy(shared.users["ann"].endpoint)
    store = shared.open("ann", via=faults.url)
    faults.rule("error", status=503, code="SlowDown", path="list-type=2")
    for call in ("get", "get_range", "head"):
        with pytest.raises(StoreBusyError):
            calls_upon(store, "missing")[call]()


# -- against a stolen key -------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", POLICIES)
def test_without_versions_even_an_append_only_key_can_spoil_everything(shared: Shared, user: str) -> None:
    """What the document warns of."""
    store = shared.open(user)
    store.put("packs/a", b"precious")
    store.put("packs/a", b"spoilt")
    assert store.get("packs/a") == b"spoilt"


@pytest.mark.parametrize("user", POLICIES)
def test_with_versions_the_owner_of_the_bucket_brings_everything_back(shared: Shared, user: str) -> None:
    shared.keep_versions()
    store = shared.open(user)
    contents = {SUPERBLOCK: b"1", "packs/a": os.urandom(1000), "packs/b": b"2"}
    for name, body in contents.items():
        store.put_new(name, body)
    before = shared.versions()
    for name in contents:
        store.put(name, b"spoilt")
    with shared.users[user].client() as thief:
        if user == "ann":
            store.delete_many(contents)
            assert list(store.list("")) == []
        for key, version in shared.versions():
            assert refused(thief.delete_object, Bucket=shared.bucket, Key=key, VersionId=version)
    for key, version in shared.versions():
        if (key, version) not in before:
            shared.owner.delete_object(Bucket=shared.bucket, Key=key, VersionId=version)
    assert {name: store.get(name) for name in contents} == contents
    assert [info.name for info in store.list("")] == sorted(contents)


def assert_used_or_refused(store: Store) -> None:
    """Ceph 16.2 does not look at If-None-Match where versions are kept; then mkfs must find out."""
    store.put_new("a", b"1")
    try:
        store.put_new("a", b"2")
    except ObjectExistsError:
        return
    with pytest.raises(StoreUnsuitableError, match="conditional put cannot be relied on"):
        require_suitable(store)


def test_a_bucket_that_keeps_versions(shared: Shared) -> None:
    shared.keep_versions()
    rules = json.loads(policies.text_of(policies.LIFECYCLE))
    shared.owner.put_bucket_lifecycle_configuration(Bucket=shared.bucket, LifecycleConfiguration=rules)
    (rule,) = shared.owner.get_bucket_lifecycle_configuration(Bucket=shared.bucket)["Rules"]
    assert rule["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert_used_or_refused(shared.open("ann"))


def test_a_bucket_with_object_lock(shared: Shared) -> None:
    """Not even its owner can destroy a version before its time."""
    locked = Shared(f"locked-{secrets.token_hex(4)}", shared.owner, shared.users)
    retention = {"Mode": "COMPLIANCE", "Days": 1}
    locked.owner.create_bucket(Bucket=locked.bucket, ObjectLockEnabledForBucket=True)
    locked.owner.put_object_lock_configuration(
        Bucket=locked.bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": retention}},
    )
    give_rights(locked)
    assert_used_or_refused(locked.open("ann"))
    for key, version in locked.versions(with_deletions=False):
        assert refused(locked.owner.delete_object, Bucket=locked.bucket, Key=key, VersionId=version)
