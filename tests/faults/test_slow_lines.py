"""Long ways and narrow lines: everything arrives, and whoever works in the mount meanwhile does not notice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.scene import LIMIT_S, MIB, Data, Scene, running, state

PATIENCE_S = 8.0  # not a measure of speed: what takes longer hangs
NARROW_BYTES_PER_S = 1_000_000


@pytest.mark.parametrize("driver", ["s3"])
def test_near_and_then_narrow(scene: Scene) -> None:
    """50 ms away; then 1 MB/s each way, through which a new machine also reads everything."""
    machine = scene.mounted("commit_interval=1s")
    data = Data(machine.mount_point)
    scene.proxy.settings(latency_ms=50, jitter_ms=20)
    work_while_storing(scene, data, "near")
    scene.proxy.settings(latency_ms=0, jitter_ms=0, total_up=NARROW_BYTES_PER_S, total_down=NARROW_BYTES_PER_S)
    work_while_storing(scene, data, "narrow")
    scene.compare(data.expected, direct=False)
    scene.audit(machine)


@pytest.mark.parametrize("driver", ["swift"])
def test_far(scene: Scene) -> None:
    """500 ms away."""
    machine = scene.mounted("commit_interval=1s")
    data = Data(machine.mount_point)
    scene.proxy.settings(latency_ms=500)
    work_while_storing(scene, data, "far")
    scene.judge(machine, data.expected)


def work_while_storing(scene: Scene, data: Data, name: str) -> None:
    """Write some MB, and do what people do until they are stored."""
    machine = scene.machine()
    data.write(name, size=3 * MIB // 2)
    with running(lambda: machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)) as syncing:
        rounds = 0
        while syncing.is_alive() or rounds < 3:
            use(scene, data, data.root / name, f"{name}, note {rounds}")
            rounds += 1
            time.sleep(0.3)
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    assert state(machine)["store_error"] is None


def use(scene: Scene, data: Data, there: Path, name: str) -> None:
    """Look around and write a small file, each within the time that people have."""
    machine, root = scene.machine(), data.root
    timed("ls", lambda: sorted(there.iterdir()))
    timed("stat", lambda: (there / "large 0").stat())
    timed("write", lambda: data.file(name, os.urandom(3000)))
    timed("fsync", lambda: synced(root / name))
    timed("rename", lambda: (root / name).rename(root / f"{name}, final"))
    data.expected[f"{name}, final"] = data.expected.pop(name)
    timed("read", lambda: (root / f"{name}, final").read_bytes())
    timed("status", lambda: state(machine))


def synced(path: Path) -> None:
    """Have a file on the local disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def timed(what: str, call: Callable[[], object]) -> None:
    """Fail when something takes too long for a person."""
    before_s = time.monotonic()
    call()
    took_s = time.monotonic() - before_s
    assert took_s < PATIENCE_S, f"{what} took {took_s:.1f} s"
