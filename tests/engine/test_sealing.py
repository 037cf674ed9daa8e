"""Sealing: deduplication, chunk boundaries, and what a truncate, an unlink or damage does to data being sealed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio

from cubefs.engine import sealing
from cubefs.engine.packs import Appended, PackWriter, Unit
from cubefs.format.pack import PackedFrame
from cubefs.fs.filesystem import FileSystem
from cubefs.model import MIB, ROOT_INODE, Chunking
from tests.support.calls import ME, make_file, read_all, truncate, write_all
from tests.support.database import extents_of, rows
from tests.support.driver import Place, make_place
from tests.support.engines import copy_as_killed, findings, noise, running, wait_until


class Slow:
    """Holds the workers that compress until told to go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self._real = sealing.pack_frame

    def __call__(self, plain: bytes | memoryview) -> PackedFrame:
        self.entered.set()
        assert self.release.wait(10)
        return self._real(plain)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow()
    monkeypatch.setattr(sealing, "pack_frame", slow)
    yield slow
    slow.release.set()


async def while_sealing(fs: FileSystem, slow: Slow, meanwhile: Callable[[], object], *, wait: bool = True) -> None:
    """Start a commit of everything and do something while its data is being compressed."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fs.commit)
        await wait_until(slow.entered.is_set)
        outcome = meanwhile()
        if hasattr(outcome, "__await__"):
            await outcome
        slow.release.set()


# -- deduplication ----------


async def test_equal_data_in_one_batch_is_stored_once(place: Place) -> None:
    data = noise(1, 200_000)
    async with running(place) as fs:
        for number in range(20):
            await make_file(fs, b"f%d" % number, data)
        await fs.commit()
    assert rows(place, "SELECT count(*), sum(refs) FROM block") == [(1, 20)]
    assert rows(place, "SELECT sum(plain_bytes) FROM frame") == [(200_000,)]
    assert findings(place) == []


async def test_equal_data_in_concurrent_jobs_is_stored_once(place: Place, slow: Slow) -> None:
    """The second job waits for the block that the first is about to place."""
    data = noise(1, 900_000)
    async with running(place) as fs:
        first = await make_file(fs, b"first", data)
        sealer = fs.engine.sealer
        sealer.request_urgent(fs.engine.files.dirty())
        await wait_until(slow.entered.is_set)
        second = await make_file(fs, b"second", noise(2, 1000) + data[1000:])
        third = await make_file(fs, b"third", data)
        sealer.request_urgent(fs.engine.files.dirty())
        await trio.sleep(0.05)
        slow.release.set()
        await fs.commit()
        for inode, expected in ((first, data), (second, noise(2, 1000) + data[1000:]), (third, data)):
            assert await read_all(fs, inode) == expected
    hashes = rows(place, "SELECT count(*), count(DISTINCT hash) FROM block")
    assert hashes[0][0] == hashes[0][1]
    assert rows(place, "SELECT refs FROM block b JOIN extent e ON e.block = b.id GROUP BY b.id HAVING refs > 1")
    assert findings(place) == []


async def test_a_block_found_damaged_while_it_is_referred_to(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader finds the damage between the sealer's look-up and its extent: the data is at hand, so store it."""
    data = noise(1, 500_000)
    async with running(place) as fs:
        await make_file(fs, b"old", data)
        await fs.commit()
        token = trio.lowlevel.current_trio_token()
        real = PackWriter.append

        def mark_all() -> None:
            with fs.engine.database.operation():
                for (block,) in fs.engine.database.execute("SELECT id FROM block").fetchall():
                    fs.engine.blocks.mark_damaged(block)

        def append(self: PackWriter, units: Sequence[Unit]) -> list[Appended]:
            monkeypatch.setattr(PackWriter, "append", real)
            trio.from_thread.run_sync(mark_all, trio_token=token)
            return real(self, units)

        monkeypatch.setattr(PackWriter, "append", append)
        await make_file(fs, b"unrelated", noise(3, 10_000))
        inode = await make_file(fs, b"new", data)
        await fs.commit()
        assert await read_all(fs, inode) == data
    assert rows(place, "SELECT count(*) FROM block WHERE damaged = 1") == [(0,)]
    assert findings(place) == []


# -- chunk boundaries ----------


