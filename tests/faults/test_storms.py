"""The store answers 503, 500 and 429, some of the time and all of the time: nothing fails, everything arrives."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.scene import LIMIT_S, MIB, Data, Entry, Scene, assert_calm, running, state, traffic
from tests.support.mounting import wait_until

STORM_S = 1.5
RETRY_AFTER_S = 2
UNDER_WAY_S = 0.5  # what comes so soon after an answer may have been sent before that had arrived
COUNTERS = {500: "unavailable_count", 503: "busy_count", 429: "busy_count"}


@pytest.mark.parametrize(("driver", "status", "storm_status"), [("s3", 503, 500), ("swift", 429, 503)])
def test_storms(scene: Scene, status: int, storm_status: int) -> None:
    """After a polite refusal: errors for all requests for some seconds, then for a third of them."""
    machine = scene.mounted()
    data = Data(machine.mount_point)
    polite: dict[str, Any] = {"action": "error", "status": status, "retry_after": RETRY_AFTER_S, "first": 1}
    scene.proxy.rule(**polite, methods="PUT")
    store_under_storm(scene, data, "polite", status=status)
    assert_left_alone(scene.log("PUT"))
    storm = scene.proxy.rule("error", status=storm_status)
    store_under_storm(scene, data, "storm", status=storm_status, storm=storm)
    for each in COUNTERS:
        scene.proxy.rule("error", status=each, fraction=0.12)
    data.write("shower")
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)
    assert state(machine)["store_error"] is None
    assert_calm(machine)
    scene.proxy.clear()
    scene.proxy.rule(**polite, methods="GET", path="/packs/")
    scene.compare(data.expected, direct=False)
    assert_left_alone(scene.log("GET", "/packs/"))
    scene.audit(machine)


def store_under_storm(scene: Scene, data: Data, name: str, *, status: int, storm: int | None = None) -> None:
    """Store something, and something else while the store refuses; the rule `storm` is removed after a while."""
    machine = scene.machine()
    counter = COUNTERS[status]
    before = traffic(machine).get(counter, 0)
    data.write(name, size=MIB)
    with running(lambda: machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)):
        wait_until(lambda: traffic(machine).get(counter, 0) > before)
        data.write(f"{name}, more", size=MIB)
        if storm is not None:
            time.sleep(STORM_S)
            scene.proxy.remove(storm)
    machine.cubefs("sync", machine.mount_point, timeout_s=LIMIT_S)


def assert_left_alone(log: list[Entry]) -> None:
    """Fail unless the request that was refused was followed by nothing for as long as the answer asked for."""
    refused = next(entry for entry in log if entry["fault"] == "error")
    answered_s = refused["time"] + refused["seconds"]
    later_s = [entry["time"] - answered_s for entry in log if entry["time"] > answered_s + UNDER_WAY_S]
    assert later_s, "the request was not repeated"
    assert min(later_s) >= RETRY_AFTER_S
