"""The bucket in the host's name (`addressing_style=virtual`), as AWS wants it, against a real server."""

from __future__ import annotations

import os
import secrets
import socket
from typing import Any

import pytest

from cubefs.errors import ObjectExistsError
from cubefs.store import open_store
from tests.support.servers.swift import SwiftServer
from tests.support.servers.swift_config import DOMAIN

BUCKET = "virtual-host"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every host of the test's domain be this machine, as its DNS would; the hosts that were looked up."""
    found: list[str] = []
    resolve = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(host, str) and host.endswith(DOMAIN):
            found.append(host)
            host = "127.0.0.1"
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return found


@pytest.mark.parametrize("style", ["virtual", "path"])
def test_the_bucket_is_found_by_its_host(
    swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch, asked: list[str], style: str
) -> None:
    swift_server.make_bucket(BUCKET)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = swift_server.s3_environment()
    del environment["AWS_ENDPOINT_URL_S3"]
    for name, value in {**environment, "NO_PROXY": f"127.0.0.1,{DOMAIN}", "no_proxy": DOMAIN}.items():
        monkeypatch.setenv(name, value)
    port = swift_server.url.rpartition(":")[2].strip("/")
    prefix = secrets.token_hex(8)
    store = open_store(f"s3://{BUCKET}/{prefix}?endpoint_url=http://{DOMAIN}:{port}&addressing_style={style}")
    store.put_new("packs/aa/bb", b"hello")
    with pytest.raises(ObjectExistsError):
        store.put_new("packs/aa/bb", b"again")
    assert store.get("packs/aa/bb") == b"hello"
    assert store.get_range("packs/aa/bb", start=1, length=3) == b"ell"
    assert [info.name for info in store.list("")] == ["packs/aa/bb"]
    store.delete("packs/aa/bb")
    assert set(asked) == {f"{BUCKET}.{DOMAIN}" if style == "virtual" else DOMAIN}
