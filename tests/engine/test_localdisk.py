"""The disk of the cache directory: refusing in time, going on when there is room, and what may be evicted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from cubefs.db.blocks import Blocks
from cubefs.engine import localdisk
from cubefs.engine.localdisk import LocalDisk
from cubefs.errors import LocalDiskFullError
from cubefs.model import MIB, PackState
from tests.support.calls import make_file, read_all, truncate
from tests.support.driver import Place
from tests.support.engines import copy_as_killed, crashing, findings, noise, packs_in, running, wait_until

GIB = 1024 * MIB


class Room:
    """Says how much free space there is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = 100 * GIB
        monkeypatch.setattr(LocalDisk, "free_bytes", lambda disk: self.free_bytes)
        monkeypatch.setattr(localdisk, "_LOOK_S", 0.01)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(monkeypatch)


@pytest.mark.log_warnings
async def test_a_full_disk_refuses_changes_and_recovers(place: Place, room: Room) -> None:
    async with running(place) as fs:
        inode = await make_file(fs, b"f", noise(1, MIB))
        handle = await fs.open(inode, os.O_RDWR)
        room.free_bytes = MIB
        await wait_until(lambda: fs.engine.disk.is_full)
        for attempt in (
            lambda: fs.write(handle, MIB, b"more"),
            lambda: make_file(fs, b"g"),
            lambda: fs.rename(1, b"f", 1, b"g"),
            lambda: fs.setxattr(inode, b"user.x", b"y"),
        ):
            with pytest.raises(LocalDiskFullError) as caught:
                await attempt()
            assert caught.value.errno == errno.ENOSPC
        assert await read_all(fs, inode) == noise(1, MIB)
        await truncate(fs, inode, 5)  # what frees space is allowed
        await fs.unlink(1, b"f")
        room.free_bytes = 100 * GIB
        await fs.write(handle, 0, b"again")
        await make_file(fs, b"g")
        fs.release(handle)
        await fs.commit()
    assert findings(place) == []


@pytest.mark.log_warnings
async def test_a_disk_that_fills_up_under_an_append(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else fills the disk: what was accepted waits for space and is kept, byte for byte."""
    monkeypatch.setattr(localdisk, "_WAIT_S", 0.01)
    monkeypatch.setattr(localdisk, "BALLAST_BYTES", MIB)
    monkeypatch.setattr(localdisk, "_LOOK_S", 0.01)
    real, is_full = os.pwrite, False
    refused = 0

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal refused
        if not is_full:
            return real(descriptor, data, offset)
        refused += 1
        if refused == 1:
            return real(descriptor, bytes(data)[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cubefs.engine.packs.os.pwrite", pwrite)
    async with running(place) as fs:
        await wait_until((place.cache_dir / "ballast").exists)
        inode = await make_file(fs, b"f", noise(1, 3 * MIB))
        is_full = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.commit)
            await wait_until(lambda: refused > 3)
            assert await read_all(fs, inode) == noise(1, 3 * MIB)
            assert fs.engine.gate.failure is None
            is_full = False
        copy = copy_as_killed(place, tmp_path / "copy")
        assert await read_all(fs, inode) == noise(1, 3 * MIB)
    assert findings(place) == []
    async with running(copy) as fs:
        assert await read_all(fs, inode) == noise(1, 3 * MIB)


@pytest.mark.log_warnings
async def test_stopping_while_a_worker_waits_for_space(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with crashing(place) as fs:
        inode = await make_file(fs, b"f", noise(1, MIB))
        with monkeypatch.context() as patch:
            patch.setattr("cubefs.engine.packs.os.pwrite", pwrite)
            with trio.move_on_after(0.1):
                await fs.commit()
            fs.engine.disk.stop()
            await wait_until(lambda: fs.engine.gate.failure is not None)
    async with running(place) as fs:
        assert fs.find_child(1, b"f") is None or fs.getattr(inode).size_bytes in (0, MIB)
    assert findings(place) == []


@pytest.mark.log_warnings
async def test_a_nearly_full_disk_evicts_what_is_stored(place: Place, room: Room) -> None:
    async with running(place) as fs:
        inodes = []
        for number in range(4):
            inodes.append(await make_file(fs, b"f%d" % number, noise(number, 3 * MIB)))
            await fs.sync()
        await fs.commit()
        before = len(list(packs_in(place.cache_dir / "packs")))
        room.free_bytes = 60 * MIB
        await wait_until(lambda: len(list(packs_in(place.cache_dir / "packs"))) < before)
        room.free_bytes = 100 * GIB
        for number, inode in enumerate(inodes):
            assert await read_all(fs, inode) == noise(number, 3 * MIB)


# -- the order of eviction ----------


async def test_the_least_recently_used_goes_first(place: Place) -> None:
    async with running(place) as fs:
        inodes = []
        for number in range(4):
            inodes.append(await make_file(fs, b"f%d" % number, noise(number, MIB)))
            await fs.sync()
        await fs.commit()
        local = fs.engine.local
        order = [pack.salt for pack in Blocks(fs.engine.database).local_packs()]
        assert await read_all(fs, inodes[0]) == noise(0, MIB)
        await local.evict(target_bytes=local.total_bytes - 1)
        assert local.has(order[0])
        assert not local.has(order[1])
        await fs.commit()
    async with running(place) as fs:  # and the order survives
        assert [pack.salt for pack in Blocks(fs.engine.database).local_packs()][-1] == order[0]


async def test_a_pack_stays_until_a_commit_says_that_it_is_stored(place: Place, tmp_path: Path) -> None:
    """Otherwise a crash would leave a pack that looks as if it had been lost before it was stored."""
    async with running(place) as fs:
        inode = await make_file(fs, b"f", noise(1, MIB))
        await fs.commit()
        async with fs.engine.sealer.pack_lock:
            await fs.engine.sealer.close_pack()
        await fs.engine.committer.commit()  # no cut: nothing is shipped, which would commit again
        await wait_until(lambda: not fs.engine.uploader.unstored)
        (salt,) = [pack.salt for pack in fs.engine.blocks.local_packs()]
        assert fs.engine.local.is_stored(salt)
        assert await fs.engine.local.evict(target_bytes=0) == 0
        copy = copy_as_killed(place, tmp_path / "copy")
        await fs.commit()
        assert await fs.engine.local.evict(target_bytes=0) > 0
        later = copy_as_killed(place, tmp_path / "later")
        assert await read_all(fs, inode) == noise(1, MIB)
    for place_then in (copy, later):
        async with running(place_then) as fs:
            assert await read_all(fs, inode) == noise(1, MIB)
            assert fs.engine.database.execute("SELECT count(*) FROM block WHERE damaged").get == 0
        assert findings(place_then) == []


async def test_the_bytes_are_counted(place: Place) -> None:
    async with running(place) as fs:
        local = fs.engine.local
        assert (local.total_bytes, local.dirty_bytes) == (0, 0)
        await make_file(fs, b"f", noise(1, MIB))
        await fs.commit()
        assert local.dirty_bytes == local.total_bytes > 0
        await fs.sync()
        assert local.dirty_bytes == 0
        on_disk = sum(path.stat().st_size for path in packs_in(place.cache_dir / "packs"))
        assert local.total_bytes == on_disk
        for salt in list(fs.engine.local.files.salts()):
            local.add(salt, PackState.STORED, 5)
            assert local.total_bytes == 5
            local.remove(salt)
            local.remove(salt)
        assert (local.total_bytes, local.dirty_bytes) == (0, 0)
