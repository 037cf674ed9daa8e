"""The store is gone for a while: what writes goes on, everything says why it waits, and everything arrives.

CUBEFS_FAULT_SECONDS sets how long (10 by default; a minute and more is a soak).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.scene import FAULT_S, LIMIT_S, MIB, Data, Scene, state, wait_for_store_error, write_tree
from tests.support.mounting import Machine, wait_until

COPY_BYTES = 12 * MIB


def start_rsync(scene: Scene, data: Data, source: Path, *, seconds: float) -> subprocess.Popen[str]:
    """Start a copy that takes about as long as the store will be gone."""
    write_tree(source / "copy", data.plan("copy", size=COPY_BYTES, small_count=100))
    speed = f"--bwlimit={COPY_BYTES / seconds / 1024:.0f}"
    return scene.spawn(["rsync", "-a", speed, source / "copy", data.root])


def lines_about(machine: Machine, text: str) -> int:
    """Count the lines of the daemon's log that contain `text`."""
    return sum(text in line for line in machine.log().splitlines())


@pytest.mark.parametrize("driver", ["swift"])
def test_nobody_answers_while_rsync_writes(scene: Scene, tmp_path: Path) -> None:
    """Connections are refused in the middle of it: rsync does not notice."""
    machine = scene.mounted("commit_interval=0.5s", "recovery_point=1s")
    data = Data(machine.mount_point)
    copy = start_rsync(scene, data, tmp_path / "source", seconds=FAULT_S)
    wait_until(lambda: bool(scene.log("PUT")))
    scene.proxy.stop()
    back_s = time.monotonic() + FAULT_S
    wait_for_store_error(machine, "refused")
    assert re.search("store trouble .* refused", machine.cubefs("status", machine.mount_point).out)
    assert state(machine)["unshipped_commits"] > 0
    syncing = machine.start("cubefs", "sync", machine.mount_point)
    assert syncing.stderr is not None
    assert syncing.stderr.readline().startswith("cubefs: the store fails, trying again until it works")
    data.file("written meanwhile", os.urandom(100_000))
    assert (machine.mount_point / "written meanwhile").read_bytes() == data.expected["written meanwhile"]
    assert copy.wait(LIMIT_S) == 0
    assert syncing.poll() is None
    time.sleep(max(0.0, back_s - time.monotonic()))
    scene.proxy.start()
    assert syncing.wait(LIMIT_S) == 0
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    assert state(machine)["store_error"] is None
    assert lines_about(machine, "storing packs fails, will try again: ") == 1
    assert lines_about(machine, "storing packs works again") == 1
    scene.judge(machine, data.expected)


@pytest.mark.parametrize("driver", ["s3"])
def test_silence_while_rsync_writes(scene: Scene, tmp_path: Path) -> None:
    """No request is answered for a while, then all of them: those who wait hold up nobody else."""
    machine = scene.mounted("commit_interval=0.5s", "recovery_point=1s")
    data = Data(machine.mount_point)
    copy = start_rsync(scene, data, tmp_path / "source", seconds=FAULT_S / 2)
    wait_until(lambda: bool(scene.log("PUT")))
    scene.proxy.rule("latency", ms=FAULT_S / 2 * 1000, for_seconds=FAULT_S / 2)
    while copy.poll() is None:
        data.file("written meanwhile", os.urandom(100_000))
        assert state(machine)["failure"] is None
        time.sleep(0.3)
    assert copy.wait(LIMIT_S) == 0
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    scene.judge(machine, data.expected)


@pytest.mark.parametrize("driver", ["s3"])
def test_unmounting_while_nobody_answers(scene: Scene) -> None:
    """It waits and says why; Ctrl-C leaves it mounted; it ends by itself when the store is back."""
    machine = scene.mounted()
    data = Data(machine.mount_point)
    data.write("before")
    scene.proxy.stop()
    umount = machine.start("cubefs", "umount", machine.mount_point)
    assert umount.stderr is not None
    assert umount.stderr.readline().startswith("cubefs: the store fails, trying again until it works (Ctrl-C")
    umount.send_signal(signal.SIGINT)
    assert umount.wait(LIMIT_S) == 130
    assert umount.stderr.read() == (
        f"cubefs: interrupted: {machine.mount_point} is still mounted, and goes on storing\n"
    )
    data.write("after", size=0)
    assert state(machine)["unstored_bytes"] > 0
    umount = machine.start("cubefs", "umount", machine.mount_point)
    assert umount.stderr is not None
    assert umount.stderr.readline().startswith("cubefs: the store fails, trying again until it works (Ctrl-C")
    assert os.path.ismount(machine.mount_point)
    scene.proxy.start()
    assert umount.wait(LIMIT_S) == 0
    assert not os.path.ismount(machine.mount_point)
    scene.judge(machine, data.expected)
