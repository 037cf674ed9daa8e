"""Dirty memory is bounded: writers wait instead."""

from __future__ import annotations

import os

import trio
import trio.lowlevel

from cubefs.fs.filesystem import FileSystem, FsOptions
from cubefs.model import MIB, ROOT_INODE
from tests.support.calls import ME, read_all, write_all
from tests.support.content import content
from tests.support.driver import Place, audit_findings, opened

NOISE = 3
LIMIT_BYTES = 2 * MIB
WRITERS = 4
NEVER_S = 100_000.0  # waiting for the next commit by time would hang, and so be seen


async def write_file(fs: FileSystem, number: int, inodes: dict[int, int]) -> None:
    """Write 5 MiB of a content of its own."""
    handle, attr = await fs.create(ROOT_INODE, b"file %d" % number, 0o100644, os.O_RDWR, ME)
    await write_all(fs, handle, content(NOISE, 5 * MIB, start=number * 100_000))
    fs.release(handle)
    inodes[number] = attr.ino


async def test_writers_wait_for_the_sealer(place: Place) -> None:
    options = FsOptions(dirty_limit_bytes=LIMIT_BYTES, commit_interval_s=NEVER_S)
    highest = 0
    inodes: dict[int, int] = {}
    async with opened(place, options) as fs:

        async def watch() -> None:
            nonlocal highest
            while True:
                highest = max(highest, dirty_bytes(fs))
                await trio.lowlevel.checkpoint()

        with trio.fail_after(15):
            async with trio.open_nursery() as watching:
                watching.start_soon(watch)
                async with trio.open_nursery() as writing:
                    for number in range(WRITERS):
                        writing.start_soon(write_file, fs, number, inodes)
                watching.cancel_scope.cancel()
        assert LIMIT_BYTES // 2 < highest <= LIMIT_BYTES + WRITERS * MIB * 11 // 10
        for number, inode in inodes.items():
            assert await read_all(fs, inode) == content(NOISE, 5 * MIB, start=number * 100_000)
    assert audit_findings(place, data=True) == []


async def test_tiny_random_writes_are_bounded_as_well(place: Place) -> None:
    """Each costs memory beyond its bytes; the limit counts that."""
    options = FsOptions(dirty_limit_bytes=256 * 1024, commit_interval_s=NEVER_S)
    async with opened(place, options) as fs:
        handle, attr = await fs.create(ROOT_INODE, b"file", 0o100644, os.O_RDWR, ME)
        with trio.fail_after(15):
            for number in range(6000):
                await fs.write(handle, number * 7919 % 6000 * 100, b"x")
        await fs.fsync(handle)
        fs.release(handle)
        data = await read_all(fs, attr.ino)
        assert data == (b"x" + bytes(99)) * 5999 + b"x"
        assert fs.getattr(attr.ino).allocated_bytes == 6000
    assert audit_findings(place, data=True) == []


async def test_a_small_cache_does_not_wait_for_the_clock(place: Place) -> None:
    """Packs are uploaded once committed: a writer that waits for that must not wait for the next timed commit."""
    options = FsOptions(cache_limit_bytes=4 * MIB, commit_interval_s=NEVER_S)
    async with opened(place, options) as fs:
        inodes: dict[int, int] = {}
        with trio.fail_after(30):
            for number in range(12):
                await write_file(fs, number, inodes)
        assert len(inodes) == 12
    assert audit_findings(place, data=True) == []


async def test_the_kept_end_of_a_stream_gives_way_to_writers(place: Place) -> None:
    """It counts against the dirty limit, but nothing that seals frees it."""
    options = FsOptions(dirty_limit_bytes=4 * MIB, commit_interval_s=NEVER_S)
    async with opened(place, options) as fs:
        handle, attr = await fs.create(ROOT_INODE, b"file", 0o100644, os.O_RDWR, ME)
        data = content(NOISE, 40 * MIB)
        with trio.fail_after(30):
            for start in range(0, len(data), 128 * 1024):
                await fs.write(handle, start, data[start : start + 128 * 1024])
                if start % (5 * MIB) == 0:
                    await fs.fsync(handle)  # seals an end that is kept
        fs.release(handle)
        assert await read_all(fs, attr.ino) == data
    assert audit_findings(place, data=True) == []


async def test_names_never_wait_for_the_dirty_limit(place: Place) -> None:
    """They hold the kernel's directory lock: while a writer waits, they must go on."""
    options = FsOptions(dirty_limit_bytes=MIB)
    async with opened(place, options) as fs, trio.open_nursery() as nursery:
        nursery.start_soon(write_file, fs, 0, {})
        for number in range(200):
            with trio.fail_after(5):
                await fs.mkdir(ROOT_INODE, b"directory %d" % number, 0o755, ME)
            await trio.lowlevel.checkpoint()


def dirty_bytes(fs: FileSystem) -> int:
    """Return how much accepted data is in memory."""
    return int(fs.counters()["dirty_bytes"])
