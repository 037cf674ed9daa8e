"""Credentials are taken away and given back: what was accepted arrives, and the mount stays what it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.faults.scene import (
    LIMIT_S,
    MIB,
    Cast,
    Data,
    Entry,
    Scene,
    running,
    state,
    wait_for_store_error,
)
from tests.support.mounting import wait_until
from tests.support.servers.swift import SwiftUser
from tests.support.sharedmount import error_of

GUEST = SwiftUser("test", "guest", "guesting")
READ_TIMEOUT_S = 3
PATIENCE_S = 15.0  # on a busy machine
WORDS = {"s3": "the store refuses us", "swift": "is refused: check the user and the key"}


@pytest.fixture
def guest(cast: Cast) -> Iterator[SwiftUser]:
    """A user of the same account, whose key the tests change."""
    yield cast.server.add_user(GUEST)
    cast.server.users.pop(GUEST.name, None)


def test_revoked_while_writing(cast: Cast, guest: SwiftUser, new_scene: Callable[..., Scene], driver: str) -> None:
    """The server knows the user no more, then it does: nothing fails, no writer waits."""
    scene = new_scene(driver, user=guest)
    machine = scene.mounted()
    data = Data(machine.mount_point)
    cast.server.revoke(guest)
    data.write("first", size=4 * MIB)
    syncing = machine.start("cubefs", "sync", machine.mount_point)
    assert syncing.stderr is not None
    line = syncing.stderr.readline()
    assert line.startswith("cubefs: the store fails, trying again") and WORDS[driver] in line
    wait_for_store_error(machine, WORDS[driver])
    data.write("second", size=0)
    assert state(machine)["failure"] is None
    cast.server.add_user(guest)
    assert syncing.wait(LIMIT_S) == 0
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    assert state(machine)["store_error"] is None
    scene.judge(machine, data.expected)


@pytest.mark.parametrize("driver", ["swift"])
def test_revoked_while_reading(cast: Cast, guest: SwiftUser, new_scene: Callable[..., Scene], driver: str) -> None:
    """A reader waits, and gets what it wants or EIO, as the time allows; the mount goes on in either case."""
    scene = new_scene(driver, user=guest)
    data = write_elsewhere(scene)
    machine = scene.mounted(f"read_timeout={READ_TIMEOUT_S}s")
    early, late = (machine.mount_point / f"{number}" / "large 0" for number in range(2))
    cast.server.revoke(guest)
    before_s = time.monotonic()
    outcome: list[str] = []
    with running(lambda: outcome.append(error_of(early.read_bytes))):
        wait_until(lambda: state(machine)["readers_waiting_for_store"] > 0)
        assert "readers wait" in machine.cubefs("status", machine.mount_point).out
    assert outcome == ["EIO"]
    assert READ_TIMEOUT_S - 0.1 < time.monotonic() - before_s < READ_TIMEOUT_S + PATIENCE_S
    assert WORDS[driver] in machine.log()
    refused_count = len(refusals(scene))
    found: list[bytes] = []
    with running(lambda: found.append(late.read_bytes())):
        wait_until(lambda: len(refusals(scene)) > refused_count)
        cast.server.add_user(guest)
    assert found == [data.expected["1/large 0"]]
    assert early.read_bytes() == data.expected["0/large 0"]
    data.root = machine.mount_point
    data.write("written afterwards", size=0)
    machine.cubefs("sync", machine.mount_point)
    scene.judge(machine, data.expected)


def write_elsewhere(scene: Scene) -> Data:
    """Store two packs by another machine."""
    other = scene.machine("other", direct=True)
    data = Data(other.mount())
    for number in range(2):
        data.write(f"{number}", size=300_000, small_count=2)
        other.cubefs("sync", other.mount_point)
    other.umount()
    return data


def refusals(scene: Scene) -> list[Entry]:
    """Return the requests that were refused, those for a token too."""
    return [entry for entry in scene.proxy.log() if entry["status"] in (401, 403)]
