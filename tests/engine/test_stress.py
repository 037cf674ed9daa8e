"""Many tasks at once under tight limits, with crashes in the midst: files are prefixes of what was written."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest
import trio

from cubefs.engine import sealing
from cubefs.errors import PosixError
from cubefs.fs.filesystem import FileSystem
from cubefs.model import MIB, ROOT_INODE
from tests.support.calls import ME, make_file, read_all, truncate
from tests.support.driver import Place
from tests.support.engines import copy_as_killed, findings, noise, running
from tests.support.power import PowerCut

APPENDERS = 5
PIECES = 40


class Acknowledged:
    """What must be found after a crash: the least length of each appended file."""

    def __init__(self) -> None:
        self.lengths: dict[int, int] = {}

    def copy(self) -> dict[int, int]:
        return dict(self.lengths)


async def append(fs: FileSystem, number: int, acknowledged: Acknowledged) -> None:
    """Append pieces of one stream, fsync now and then, rename once."""
    rng = random.Random(number)
    stream = noise(100 + number, 4 * MIB)
    handle, _ = await fs.create(ROOT_INODE, b"append %d" % number, 0o644, os.O_RDWR, ME)
    length = 0
    for piece in range(PIECES):
        size = rng.choice([1, 700, 40_000, 300_000])
        data = stream[length : length + size]
        await fs.write(handle, length, data)
        length += len(data)
        if rng.random() < 0.2:
            await fs.fsync(handle)
            acknowledged.lengths[number] = length
        if piece == PIECES // 2:
            await fs.rename(ROOT_INODE, b"append %d" % number, ROOT_INODE, b"appended %d" % number)
        await trio.lowlevel.checkpoint()
    fs.release(handle)


async def churn(fs: FileSystem, number: int) -> None:
    """Create, overwrite, truncate, replace and unlink files that other tasks do the same to."""
    rng = random.Random(1000 + number)
    for turn in range(25):
        with contextlib.suppress(PosixError):  # another task was faster
            await churn_once(fs, rng, b"temporary %d %d" % (number, turn))
        await trio.sleep(0.002)


async def churn_once(fs: FileSystem, rng: random.Random, temporary: bytes) -> None:
    name = b"churn %d" % rng.randrange(4)
    found = fs.find_child(ROOT_INODE, name)
    if found is None:
        await make_file(fs, name, noise(rng.randrange(5), rng.choice([10, 5000, 400_000])))
    elif rng.random() < 0.3:
        await truncate(fs, found.ino, rng.choice([0, 7, 3000, 500_000]))
    elif rng.random() < 0.5:
        handle = await fs.open(found.ino, os.O_RDWR)
        await fs.write(handle, rng.randrange(100_000), noise(rng.randrange(5), 2000))
        fs.release(handle)
    else:
        await make_file(fs, temporary, noise(rng.randrange(5), 5000))
        await fs.rename(ROOT_INODE, temporary, ROOT_INODE, name)
        if rng.random() < 0.3:
            await fs.unlink(ROOT_INODE, name)


async def take_snapshots(fs: FileSystem) -> None:
    for number in range(4):
        await trio.sleep(0.05)
        await fs.snapshot_create(b"s%d" % number)
        if number >= 2:
            await fs.snapshot_remove(b"s%d" % (number - 2))
        await fs.sync()


@pytest.mark.parametrize("kind", ["killed", "power cut"])
async def test_crashes_in_the_midst(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    power = PowerCut(monkeypatch)
    monkeypatch.setattr(sealing, "STREAM_BYTES", MIB)
    monkeypatch.setattr("cubefs.fs.files.STREAM_BYTES", MIB)
    monkeypatch.setattr(sealing, "BATCH_BYTES", MIB // 2)
    acknowledged = Acknowledged()
    copies: list[tuple[Place, dict[int, int]]] = []
    options = {"commit_interval_s": 0.05, "recovery_point_s": 0.2, "cache_limit_bytes": 12 * MIB}
    async with running(place, dirty_limit_bytes=2 * MIB, **options) as fs:

        async def crash_now_and_then() -> None:
            for number in range(5):
                await trio.sleep(0.07)
                target = tmp_path / f"copy {number}"
                target.mkdir()
                copy = copy_as_killed if kind == "killed" else power.copy
                copies.append((copy(place, target), acknowledged.copy()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_now_and_then)
            nursery.start_soon(take_snapshots, fs)
            for number in range(APPENDERS):
                nursery.start_soon(append, fs, number, acknowledged)
            for number in range(3):
                nursery.start_soon(churn, fs, number)
        for number in range(APPENDERS):
            data = await read_all(fs, fs.lookup(ROOT_INODE, b"appended %d" % number).ino)
            assert data == noise(100 + number, 4 * MIB)[: len(data)]
    assert findings(place) == []
    monkeypatch.undo()
    for copy, lengths in copies:
        async with running(copy) as fs:
            for number in range(APPENDERS):
                names = (b"append %d" % number, b"appended %d" % number)
                found = [attr for name in names if (attr := fs.find_child(ROOT_INODE, name)) is not None]
                assert len(found) <= 1
                data = await read_all(fs, found[0].ino) if found else b""
                assert data == noise(100 + number, 4 * MIB)[: len(data)]
                assert len(data) >= lengths.get(number, 0)
        assert findings(copy) == []
