"""A store that asks to be left alone for long, or says nothing: whoever waits for it is told so, soon."""

from __future__ import annotations

import os
import select
from typing import Any

import pytest

from tests.faults.scene import Data, Scene

SOON_S = 15.0


@pytest.mark.parametrize("driver", ["s3"])
@pytest.mark.parametrize("fault", [{"action": "error", "status": 503, "retry_after": 60}], ids=["retry-after"])
def test_sync_says_soon_why_it_waits(scene: Scene, fault: dict[str, Any]) -> None:
    machine = scene.mounted()
    data = Data(machine.mount_point)
    scene.proxy.rule(**fault, methods="PUT")
    data.write("waits", size=100_000)
    syncing = machine.start("cubefs", "sync", machine.mount_point)
    assert syncing.stderr is not None
    assert select.select([syncing.stderr], [], [], SOON_S)[0], "nothing is said"
    line = os.read(syncing.stderr.fileno(), 4096).decode()
    assert line.startswith("cubefs: the store fails, trying again until it works")