@pytest.mark.parametrize("piece_bytes", [MIB, 100_000])
async def test_a_stream_is_cut_alike_however_fast_it_comes(place: Place, piece_bytes: int) -> None:
    data = noise(1, 24 * MIB)
    async with running(place) as fs:
        at_once = await make_file(fs, b"at once", data)
        inode = await make_file(fs, b"slowly")
        handle = await fs.open(inode, os.O_RDWR)
        state = fs.engine.files.find(inode)
        assert state is not None
        for start in range(0, len(data), piece_bytes):
            await fs.write(handle, start, data[start : start + piece_bytes])
            if state.dirty.bytes_held >= sealing.STREAM_BYTES:
                await wait_until(lambda: not state.sealing and state.dirty.bytes_held < sealing.STREAM_BYTES)
        assert state.applied_count >= 1
        fs.release(handle)
        await fs.commit()
        assert await read_all(fs, inode) == data
    assert extents_of(place, at_once) == extents_of(place, inode)
    assert findings(place) == []


async def test_a_stream_that_is_overwritten_while_it_is_cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(noise(1, 18 * MIB))
    entered, release = threading.Event(), threading.Event()
    real = sealing.Sealer._cut_stream

    def cut(self: sealing.Sealer, start: int, parts: list[bytes | memoryview]) -> object:
        entered.set()
        release.wait(10)
        return real(self, start, parts)

    monkeypatch.setattr(sealing.Sealer, "_cut_stream", cut)
    async with running(place) as fs:
        inode = await make_file(fs, b"f")
        handle = await fs.open(inode, os.O_RDWR)
        await write_all(fs, handle, bytes(data))
        await wait_until(entered.is_set)
        await fs.write(handle, 5, b"overwritten")
        data[5:16] = b"overwritten"
        release.set()
        await fs.fsync(handle)
        assert await read_all(fs, inode) == data
        fs.release(handle)
    assert findings(place) == []


