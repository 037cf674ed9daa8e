"""Connections end in the middle of a body, or before an answer: everything arrives, nobody is taken for another."""

from __future__ import annotations

from typing import Any

from tests.faults.scene import MIB, Data, Scene, assert_calm, state, traffic

PACK, LOG = "/packs/", "/meta/"
HOWS = ("rst", "fin")


def strike(scene: Scene, data: Data, name: str, *rules: dict[str, Any]) -> None:
    """Write something under faults, each of which strikes once, and wait until it is stored."""
    for rule in rules:
        scene.proxy.rule(**rule, first=1)
    machine = scene.machine()
    data.write(name, size=2 * MIB, small_count=5)
    machine.cubefs("sync", machine.mount_point)
    made = scene.proxy.rules()
    assert [rule["hits"] for rule in made] == [1] * len(rules)
    for rule in made:
        scene.proxy.remove(rule["id"])


def test_cuts(scene: Scene) -> None:
    """In the middle of uploads and of what is read back, and before answers; then of all that a new machine reads.

    Where the store has done its work and nobody hears of it, above all the log must not look like another's.
    """
    machine = scene.mounted()
    data = Data(machine.mount_point)
    up = [{"action": "cut_request", "how": how, "at": 0.5, "methods": "PUT"} for how in HOWS]
    down = [{"action": "cut_response", "how": how, "at": 0.5, "methods": "GET"} for how in HOWS]
    strike(scene, data, "up", *({**rule, "path": path} for rule in up for path in (PACK, LOG)))
    strike(scene, data, "down", *({**rule, "path": path} for rule in down for path in (PACK, LOG)))
    lost = [{"action": "cut_response", "how": how, "at": "start"} for how in HOWS]
    strike(
        scene, data, "lost", *({**rule, "methods": "PUT", "path": path} for rule in lost for path in (PACK, LOG))
    )
    strike(scene, data, "looks", *({**rule, "methods": ["GET", "HEAD"], "path": LOG} for rule in lost))
    errors = [{"action": "error", "status": status, "forward": True} for status in (500, 503)]
    strike(scene, data, "errors", *({**rule, "methods": "PUT", "path": LOG} for rule in errors))
    assert [entry["status"] for entry in scene.log("PUT", LOG)].count(412) >= 2
    assert state(machine)["log_seq"] == 5
    assert traffic(machine)["unavailable_count"] >= 14
    assert_calm(machine)
    scene.proxy.rule("cut_response", at="random", methods="GET", every=3)
    scene.compare(data.expected, direct=False)
    assert scene.proxy.rules()[0]["hits"] >= 5
    scene.audit(machine)
