"""How many requests a mount makes: none while nothing changes, and few to begin and to end."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs, urlsplit

from cubefs.engine.metalog import FETCH_AHEAD
from tests.faults.scene import Data, Scene

IDLE_S = 3.0  # some commit intervals and recovery points

Kinds = Mapping[str, int]

# What both drivers ask, and what Swift asks besides: a token for the command and one for the daemon; a listing
# once more behind its last name; for a conditional put, whose object it is.
BEGIN: Kinds = {"GET cubefs": 1, "LIST keys": 1, "GET keys": 2, "PUT cubefs": 1, "LIST meta": 1}
BEGIN_SWIFT: Kinds = {"GET token": 2, "LIST keys": 1}
FROM_NOTHING: Kinds = {"LIST base": 1, "HEAD base": 1, "GET base": 2}
FROM_NOTHING_SWIFT: Kinds = {"LIST base": 1}
FROM_CACHE: Kinds = {"GET meta": 1}
SYNC: Kinds = {"PUT packs": 1, "GET packs": 1, "PUT meta": 1, "GET meta": 1}
SYNC_SWIFT: Kinds = {"HEAD meta": 1}
SYNC_AGAIN: Kinds = {"GET meta": 1}  # before another log object is put, the last one is looked at


def of(scene: Scene, both: Sequence[Kinds], swift: Sequence[Kinds] = ()) -> Counter[str]:
    """Add up what a driver asks."""
    parts = [*both, *(swift if scene.driver == "swift" else ())]
    return sum(map(Counter, parts), Counter())


def kinds(scene: Scene) -> Counter[str]:
    """Count the requests of this file system by method and what they are about."""
    counts: Counter[str] = Counter()
    for entry in scene.proxy.log():
        parts = urlsplit(entry["target"])
        if parts.path == "/auth/v1.0":
            counts["GET token"] += 1
            continue
        prefix = parse_qs(parts.query).get("prefix")
        method, path = ("LIST", prefix[0]) if prefix else (entry["method"], parts.path.partition("/faults/")[2])
        assert path.startswith(f"{scene.prefix}/")
        missing = " 404" if entry["status"] == 404 else ""
        counts[f"{method} {path.split('/')[1]}{missing}"] += 1
    return counts


def counted(scene: Scene) -> Counter[str]:
    """Count the requests since the last time."""
    scene.proxy.settled_stats()
    counts = kinds(scene)
    scene.proxy.reset()
    return counts


def without_guesses(counts: Counter[str]) -> Counter[str]:
    """Leave out those for log objects that might come: up to FETCH_AHEAD, depending on the threads."""
    assert 1 <= counts.pop("GET meta 404") <= FETCH_AHEAD
    return counts


def test_requests(scene: Scene) -> None:
    """Of a mount from nothing, of a sync, of doing nothing, of an end, and of a mount from the cache."""
    machine = scene.machine()
    scene.proxy.reset()
    machine.mount("-o", "recovery_point=1s,commit_interval=1s")
    expected = of(scene, [BEGIN, FROM_NOTHING], [BEGIN_SWIFT, FROM_NOTHING_SWIFT])
    assert without_guesses(counted(scene)) == expected
    data = Data(machine.mount_point)
    for also in ({}, SYNC_AGAIN):
        data.write(f"small, {len(data.expected)}", size=0, small_count=1)
        machine.cubefs("sync", machine.mount_point)
        assert counted(scene) == of(scene, [SYNC, also], [SYNC_SWIFT])
    look_around_without_a_request(scene, data)
    machine.umount()
    assert counted(scene) == {}
    machine.mount()
    assert without_guesses(counted(scene)) == of(scene, [BEGIN, FROM_CACHE], [BEGIN_SWIFT])
    scene.judge(machine, data.expected)


def look_around_without_a_request(scene: Scene, data: Data) -> None:
    """Use a mount that has stored everything, and a read-only one that has read everything."""
    reader = scene.machine("reader")
    roots = (data.root, reader.mount("-o", "ro"))
    for name, content in data.expected.items():
        assert (reader.mount_point / name).read_bytes() == content
    counted(scene)
    end_s = time.monotonic() + IDLE_S
    while time.monotonic() < end_s:
        for root in roots:
            assert len([path.stat() for path in root.rglob("*")]) > len(data.expected)
            os.statvfs(root)
            (root / next(iter(data.expected))).read_bytes()
        time.sleep(0.2)
    reader.umount()
    assert counted(scene) == {}
