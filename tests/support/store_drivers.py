"""Owns the list of drivers that the contract suite runs against, and how each gets stores that are empty.

Must never: know what is tested.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from cubefs.store.base import Pace, Store
from cubefs.store.local import LocalStore
from cubefs.store.s3 import open_s3
from cubefs.store.swift import open_swift
from tests.support.memory_store import MemoryStore
from tests.support.servers.access import S3Access, SwiftAccess

PLACE = "contract"  # the bucket or container; each test has a prefix of its own in it


@dataclass(frozen=True)
class Driver:
    """One driver and a server for it."""

    new_url: Callable[[], str]  # of a store that is empty
    opener: Callable[..., Store]  # (url, pace=) -> one more instance of it
    environment: Mapping[str, str] = field(default_factory=dict)
    wrong_secret: Mapping[str, str] = field(default_factory=dict)  # what to change in it; none: no secrets
    many_count: int = 1010  # objects enough to fill more than one page of a listing
    gone_count: int = 1005  # names enough for more than one request that deletes many
    is_atomic: bool = True  # of several put_new at the same moment exactly one succeeds

    def open(self, url: str, *, pace: Pace | None = None, **changes: str) -> Store:
        """Open a store with nothing in the environment but what belongs to this driver."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith(("AWS_", "ST_", "OS_"))]:
                patch.delenv(name)
            for name, value in {**self.environment, **changes}.items():
                patch.setenv(name, value)
            return self.opener(url, pace=pace)

    def new(self, *, pace: Pace | None = None) -> Store:
        """Open a store that is empty."""
        return self.open(self.new_url(), pace=pace)


def random_prefixes(start: str) -> Callable[[], str]:
    """Return what makes URLs below `start`, a new one each time."""
    return lambda: f"{start}/{secrets.token_hex(8)}"


def memory_driver(request: pytest.FixtureRequest) -> Driver:
    """The store of the simulation."""
    stores: dict[str, MemoryStore] = {}

    def another(url: str, *, pace: Pace | None) -> Store:
        return stores.setdefault(url, MemoryStore(url)).another(pace=pace)

    return Driver(random_prefixes("memory://test"), another, many_count=2300)


def local_driver(request: pytest.FixtureRequest) -> Driver:
    """A directory."""
    root = Path(request.getfixturevalue("tmp_path_factory").mktemp("stores"))

    def make(url: str, *, pace: Pace | None) -> Store:
        path = Path(url.removeprefix("local://"))
        path.mkdir(exist_ok=True)
        return LocalStore(path, pace=pace)

    return Driver(random_prefixes(f"local://{root}"), make, many_count=2300)


# Swift's object server looks whether the name is free when a PUT begins and puts the file into place when it ends,
# without a lock in between (swift/obj/server.py): of two that overlap both can succeed, by either protocol.


def s3_driver(request: pytest.FixtureRequest, *, server: str) -> Driver:
    """S3, of the server that the fixture `server` gives."""
    access: S3Access = request.getfixturevalue(server).s3
    access.make_bucket(PLACE)
    wrong_secret = {"AWS_SECRET_ACCESS_KEY": "not-the-key"}
    driver = Driver(random_prefixes(f"s3://{PLACE}"), open_s3, access.environment(), wrong_secret)
    # Swift's own S3 takes about 6 ms for each name to delete, there or not
    return replace(driver, is_atomic=False, gone_count=105) if server == "swift_server" else driver


def swift_driver(request: pytest.FixtureRequest) -> Driver:
    """Swift, by its own protocol."""
    access: SwiftAccess = request.getfixturevalue("swift_server").swift
    access.make_container(PLACE)
    wrong_secret = {"ST_KEY": "not-the-key"}
    return Driver(
        random_prefixes(f"swift://{PLACE}"), open_swift, access.environment(), wrong_secret, is_atomic=False
    )


LOCAL = {"memory": memory_driver, "local": local_driver}
REMOTE = {
    "s3": partial(s3_driver, server="swift_server"),
    "s3-radosgw": partial(s3_driver, server="radosgw"),
    "swift": swift_driver,
}
DRIVERS: Mapping[str, Callable[[pytest.FixtureRequest], Driver]] = {**LOCAL, **REMOTE}
