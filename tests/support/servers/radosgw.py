"""Owns the tests' side of radosgw: an S3 server that shares no code with Swift, with users of its own.

What it does otherwise than AWS: `x-amz-checksum-*` is ignored (a wrong one is taken), PUT with If-Match is
always 412, and its Swift side ignores `If-None-Match: *`.
Must never: be needed; where it is not installed the tests that want it are skipped.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from tests.support.servers.access import S3Access, SwiftAccess
from tests.support.servers.ceph_programs import TREE, CephPrograms
from tests.support.servers.process import ServerProcess
from tests.support.servers.radosgw_config import OWNER, SUBUSER, creation_of, keys_of
from tests.support.servers.scratch import scratch_directory


class RadosGateway:
    """A real radosgw in front of a store in memory, which holds all that is stored until it ends."""

    def __init__(self, tree: Path = TREE) -> None:
        self._tree = tree
        self._programs = CephPrograms(tree)
        self._process: ServerProcess | None = None
        self._facts: dict[str, Any] = {}
        self._directory = Path()
        self._users: set[str] = {OWNER}

    def find_obstacle(self) -> str | None:
        """Say why it cannot be started here, None where it can."""
        if not self._programs.are_there:
            return "radosgw is not installed ('make test-servers' tries that, and says why it cannot)"
        return None

    def start(self) -> RadosGateway:
        """Start the daemons and wait until they answer. Raises ServerError."""
        self._directory = scratch_directory("radosgw")
        program = "tests.support.servers.radosgw_service"
        command = [sys.executable, "-m", program, "--directory", str(self._directory), "--tree", str(self._tree)]
        self._process = ServerProcess("radosgw", command, environment=self._programs.environment)
        try:
            self._facts = self._process.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the daemons. Raises ServerError where they had ended by themselves."""
        if self._process is None:
            return
        try:
            self._process.stop()
        finally:
            self._process = None
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> RadosGateway:
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
        """The processes of the daemons, and the one that watches over them."""
        return list(self._facts["pids"])

    @property
    def s3(self) -> S3Access:
        """The S3 side as the first user."""
        return self.s3_as(OWNER)

    @property
    def swift(self) -> SwiftAccess:
        """The Swift side as the first user."""
        storage_url = f"{self.url}/swift/v1/AUTH_{OWNER}"
        return SwiftAccess(f"{self.url}/auth/v1.0", f"{OWNER}:{SUBUSER}", keys_of(OWNER)[1], storage_url)

    def s3_as(self, user: str) -> S3Access:
        """Return the S3 side as another user sees it."""
        assert user in self._users, f"there is no user {user}"
        return S3Access(self.url, str(self._facts["region"]), *keys_of(user))

    def s3_environment(self, via: str | None = None) -> dict[str, str]:
        """Return the AWS_* variables of the first user, optionally through the proxy at `via`."""
        return self.s3.environment(via)

    def swift_environment(self, via: str | None = None) -> dict[str, str]:
        """Return the ST_* variables of the first user, optionally through the proxy at `via`."""
        return self.swift.environment(via)

    def make_bucket(self, name: str) -> str:
        """Create a bucket of the first user; return its name."""
        return self.s3.make_bucket(name)

    def make_container(self, name: str, headers: dict[str, str] | None = None) -> str:
        """Create a container of the first user; return its name."""
        return self.swift.make_container(name, headers)

    # -- users

    def add_user(self, user: str) -> S3Access:
        """Create a user with keys of its own; for a bucket policy it is arn:aws:iam:::user/<user>."""
        self._admin(*creation_of(user))
        self._users.add(user)
        return self.s3_as(user)

    def permit_user_policies(self) -> None:
        """Let the first user give others policies of their own, by the calls of IAM."""
        self._admin("caps", "add", f"--uid={OWNER}", "--caps=user-policy=*")

    def suspend(self, user: str) -> None:
        """Shut a user out: everything is answered with 403."""
        self._admin("user", "suspend", f"--uid={user}")

    def readmit(self, user: str) -> None:
        """Let a user in again who was shut out."""
        self._admin("user", "enable", f"--uid={user}")

    def _admin(self, *arguments: str) -> None:
        self._programs.run("radosgw-admin", "-c", str(self._facts["conf"]), *arguments)