async def test_a_stream_that_is_fsynced_while_it_is_cut(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync covers the tail too, which the job in progress had meant to leave for later."""
    data = noise(1, 17 * MIB)
    entered, release = threading.Event(), threading.Event()
    real = sealing.Sealer._cut_stream

    def cut(self: sealing.Sealer, start: int, parts: list[bytes | memoryview]) -> object:
        entered.set()
        release.wait(10)
        return real(self, start, parts)

    monkeypatch.setattr(sealing.Sealer, "_cut_stream", cut)
    monkeypatch.setattr(sealing, "_JOBS", 1)  # nobody else may take the file meanwhile
    async with running(place) as fs:
        inode = await make_file(fs, b"f")
        handle = await fs.open(inode, os.O_RDWR)
        await write_all(fs, handle, data)
        await wait_until(entered.is_set)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.fsync, handle)
            await trio.sleep(0.02)
            release.set()
        copy = copy_as_killed(place, tmp_path / "copy")
        fs.release(handle)
    async with running(copy) as fs:
        assert await read_all(fs, inode) == data


# -- what overtakes a seal ----------


@pytest.mark.parametrize("size", [0, 1, 100_000, 299_999, 300_000, 400_000])
async def test_truncating_what_is_being_sealed(place: Place, slow: Slow, size: int) -> None:
    data = noise(1, 300_000)
    expected = data[:size] + bytes(max(0, size - len(data)))
    async with running(place) as fs:
        inode = await make_file(fs, b"f", data)

        async def meanwhile() -> None:
            await truncate(fs, inode, size)
            assert await read_all(fs, inode) == expected

        await while_sealing(fs, slow, meanwhile)
        assert await read_all(fs, inode) == expected
        await fs.commit()
        assert fs.getattr(inode).size_bytes == size
        assert fs.getattr(inode).allocated_bytes == min(size, len(data))
    async with running(place) as fs:
        assert await read_all(fs, inode) == expected
    assert findings(place) == []


async def test_truncating_down_and_up_and_writing_while_it_is_being_sealed(place: Place, slow: Slow) -> None:
    data = noise(1, 300_000)
    expected = data[:100] + bytes(900) + b"tail"
    async with running(place) as fs:
        inode = await make_file(fs, b"f", data)
        handle = await fs.open(inode, os.O_RDWR)

        async def meanwhile() -> None:
            await truncate(fs, inode, 200_000)
            await truncate(fs, inode, 100)
            await truncate(fs, inode, 1000)
            await fs.write(handle, 1000, b"tail")
            assert await read_all(fs, inode) == expected

        await while_sealing(fs, slow, meanwhile)
        fs.release(handle)
        await fs.commit()
        assert await read_all(fs, inode) == expected
    async with running(place) as fs:
        assert await read_all(fs, inode) == expected
    assert findings(place) == []


async def test_emptying_a_file_with_stored_data_while_new_data_is_being_sealed(place: Place, slow: Slow) -> None:
    async with running(place) as fs:
        slow.release.set()
        inode = await make_file(fs, b"f", noise(1, 300_000))
        await fs.commit()
        slow.release.clear()
        slow.entered.clear()
        handle = await fs.open(inode, os.O_RDWR)
        await fs.write(handle, 100_000, noise(2, 300_000))

        async def meanwhile() -> None:
            await truncate(fs, inode, 0)
            await fs.write(handle, 3, b"x")

        await while_sealing(fs, slow, meanwhile)
        fs.release(handle)
        await fs.commit()
        await fs.engine.housekeeper.wait_idle()
        assert await read_all(fs, inode) == b"\0\0\0x"
        assert fs.getattr(inode).allocated_bytes == 1
    assert rows(place, "SELECT count(*) FROM extent") == [(1,)]
    assert findings(place) == []


@pytest.mark.parametrize("is_open", [False, True])
async def test_unlinking_what_is_being_sealed(place: Place, slow: Slow, is_open: bool) -> None:
    data = noise(1, 300_000)
    async with running(place) as fs:
        inode = await make_file(fs, b"f", data)
        handle = await fs.open(inode, os.O_RDWR) if is_open else 0
        await while_sealing(fs, slow, lambda: fs.unlink(1, b"f"))
        if is_open:
            assert bytes(await fs.read(handle, 0, len(data))) == data
            await fs.commit()
            assert bytes(await fs.read(handle, 0, len(data))) == data
            fs.release(handle)
        await fs.commit()
        await fs.engine.housekeeper.wait_idle()
        assert fs.engine.files.limit.used_bytes == 0
    assert rows(place, "SELECT count(*) FROM inode WHERE id >= 16") == [(0,)]
    assert rows(place, "SELECT (SELECT count(*) FROM extent) + (SELECT count(*) FROM orphan)") == [(0,)]
    assert rows(place, "SELECT sum(refs) FROM block") in ([(0,)], [(None,)])
    assert findings(place) == []


async def test_replacing_by_rename_what_is_being_sealed(place: Place, slow: Slow) -> None:
    async with running(place) as fs:
        old = await make_file(fs, b"old", noise(1, 300_000))
        await make_file(fs, b"target", noise(2, 300_000))
        await while_sealing(fs, slow, lambda: fs.rename(1, b"old", 1, b"target"))
        await fs.commit()
        assert fs.lookup(1, b"target").ino == old
        assert await read_all(fs, old) == noise(1, 300_000)
    assert findings(place) == []


async def test_times_come_from_the_write(place: Place, slow: Slow) -> None:
    async with running(place) as fs:
        inode = await make_file(fs, b"f", noise(1, 1000))
        written_ns = fs.getattr(inode).mtime_ns
        await while_sealing(fs, slow, lambda: None)
        await fs.commit()
        assert fs.getattr(inode).mtime_ns == written_ns
        row = fs.engine.tree.find_attr(inode)
        assert row is not None
        assert row.mtime_ns == written_ns


# -- random writers ----------


async def test_a_random_writer_is_applied_whole(place: Place, tmp_path: Path, slow: Slow) -> None:
    """At any moment a crash finds all of a generation of scattered writes, or none of it."""
    base, stamp = noise(1, MIB), b"STAMP"
    async with running(place) as fs:
        slow.release.set()
        inode = await make_file(fs, b"f", base)
        await fs.commit()
        slow.release.clear()
        slow.entered.clear()
        handle = await fs.open(inode, os.O_RDWR)
        offsets = range(0, MIB, 40_000)
        for offset in offsets:
            await fs.write(handle, offset, stamp)
        copies = []

        async def meanwhile() -> None:
            other = await make_file(fs, b"other")
            del other
            copies.append(copy_as_killed(place, tmp_path / "during"))

        await while_sealing(fs, slow, meanwhile)
        copies.append(copy_as_killed(place, tmp_path / "after"))
        fs.release(handle)
    seen = []
    for copy in copies:
        async with running(copy) as fs:
            data = await read_all(fs, inode)
            seen.append({data[offset : offset + 5] == stamp for offset in offsets})
            assert len(data) == MIB
    assert seen == [{False}, {True}]


async def test_reads_see_every_generation_at_once(place: Place, slow: Slow) -> None:
    """Stored, being sealed and unsealed data lie over each other in the order of writing."""
    async with running(place) as fs:
        slow.release.set()
        expected = bytearray(noise(1, 300_000))
        inode = await make_file(fs, b"f", bytes(expected))
        await fs.commit()
        slow.release.clear()
        slow.entered.clear()
        handle = await fs.open(inode, os.O_RDWR)

        async def write(offset: int, data: bytes) -> None:
            await fs.write(handle, offset, data)
            expected[offset : offset + len(data)] = data
            assert await read_all(fs, inode) == expected

        await write(1000, b"a" * 5000)
        await write(200_000, b"b" * 5000)

        async def meanwhile() -> None:
            await write(2000, b"c" * 1000)
            await write(299_990, b"d" * 20)
            assert bytes(await fs.read(handle, 1990, 1020)) == expected[1990:3010]

        await while_sealing(fs, slow, meanwhile)
        assert await read_all(fs, inode) == expected
        fs.release(handle)
        await fs.commit()
        assert await read_all(fs, inode) == expected
    assert findings(place) == []


@pytest.mark.parametrize("chunking", list(Chunking))
async def test_a_slowly_growing_file_becomes_the_blocks_of_a_fast_one(tmp_path: Path, chunking: Chunking) -> None:
    """Commits between its writes seal its end early; what is appended is cut together with that end."""
    data = noise(5, 20 * MIB)
    place = make_place(tmp_path, chunking=chunking)
    async with running(place) as fs:
        boundaries = []
        for name, step in ((b"fast", 20 * MIB), (b"slow", 1_300_000), (b"slower", 700_000)):
            handle, attr = await fs.create(ROOT_INODE, name, 0o644, os.O_RDWR, ME)
            for start in range(0, len(data), step):
                await fs.write(handle, start, data[start : start + step])
                await fs.commit()
            fs.release(handle)
            await fs.commit()
            assert await read_all(fs, attr.ino) == data
            pieces = fs.engine.extents.pieces(fs.getattr(attr.ino).body, start=0, stop=len(data))
            boundaries.append([(piece.file_offset, piece.length, piece.block) for piece in pieces])
        assert boundaries[1] == boundaries[0]
        assert boundaries[2] == boundaries[0]
    assert findings(place) == []


async def test_small_synced_appends_are_not_sealed_over_and_over(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    async with running(place) as fs:
        handle, attr = await fs.create(ROOT_INODE, b"log", 0o644, os.O_RDWR, ME)
        data = noise(6, 600_000)
        for start in range(0, len(data), 3000):
            await fs.write(handle, start, data[start : start + 3000])
            await fs.fsync(handle)
        fs.release(handle)
        assert await read_all(fs, attr.ino) == data
        await fs.sync()
        assert fs.engine.blocks.stored_bytes() < 6 * len(data)


async def test_what_changed_since_is_not_taken_from_the_kept_end(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    async with running(place) as fs:
        handle, attr = await fs.create(ROOT_INODE, b"file", 0o644, os.O_RDWR, ME)
        expected = bytearray(noise(7, 500_000))
        await fs.write(handle, 0, bytes(expected))
        await fs.commit()
        await fs.write(handle, 400_000, b"changed")  # inside the block that was kept
        expected[400_000:400_007] = b"changed"
        await fs.commit()
        await fs.write(handle, 500_000, noise(8, 300_000))
        expected += noise(8, 300_000)
        await fs.commit()
        assert await read_all(fs, attr.ino) == bytes(expected)
        await truncate(fs, attr.ino, 600_000)
        del expected[600_000:]
        await fs.write(handle, 600_000, noise(9, 400_000))
        expected += noise(9, 400_000)
        await fs.commit()
        assert await read_all(fs, attr.ino) == bytes(expected)
        fs.release(handle)
    assert findings(place) == []
