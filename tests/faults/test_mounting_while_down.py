"""Mounting while nobody answers: from what the cache directory remembers, or not at all, but never for long."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.faults.scene import FAULT_S, LIMIT_S, MIB, Data, Scene, state
from tests.support.mounting import Machine

SILENCE_S = 60.0  # after so long a request fails
PATIENCE_S = 30.0  # some attempts within a few seconds, on a busy machine


def mount_from_memory(machine: Machine) -> None:
    """Mount while the store is down: it works, and one line says what could not be checked."""
    machine.mount_point.mkdir(exist_ok=True)
    before_s = time.monotonic()
    result = machine.run("cubefs", "mount", machine.url, machine.mount_point)
    assert result.code == 0, result.err
    *_, line = result.err.splitlines()  # the first may be about the dead mount
    assert line.startswith("cubefs: the store does not answer") and "refused" in line
    assert "Not checked: whether another machine has written" in line
    assert time.monotonic() - before_s < PATIENCE_S
    assert state(machine)["not_checked"]
    assert "not checked yet" in machine.cubefs("status", machine.mount_point).out


def assert_readable(root: Path, expected: Mapping[str, bytes]) -> None:
    for name, content in expected.items():
        assert (root / name).read_bytes() == content, name


@pytest.mark.parametrize("driver", ["swift"])
def test_mounting_from_the_cache_directory(scene: Scene) -> None:
    """Reads, writes and a crash without a store; then all of it arrives, and what was open is checked."""
    machine = scene.mounted()
    data = Data(machine.mount_point)
    data.write("stored", size=3 * MIB)
    machine.umount()
    scene.proxy.stop()
    mount_from_memory(machine)
    assert_readable(data.root, data.expected)
    data.write("written without a store", size=3 * MIB, small_count=10)
    for path in (data.root / "written without a store").rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    machine.kill()
    mount_from_memory(machine)
    assert_readable(data.root, data.expected)
    data.write("written after a crash", size=0)
    scene.proxy.start()
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    fields = state(machine)
    assert fields["not_checked"] is None and fields["store_error"] is None
    assert "the store is there again, and no other machine has written to it" in machine.log()
    scene.judge(machine, data.expected)


def test_mounting_from_nothing(scene: Scene) -> None:
    """One line that says why, and soon."""
    machine = scene.machine()
    machine.mount_point.mkdir()
    scene.proxy.stop()
    before_s = time.monotonic()
    result = machine.run("cubefs", "mount", machine.url, machine.mount_point)
    assert result.code == 8
    assert "refused" in result.error_line()
    assert time.monotonic() - before_s < PATIENCE_S
    assert not os.path.ismount(machine.mount_point)
    scene.proxy.start()
    machine.mount()


@pytest.mark.parametrize("driver", ["s3"])
def test_two_machines_after_an_outage(scene: Scene) -> None:
    """One wrote while the other could not ask: the other finds out before it writes, and loses nothing."""
    machine = scene.mounted()
    Data(machine.mount_point).write("stored", size=0)
    machine.umount()
    scene.proxy.stop()
    mount_from_memory(machine)
    ours = Data(machine.mount_point)
    ours.write("ours", size=MIB)
    other = scene.machine("other", direct=True)
    theirs = Data(other.mount())
    theirs.write("theirs", size=MIB)
    other.umount()
    scene.proxy.start()
    result = machine.run("cubefs", "sync", machine.mount_point)
    assert result.code == 7
    assert "another machine has written" in result.error_line()
    assert "another machine has written" in str(state(machine)["failure"])
    assert_readable(ours.root, ours.expected)
    scene.audit(other)


@pytest.mark.parametrize("driver", ["s3"])
@pytest.mark.skipif(FAULT_S < SILENCE_S, reason="takes minutes: a soak, with CUBEFS_FAULT_SECONDS=60")
def test_mounting_while_the_store_is_silent(scene: Scene) -> None:
    """It takes connections and says nothing: a minute for the command, and one for the daemon."""
    machine = scene.mounted()
    data = Data(machine.mount_point)
    data.write("stored", size=0)
    machine.umount()
    scene.proxy.rule("latency", ms=3_600_000)
    before_s = time.monotonic()
    result = machine.run("cubefs", "mount", machine.url, machine.mount_point, timeout_s=4 * SILENCE_S)
    assert result.code == 0, result.err
    assert "the store does not answer" in result.error_line()
    assert_readable(data.root, data.expected)
    other = scene.machine("other")
    other.mount_point.mkdir()
    result = other.run("cubefs", "mount", other.url, other.mount_point, timeout_s=4 * SILENCE_S)
    assert result.code == 8, result.err
    assert time.monotonic() - before_s < 4 * SILENCE_S
    data.write("written without a store", size=0)
    scene.proxy.clear()
    machine.cubefs("sync", machine.mount_point, timeout_s=3 * SILENCE_S)
    scene.judge(machine, data.expected)
