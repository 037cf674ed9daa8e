"""Stores that acknowledge what they do not keep, or show it late: found by looking, put right, and counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.scene import MIB, Data, Scene, state, traffic

LATE_S = 2.0
PATIENCE_S = 60.0  # before it puts again what is missing, it looks for 20 s


def test_puts_that_are_acknowledged_and_dropped(new_scene: Callable[..., Scene]) -> None:
    """A pack that is read back, one that is only asked for, and a log object: all at once, for each takes 20 s."""
    packs, heads, logs = new_scene("s3"), new_scene("swift"), new_scene("swift")
    machines = [packs.mounted(), heads.mounted("verify=head"), logs.mounted()]
    written = [Data(machine.mount_point) for machine in machines]
    for scene, path in ((packs, "packs"), (heads, "packs"), (logs, "meta")):
        scene.proxy.rule("lose_put", path=f"{scene.prefix}/{path}/", first=1)
    for data in written:
        data.write("first", size=4 * MIB)
    syncing = [machine.start("cubefs", "sync", machine.mount_point) for machine in machines]
    assert [child.wait(PATIENCE_S) for child in syncing] == [0, 0, 0]
    assert [rule["hits"] for rule in packs.proxy.rules()] == [1, 1, 1]
    for machine, how in zip(machines, ("full", "head", "full"), strict=True):
        counters = traffic(machine)
        assert counters["verify_put_again_count"] >= 1
        assert counters["verify_late_count"] >= 1
        assert counters[f"verified_{how}_count"] >= 1
        assert "put again" in machine.cubefs("status", machine.mount_point).out
    for scene, machine, data in zip((packs, heads, logs), machines, written, strict=True):
        scene.judge(machine, data.expected)


@pytest.mark.parametrize("driver", ["swift"])
def test_what_is_put_is_seen_late(scene: Scene) -> None:
    """404 for seconds after each PUT, of packs and of the log: waited for, put once only."""
    machine = scene.mounted()
    data = Data(machine.mount_point)
    scene.proxy.rule("hide_new", seconds=LATE_S)
    data.write("late", size=2 * MIB)
    machine.cubefs("sync", machine.mount_point)
    counters, fields = traffic(machine), state(machine)
    assert len(scene.log("PUT")) == fields["uploaded_packs"] + 1  # and one log object
    assert counters["verify_late_count"] == counters["verified_full_count"] == len(scene.log("PUT"))
    assert "verify_put_again_count" not in counters
    assert fields["store_error"] is None
    scene.judge(machine, data.expected)
