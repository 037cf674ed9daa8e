"""Owns the tests' side of OpenStack Swift: start it, reach it by Swift and by S3, let users come and go.

Must never: import the package `swift`, which lives in an environment of its own (contrib/test-servers).
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.servers.access import S3Access, SwiftAccess
from tests.support.servers.process import PYTHON, ServerError, ServerProcess
from tests.support.servers.scratch import scratch_directory
from tests.support.servers.swift_config import KeystoneLogin


@dataclass(frozen=True)
class SwiftUser:
    """A user of the account AUTH_<account>; group `.admin` owns it, others need an ACL to do anything."""

    account: str
    user: str
    key: str
    groups: tuple[str, ...] = (".admin",)

    @property
    def name(self) -> str:
        """The name to log in with; over S3 it is the access key, and the key is the secret."""
        return f"{self.account}:{self.user}"


TESTER = SwiftUser("test", "tester", "testing")


class SwiftServer:
    """A real Swift with its own S3 API on one port of the loopback interface; both see the same objects.

    Without `directory` the data vanishes with the server. `fsync` makes it as slow as in production. With a
    `keystone` that decides who may do what: there is no S3 then, and none of the users here (see KeystoneSwift).
    """

    def __init__(
        self,
        *,
        users: Iterable[SwiftUser] = (),
        directory: Path | None = None,
        port: int = 0,
        fsync: bool = False,
        token_life_s: int = 86400,
        keystone: KeystoneLogin | None = None,
    ) -> None:
        self.users = {user.name: user for user in (TESTER, *users)}
        self._kept_directory = directory
        self._options = ["--port", str(port), "--token-life-s", str(token_life_s), *["--fsync"] * fsync]
        if keystone is not None:
            self._options += ["--keystone", keystone.url, keystone.user, keystone.password]
        self._generations = itertools.count(1)
        self._generation = 0
        self._process: ServerProcess | None = None
        self._facts: dict[str, Any] = {}
        self.directory = Path()

    def start(self) -> SwiftServer:
        """Start the servers and wait until they answer. Raises ServerError."""
        if not PYTHON.exists():
            raise ServerError("OpenStack is not installed; 'make test-servers' does that")
        self.directory = self._kept_directory or scratch_directory("swift")
        self.directory.mkdir(exist_ok=True)
        self._write_users()
        command = [str(PYTHON), "-m", "tests.support.servers.swift_service", "--directory", str(self.directory)]
        command += self._options + ["--remove"] * (self._kept_directory is None)
        self._process = ServerProcess("Swift", command)
        try:
            self._facts = self._process.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the servers. Raises ServerError where they had ended by themselves."""
        if self._process is None:
            return
        try:
            self._process.stop()
        finally:
            self._process = None
            if self._kept_directory is None:
                shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> SwiftServer:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # -- how to reach it

    @property
    def url(self) -> str:
        """The address of both protocols."""
        return str(self._facts["url"])

    @property
    def pids(self) -> list[int]:
        """The processes of the four servers, and the one that watches over them."""
        return list(self._facts["pids"])

    @property
    def s3(self) -> S3Access:
        """The S3 side, as test:tester."""
        return self.s3_as(TESTER)

    @property
    def swift(self) -> SwiftAccess:
        """The Swift side, as test:tester."""
        return self.swift_as(TESTER)

    def s3_as(self, user: SwiftUser) -> S3Access:
        """Return the S3 side as another user sees it."""
        return S3Access(self.url, str(self._facts["region"]), user.name, user.key)

    def swift_as(self, user: SwiftUser) -> SwiftAccess:
        """Return the Swift side as another user sees it."""
        storage_url = f"{self.url}/v1/AUTH_{user.account}"
        return SwiftAccess(f"{self.url}/auth/v1.0", user.name, user.key, storage_url)

    def s3_environment(self, via: str | None = None) -> dict[str, str]:
        """Return the AWS_* variables of test:tester, optionally through the proxy at `via`."""
        return self.s3.environment(via)

    def swift_environment(self, via: str | None = None) -> dict[str, str]:
        """Return the ST_* variables of test:tester, optionally through the proxy at `via`."""
        return self.swift.environment(via)

    def make_bucket(self, name: str) -> str:
        """Create a bucket of test:tester (S3 wants lower case, 3 to 63 characters); return its name."""
        return self.s3.make_bucket(name)

    def make_container(self, name: str, headers: dict[str, str] | None = None) -> str:
        """Create a container of test:tester; return its name."""
        return self.swift.make_container(name, headers)

    # -- users

    def add_user(self, user: SwiftUser) -> SwiftUser:
        """Let a user in, or change the key of one who is; counts from the next request on."""
        self.users[user.name] = user
        self._write_users()
        return user

    def revoke(self, user: SwiftUser) -> None:
        """Shut a user out: the key is worthless over both protocols, and so is every token (of anyone)."""
        del self.users[user.name]
        self.forget_tokens()

    def forget_tokens(self) -> None:
        """Make every token worthless: clients of the Swift side get 401 until they log in again."""
        self._generation = next(self._generations)
        self._write_users()

    def _write_users(self) -> None:
        content = {
            "generation": self._generation,
            "users": {name: {"key": user.key, "groups": user.groups} for name, user in self.users.items()},
        }
        new = self.directory / "users.json.new"
        new.write_text(json.dumps(content))
        new.replace(self.directory / "users.json")
