"""Owns how a client reaches a store of the tests: addresses, keys, and the environment variables that carry them.

Must never: start or stop a server; reach anything that the server itself did not announce.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

# A proxy that the environment knows for the outer world has no business on loopback.
DIRECT = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


def through(url: str, via: str | None) -> str:
    """Return `url` with the scheme, host and port of `via`; unchanged where that is None."""
    if via is None:
        return url
    parts, door = urlsplit(url), urlsplit(via)
    return urlunsplit((door.scheme, door.netloc, parts.path, parts.query, parts.fragment))


@dataclass(frozen=True)
class S3Access:
    """An S3 endpoint (path style, signature version 4) and the keys of one user."""

    endpoint: str
    region: str
    access_key: str
    secret_key: str

    def environment(self, via: str | None = None) -> dict[str, str]:
        """Return what boto3's own chain of credentials reads; `via` is the URL of a proxy to go through.

        The developer's configuration files are kept out. AWS_PROFILE and AWS_SESSION_TOKEN must not be set.
        """
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL_S3": through(self.endpoint, via),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            **DIRECT,
        }

    @contextmanager
    def client(self, via: str | None = None, *, attempts: int = 1) -> Iterator[Any]:
        """Open a plain boto3 client, which repeats nothing unless `attempts` says so."""
        import boto3  # half a second: not for those who test something else
        from botocore.config import Config

        client = boto3.session.Session().client(
            "s3",
            endpoint_url=through(self.endpoint, via),
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": attempts, "mode": "standard"},
                connect_timeout=10,
                read_timeout=20,
                proxies={},
            ),
        )
        try:
            yield client
        finally:
            client.close()

    def make_bucket(self, name: str) -> str:
        """Create the bucket where this user does not own it yet; return its name."""
        with self.client() as client:
            try:
                client.create_bucket(Bucket=name)
            except client.exceptions.BucketAlreadyOwnedByYou:
                pass
        return name


@dataclass(frozen=True)
class SwiftAccess:
    """An account of Swift and the key of one user, for the v1 protocol of authentication."""

    auth_url: str
    user: str
    key: str
    storage_url: str

    def environment(self, via: str | None = None) -> dict[str, str]:
        """Return what the `swift` program reads; `via` is the URL of a proxy to go through.

        The server derives the storage URL from the Host header: whoever asks for a token through the proxy
        stays there. OS_* variables must not be set.
        """
        return {
            "ST_AUTH": through(self.auth_url, via),
            "ST_AUTH_VERSION": "1",
            "ST_USER": self.user,
            "ST_KEY": self.key,
            **DIRECT,
        }

    @contextmanager
    def connection(self, via: str | None = None, *, retries: int = 0) -> Iterator[Any]:
        """Open a plain connection of python-swiftclient, which repeats nothing unless `retries` says so."""
        import swiftclient

        connection = swiftclient.Connection(
            through(self.auth_url, via), self.user, self.key, auth_version="1", retries=retries, timeout=20
        )
        try:
            yield connection
        finally:
            connection.close()

    def make_container(self, name: str, headers: dict[str, str] | None = None) -> str:
        """Create the container where it is missing, with `headers` such as X-Container-Read; return its name."""
        with self.connection() as connection:
            connection.put_container(name, headers=headers)
        return name

    def via(self, url: str) -> SwiftAccess:
        """Return the same account as reached through the proxy at `url`."""
        return replace(self, auth_url=through(self.auth_url, url), storage_url=through(self.storage_url, url))
