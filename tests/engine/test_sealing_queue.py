"""The sealer's queue: whatever is asked for is sealed in the end, and nobody waits for ever."""

from __future__ import annotations

import os
import threading

import pytest
import trio

from cubefs.engine.packs import PackWriter, Unit
from cubefs.errors import CubefsError, LocalDiskError
from cubefs.model import MIB
from tests.support.calls import make_file, read_all, truncate, write_all, write_at
from tests.support.driver import Place
from tests.support.engines import crashing, noise, running, wait_until


async def test_a_file_emptied_while_queued_can_be_written_again(place: Place) -> None:
    """echo a > f; : > f; and a little later: echo b > f."""
    async with running(place) as fs:
        inode = await make_file(fs, b"f", b"a")  # closed: queued, but too little to start on
        await truncate(fs, inode, 0)
        assert fs.engine.files.dirty() == []  # forgets the state that the queue still holds
        await write_at(fs, inode, 0, b"b")
        await fs.commit()
        assert await read_all(fs, inode) == b"b"
        assert not fs.engine.files.dirty()


async def test_settling_while_another_job_of_the_same_batch_is_at_work(place: Place) -> None:
    """Many files, written, closed, rewritten and committed at once: every commit returns."""
    async with running(place) as fs:

        async def work(number: int) -> None:
            inode = await make_file(fs, b"file %d" % number)
            for round_number in range(6):
                data = noise(number * 6 + round_number, 300_000)
                handle = await fs.open(inode, os.O_RDWR)
                await write_all(fs, handle, data)
                if round_number % 2:
                    await fs.fsync(handle)
                fs.release(handle)
                assert await read_all(fs, inode) == data

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(work, number)
        await fs.commit()
        assert not fs.engine.files.dirty()


async def test_a_failed_pack_ends_the_waiting_of_writers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dirty memory that will never be sealed must not hold writers for ever: they get the error."""

    def fail(self: PackWriter, units: list[Unit]) -> None:
        raise LocalDiskError("the disk of the cache directory failed: for the test")

    monkeypatch.setattr(PackWriter, "append", fail)
    async with crashing(place, dirty_limit_bytes=MIB) as fs:
        inode = await make_file(fs, b"f")
        handle = await fs.open(inode, os.O_RDWR)
        errors = []

        async def write() -> None:
            try:
                for start in range(0, 8 * MIB, MIB):
                    await fs.write(handle, start, noise(1, MIB))
            except CubefsError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(write)
        assert [type(error) for error in errors] == [LocalDiskError] * 3


test_a_failed_pack_ends_the_waiting_of_writers = pytest.mark.log_warnings(
    test_a_failed_pack_ends_the_waiting_of_writers
)


async def test_the_last_writer_through_the_door_asks_for_the_others(place: Place) -> None:
    """Writers that wait at the dirty limit go on although no further write comes to ask for a seal."""
    async with running(place, dirty_limit_bytes=2 * MIB) as fs:
        inodes = [await make_file(fs, b"file %d" % number) for number in range(6)]
        handles = [await fs.open(inode, os.O_RDWR) for inode in inodes]

        async def write(number: int) -> None:
            for start in range(0, 3 * MIB, MIB // 2):
                await fs.write(handles[number], start, noise(number, 3 * MIB)[start : start + MIB // 2])

        async with trio.open_nursery() as nursery:
            for number in range(len(handles)):
                nursery.start_soon(write, number)
        for number, inode in enumerate(inodes):
            assert await read_all(fs, inode) == noise(number, 3 * MIB)


async def test_syncing_packs_beside_an_append_that_closes_the_pack(place: Place) -> None:
    """The commit's first fdatasync runs beside a job's append, which may complete the very same pack."""
    async with running(place) as fs:
        await make_file(fs, b"first", noise(1, MIB))
        await fs.commit()
        writer = fs.engine.sealer._writer
        pack = writer._open  # type: ignore[attr-defined]
        assert pack is not None
        real, entered, finished = os.fdatasync, threading.Event(), threading.Event()
        calls = []

        def slow(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == 1:
                entered.set()
                finished.wait(0.2)
            real(descriptor)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cubefs.engine.packs.os.fdatasync", slow)
            inode = await make_file(fs, b"second", noise(2, 12 * MIB))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fs.engine.sealer.sync_packs)
                await wait_until(entered.is_set)
                await fs.commit()
        assert await read_all(fs, inode) == noise(2, 12 * MIB)
