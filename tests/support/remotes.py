"""Owns where the tests of the mount keep their stores: as CUBEFS_TEST_STORE says, each machine with its own prefix.

    local           a directory (the default)
    s3              Swift's own S3
    swift           Swift
    s3-prefix       radosgw, with a user whom the documented policy lets reach the prefixes in use, nothing else
    s3-append-only  the same, and that user may not delete

Must never: decide what is tested, or start a server (the fixtures do).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tests.support import policies
from tests.support.mounting import Remote
from tests.support.servers.radosgw import RadosGateway
from tests.support.servers.swift import SwiftServer

VARIABLE = "CUBEFS_TEST_STORE"
PLACE = "mounts"  # the bucket or container
USER = "account"
NO_DELETING = ("deleting is refused: fine for an append-only key", "small test objects stay in ")


class Stores(Protocol):
    """Where new stores come from."""

    def new(self) -> Remote | None:
        """Return a store that is empty; None for one in a local directory."""

    def remove(self, remote: Remote) -> None:
        """Delete all that is in a store, whoever may: servers of the tests keep everything in memory."""


class LocalStores:
    """Directories, which are removed with all else."""

    def new(self) -> None:
        """Return nothing: the machine makes one below its root."""

    def remove(self, remote: Remote) -> None:
        """Do nothing."""


class SwiftStores:
    """Prefixes of a container on Swift, by its own protocol or by S3; the user owns them all."""

    def __init__(self, server: SwiftServer, scheme: str) -> None:
        server.make_container(PLACE)
        self._server = server
        self._scheme = scheme

    def new(self) -> Remote:
        """Return a new prefix."""
        server = self._server
        environment = server.s3_environment() if self._scheme == "s3" else server.swift_environment()
        return Remote(f"{self._scheme}://{PLACE}/{secrets.token_hex(6)}", environment)

    def remove(self, remote: Remote) -> None:
        """Delete all objects."""
        prefix = prefix_of(remote)
        with self._server.swift.connection() as swift:
            _, entries = swift.get_container(PLACE, prefix=f"{prefix}/", full_listing=True)
            for entry in entries:
                swift.delete_object(PLACE, entry["name"])


class AccountStores:
    """Prefixes of a bucket on radosgw, for a user who can reach those that are in use, and nothing else."""

    def __init__(self, gateway: RadosGateway, policy: str) -> None:
        gateway.make_bucket(PLACE)
        self._gateway = gateway
        self._policy = policy
        self._access = gateway.add_user(USER)
        self._prefixes: list[str] = []

    def new(self) -> Remote:
        """Return a new prefix, which the user may reach from now on."""
        prefix = secrets.token_hex(6)
        self._prefixes.append(prefix)
        with self._gateway.s3.client() as owner:
            self._permit(owner)
        mine, all_mine = self._access.environment(), self._gateway.s3_environment()
        remarks = NO_DELETING if self._policy == policies.APPEND_ONLY else ()
        return Remote(f"s3://{PLACE}/{prefix}", mine, owner_environment=all_mine, remarks=remarks)

    def remove(self, remote: Remote) -> None:
        """Delete all objects, as the owner of the bucket; the user cannot reach the prefix any more."""
        prefix = prefix_of(remote)
        self._prefixes.remove(prefix)
        with self._gateway.s3.client() as owner:
            self._permit(owner)
            for page in owner.get_paginator("list_objects_v2").paginate(Bucket=PLACE, Prefix=f"{prefix}/"):
                if objects := [{"Key": entry["Key"]} for entry in page.get("Contents", ())]:
                    owner.delete_objects(Bucket=PLACE, Delete={"Objects": objects, "Quiet": True})

    def _permit(self, owner: Any) -> None:
        filled = [
            policies.filled_in(self._policy, bucket=PLACE, prefix=prefix, user=USER) for prefix in self._prefixes
        ]
        if filled:
            owner.put_bucket_policy(Bucket=PLACE, Policy=policies.joined(filled))
        else:
            owner.delete_bucket_policy(Bucket=PLACE)


def prefix_of(remote: Remote) -> str:
    """Return what follows the bucket in a URL of ours."""
    return remote.url.rpartition("/")[2]


_KINDS: dict[str, Callable[[Callable[[str], Any]], Stores]] = {
    "local": lambda fixture: LocalStores(),
    "s3": lambda fixture: SwiftStores(fixture("swift_server"), "s3"),
    "swift": lambda fixture: SwiftStores(fixture("swift_server"), "swift"),
    "s3-prefix": lambda fixture: AccountStores(fixture("radosgw"), policies.PREFIX),
    "s3-append-only": lambda fixture: AccountStores(fixture("radosgw"), policies.APPEND_ONLY),
}
_current: Stores = LocalStores()


def kind() -> str:
    """Return what CUBEFS_TEST_STORE says. Raises ValueError for what is no kind of store."""
    name = os.environ.get(VARIABLE) or "local"
    if name not in _KINDS:
        raise ValueError(f"{VARIABLE}={name}: there are {', '.join(_KINDS)}")
    return name


@contextmanager
def in_use(fixture: Callable[[str], Any]) -> Iterator[None]:
    """Let `new` be what CUBEFS_TEST_STORE says; `fixture` returns a fixture of pytest (a server) by its name."""
    global _current
    before, _current = _current, _KINDS[kind()](fixture)
    try:
        yield
    finally:
        _current = before


@contextmanager
def new() -> Iterator[Remote | None]:
    """Lend a new store of the kind in use, None for one in a local directory."""
    stores = _current
    remote = stores.new()
    try:
        yield remote
    finally:
        if remote is not None:
            stores.remove(remote)
