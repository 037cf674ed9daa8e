"""What the fault tests share: a server, a proxy in front of it, and for each test a file system of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cubefs.format.keys import KdfParams
from cubefs.mkfs.make import make_file_system
from cubefs.model import Chunking
from cubefs.store import open_store
from tests.faults.scene import PLACE, Cast, Scene
from tests.support.mounting import PASSPHRASE
from tests.support.servers.proxy import FaultProxy
from tests.support.servers.swift import TESTER, SwiftServer, SwiftUser

TINY_KDF = KdfParams(memory_kib=8, iterations=1, lanes=1)  # the least that Argon2 takes: every test mounts twice
DRIVERS = ("s3", "swift")


@pytest.fixture(scope="session")
def cast(swift_server: SwiftServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cast]:
    """The server, a proxy in front of it, and an empty file system to copy."""
    swift_server.make_container(PLACE)
    template = tmp_path_factory.mktemp("template") / "store"
    make_file_system(
        open_store(f"local://{template}", create=True),
        passphrase=PASSPHRASE,
        chunking=Chunking.CONTENT,
        kdf=TINY_KDF,
        now_ns=time.time_ns(),
    )
    with FaultProxy(swift_server.url) as proxy:
        yield Cast(swift_server, proxy, template)


@pytest.fixture
def faults(cast: Cast) -> Iterator[FaultProxy]:
    """The proxy, open and without faults."""
    cast.proxy.clear()
    yield cast.proxy
    cast.proxy.clear()
    cast.proxy.start()


@pytest.fixture
def new_scene(cast: Cast, faults: FaultProxy, tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Make file systems, as often as called: new_scene(driver, user=...)."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or not permitted")
    scenes: list[Scene] = []

    def make(driver: str, *, user: SwiftUser = TESTER) -> Scene:
        scenes.append(Scene(cast, driver, tmp_path, user=user))
        return scenes[-1]

    try:
        yield make
    finally:
        for scene in scenes:
            scene.close()


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    """The protocol."""
    return str(request.param)


@pytest.fixture
def scene(new_scene: Callable[..., Scene], driver: str) -> Scene:
    """A file system, not mounted yet."""
    return new_scene(driver)
