"""One byte of a body is flipped on its way: what is wrong is sent again, and nobody reports damage."""

from __future__ import annotations

from tests.faults.scene import MIB, Data, Scene, assert_calm, assert_same_data

OBJECTS = r"^[^?]*/(packs|meta|base|keys|cubefs)(/|$)"  # not the listings, which have no checksum


def test_damage_on_the_way(scene: Scene) -> None:
    """To the store and back from it, while everything is written; none of it gets into the store.

    Then on the way to a mount from nothing, to a restore, and to fsck: of every second answer.
    """
    machine = scene.mounted()
    data = Data(machine.mount_point)
    for method, direction in (("PUT", "request"), ("GET", "response")):
        for path in ("/packs/", "/meta/"):
            scene.proxy.rule("corrupt", direction=direction, at="random", methods=method, path=path, first=2)
    for number in range(2):
        data.write(f"{number}", size=3 * MIB)
        machine.cubefs("sync", machine.mount_point)
    assert [rule["hits"] for rule in scene.proxy.rules()] == [2] * 4
    assert_calm(machine)
    scene.proxy.clear()
    scene.proxy.rule("corrupt", at="random", methods="GET", path=OBJECTS, every=2)
    second = scene.machine("second")
    second.mount()
    assert_same_data(second.mount_point, data.expected)
    assert_calm(second)
    result = second.run("cubefs.fsck", scene.url, "--data")
    assert result.code == 0, result.out + result.err
    assert "clean" in result.out
    assert scene.proxy.rules()[0]["hits"] >= 8
    scene.audit(machine)
