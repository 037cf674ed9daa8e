"""The places where the demo's objects can lie: a directory, or a real OpenStack Swift on the loopback interface.

Swift is reached by its own protocol or by its S3 API; its packages are installed by contrib/test-servers. Never
leaves the machine, and never uses credentials of the user's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from contrib.demo.report import mb
from contrib.demo.scratch import Scratch, StepError, disk_use_bytes, last_line
from tests.support.servers.swift import SwiftServer

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = ROOT / "build" / "servers" / "venv" / ".installed"  # written last by contrib/test-servers
PLACE = "cubefs-demo"  # the bucket or container
PREFIX = "account-1"  # as if thousands of accounts shared it
INSTALL_LIMIT_S = 600.0
CREDENTIALS = ("AWS_", "ST_", "OS_")  # what the variables of S3 and Swift begin with


class DemoStore(Protocol):
    """Where the objects of one run lie."""

    @property
    def url(self) -> str:
        """The URL for the commands."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What they need in the environment to get in."""

    def stored(self) -> str:
        """Say how much lies there now."""


class Directory:
    """A directory of this machine."""

    environment: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"local://{path}"

    def stored(self) -> str:
        """Say how much lies there now."""
        return f"{mb(disk_use_bytes(self._path))} (du of the store: data, metadata, keys)"


class Bucket:
    """A prefix in a bucket of Swift's S3 API."""

    def __init__(self, server: SwiftServer) -> None:
        self._access = server.s3
        self.url = f"s3://{server.make_bucket(PLACE)}/{PREFIX}"
        self.environment = self._access.environment()

    def stored(self) -> str:
        """Say how much lies there now."""
        with self._access.client() as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=PLACE, Prefix=f"{PREFIX}/")
            return _shown([item["Size"] for page in pages for item in page.get("Contents", [])])


class Container:
    """A prefix in a container of Swift."""

    def __init__(self, server: SwiftServer) -> None:
        self._access = server.swift
        self.url = f"swift://{server.make_container(PLACE)}/{PREFIX}"
        self.environment = self._access.environment()

    def stored(self) -> str:
        """Say how much lies there now."""
        with self._access.connection() as connection:
            _, items = connection.get_container(PLACE, prefix=f"{PREFIX}/", full_listing=True)
            return _shown([item["bytes"] for item in items])


class Kind(NamedTuple):
    """What the user calls it, and what it is."""

    store: type[Bucket] | type[Container]
    title: str


SERVED = {
    "s3": Kind(Bucket, "start OpenStack Swift on loopback, reached by its S3 API"),
    "swift": Kind(Container, "start OpenStack Swift on loopback"),
}
LOCAL = "local"


def check_name(name: str) -> None:
    """Raise StepError for a name that is not that of a kind of store."""
    if name != LOCAL and name not in SERVED:
        raise StepError(f"STORE={name}: not one of {LOCAL}, {', '.join(SERVED)}")


def forget_credentials() -> None:
    """Take what could lead to a store elsewhere out of the environment, ours and that of the commands."""
    for name in [name for name in os.environ if name.startswith(CREDENTIALS)]:
        del os.environ[name]


def install_server(scratch: Scratch) -> None:
    """Install Swift where it is missing; raise StepError in one line when that is not possible."""
    if INSTALLED.exists():
        return
    command: list[str | Path] = ["bash", ROOT / "contrib" / "test-servers"]
    done = scratch.run(command, directory=ROOT, timeout_s=INSTALL_LIMIT_S, may_fail=True)
    if done.status != 0:
        raise StepError(
            f"OpenStack Swift cannot be installed ({last_line(done.stderr)});"
            f" `make demo STORE={LOCAL}` needs no server"
        )


def open_served(scratch: Scratch, name: str) -> DemoStore:
    """Start the server, which lasts as long as `scratch`, and make an empty place in it."""
    return SERVED[name].store(scratch.serve(SwiftServer()))


def _shown(sizes: list[int]) -> str:
    return f"{mb(sum(sizes))} in {len(sizes)} objects (data, metadata, keys)"
