"""`cubefs limit`: what the user allows is what the store sees, also when it is changed in the middle."""

from __future__ import annotations

import time

import pytest

from tests.faults.scene import LIMIT_S, MIB, Data, Scene, running

UP_BYTES = 4 * MIB
PUTS, INTERVAL_S = 5, 5.0
ARRIVAL_S = 0.5  # so much longer than another a request may be on its way to the proxy, on a busy machine


@pytest.mark.parametrize("driver", ["swift"])
def test_bytes_per_second(scene: Scene) -> None:
    """A rate holds on average; raised in the middle of a transfer, the rest goes faster."""
    machine = scene.mounted("up=1MB/s,recovery_point=1h")
    assert machine.status()["limits"]["up"] == "1 MB/s"
    data = Data(machine.mount_point)
    data.write("slow", size=UP_BYTES)
    before_s = time.monotonic()
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    took_s = time.monotonic() - before_s
    assert took_s > 0.8 * UP_BYTES / 1e6
    puts = scene.log("PUT", "/packs/")
    span_s = max(entry["time"] + entry["seconds"] for entry in puts) - min(entry["time"] for entry in puts)
    assert 0.3e6 < sum(entry["up"] for entry in puts) / span_s < 1.2e6
    shown = machine.cubefs("limit", machine.mount_point, "--up", "100kB/s", "--json").json()
    assert shown["limits"]["up"] == "100 kB/s"
    data.write("slower", size=UP_BYTES)  # would take 40 s
    before_s = time.monotonic()
    with running(lambda: machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)):
        time.sleep(1)
        machine.cubefs("limit", machine.mount_point, "--up", "none")
    assert 1 <= time.monotonic() - before_s < 30
    assert machine.status()["limits"]["up"] == "none"
    scene.judge(machine, data.expected)


@pytest.mark.parametrize("driver", ["s3"])
def test_puts_in_a_time(scene: Scene) -> None:
    """Never more than so many in any interval, whatever there is to do; lifted, those who wait go on."""
    machine = scene.mounted("recovery_point=1h")
    machine.cubefs("limit", machine.mount_point, "--put", f"{PUTS}/{INTERVAL_S:g}s")
    assert machine.status()["limits"]["put"] == "5/5s"
    assert "put 5/5s" in machine.cubefs("status", machine.mount_point).out
    data = Data(machine.mount_point)
    for number in range(4):  # of two puts each
        data.write(f"{number}", size=100_000, small_count=3)
        machine.cubefs("sync", machine.mount_point)
    began_s = sorted(entry["time"] for entry in scene.log("PUT"))
    assert len(began_s) == 8
    for first_s, later_s in zip(began_s, began_s[PUTS:], strict=False):
        assert later_s - first_s > INTERVAL_S - ARRIVAL_S
    assert began_s[PUTS] - began_s[0] < INTERVAL_S + 10
    machine.cubefs("limit", machine.mount_point, "--put", "1/1h")
    data.write("last", size=100_000)
    with running(lambda: machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)) as syncing:
        syncing.join(0.5)
        assert syncing.is_alive()
        machine.cubefs("limit", machine.mount_point, "--none")
    scene.judge(machine, data.expected)
