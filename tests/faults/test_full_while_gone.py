"""The store is gone and there is no more room for what waits for it: on the disk, or in what the cache may take."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.scene import LIMIT_S, MIB, Data, Scene, running, state
from tests.support.mounting import small_disk, wait_until
from tests.support.sharedmount import error_of

DISK_BYTES = 84 * MIB
FILE_BYTES = 2 * MIB
PIECE_BYTES = 128 * 1024  # the kernel asks to write no more at once
CACHE_BYTES = 4 * MIB
PATIENCE_S = 60.0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a small tmpfs")
@pytest.mark.parametrize("driver", ["s3"])
def test_the_disk_is_full(scene: Scene) -> None:
    """Writers get ENOSPC, readers what they want; all that was accepted arrives, and there is room again."""
    machine = scene.machine()
    disk = machine.root / "disk"
    small_disk(disk, size=f"{DISK_BYTES}")
    machine.cache = disk / "cache"
    machine.mount("-o", f"cache_dir={machine.cache}")
    data = Data(machine.mount_point)
    scene.proxy.stop()
    for number in range(DISK_BYTES // FILE_BYTES):
        accepted, error = write_what_fits(machine.mount_point / f"{number:03}", os.urandom(FILE_BYTES))
        data.expected[f"{number:03}"] = accepted
        if error != "none":
            break
    assert error == "ENOSPC" and number > 5
    fields = state(machine)
    assert fields["cache_disk_full"] and fields["failure"] is None
    for name, content in data.expected.items():
        assert (machine.mount_point / name).read_bytes() == content
    scene.proxy.start()
    wait_until(lambda: not state(machine)["cache_disk_full"], timeout_s=PATIENCE_S)
    data.write("afterwards", size=MIB)
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    scene.judge(machine, data.expected)


def write_what_fits(path: Path, content: bytes) -> tuple[bytes, str]:
    """Write until an error; return what was accepted, and the error's name."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(content), PIECE_BYTES):
            error = error_of(file.write, content[start : start + PIECE_BYTES])
            if error != "none":
                return content[:start], error
    return content, "none"


@pytest.mark.parametrize("driver", ["swift"])
def test_the_cache_is_full(scene: Scene) -> None:
    """Writers wait, and the mount says so; whoever does not write goes on; everything drains."""
    machine = scene.mounted(f"cache_size={CACHE_BYTES // MIB}M", "dirty_limit=4M", "commit_interval=0.5s")
    data = Data(machine.mount_point)
    scene.proxy.stop()
    with running(lambda: data.write("copy", size=4 * CACHE_BYTES), timeout_s=LIMIT_S) as writing:
        wait_until(lambda: state(machine)["writers_waiting_for_store"] > 0, timeout_s=PATIENCE_S)
        assert "writers wait" in machine.cubefs("status", machine.mount_point).out
        work_without_writing(machine.mount_point)
        wait_until(lambda: "WARNING cubefs.engine.localpacks: writers wait: " in machine.log())  # in some seconds
        assert writing.is_alive()
        assert state(machine)["cache_bytes"] < CACHE_BYTES + 24 * MIB
        scene.proxy.start()
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    assert state(machine)["writers_waiting_for_store"] == 0
    scene.judge(machine, data.expected)


def work_without_writing(root: Path) -> None:
    """Do everything that changes no contents; none of it may wait for the store."""
    program = """
mkdir directory; touch directory/file; mv directory/file directory/name; ln directory/name directory/link
chmod 600 directory/name; setfattr -n user.note -v value directory/name
ls -lR . > /dev/null; df . > /dev/null; rm -r directory
"""
    subprocess.run(["bash", "-ec", program], cwd=root, check=True, timeout=PATIENCE_S)
