"""Stores that acknowledge what they do not keep, or show it late: found by looking, put right, and counted."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.scene import MIB, Data, Scene, state, traffic

LATE_S = 2.0
PATIENCE_S = 90.0  # what is missing is looked for during 20 s before it is put again


def test_puts_that_are_dropped_or_seen_late(new_scene: Callable[..., Scene]) -> None:
    """A pack that is read back is lost, one that is only asked for, a log object; and a store shows all late.

    Four file systems at once, because looking for what is missing takes long.
    """
    packs, heads, logs, late = (new_scene(driver) for driver in ("s3", "swift", "swift", "s3"))
    scenes = (packs, heads, logs, late)
    machines = [scene.mounted(*(["verify=head"] if scene is heads else [])) for scene in scenes]
    written = [Data(machine.mount_point) for machine in machines]
    for scene, path in ((packs, "packs"), (heads, "packs"), (logs, "meta")):
        scene.proxy.rule("lose_put", path=f"{scene.prefix}/{path}/", first=1)
    late.proxy.rule("hide_new", path=f"{late.prefix}/", seconds=LATE_S)
    for data in written:
        data.write("first", size=2 * MIB)
    syncing = [machine.start("cubefs", "sync", machine.mount_point) for machine in machines]
    assert [child.wait(PATIENCE_S) for child in syncing] == [0] * len(scenes)
    assert [rule["hits"] for rule in packs.proxy.rules()[:3]] == [1, 1, 1]
    for machine, how in zip(machines[:3], ("full", "head", "full"), strict=True):
        counters = traffic(machine)
        assert counters["verify_put_again_count"] == 1
        assert counters["verify_late_count"] >= 1
        assert counters[f"verified_{how}_count"] >= 1
        assert "1 put again" in machine.cubefs("status", machine.mount_point).out
    counters = traffic(machines[3])  # packs and a log object: waited for, and put once only
    assert counters["verify_late_count"] == counters["verified_full_count"] == len(late.log("PUT")) >= 2
    assert "verify_put_again_count" not in counters
    for scene, machine, data in zip(scenes, machines, written, strict=True):
        assert state(machine)["store_error"] is None
        scene.judge(machine, data.expected)
