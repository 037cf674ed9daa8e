"""Files' data: holes, overwriting in place, appending, truncating, and what all that costs in the store."""

from __future__ import annotations

import errno
import os

import pytest

from cubefs.errors import PosixError
from cubefs.fs.filesystem import FsOptions
from cubefs.model import FILE_MAX_BYTES, MIB
from tests.support.calls import ME, make_file, read_all, truncate, write_all, write_at
from tests.support.content import content
from tests.support.database import block_count, extents_of, packs_bytes
from tests.support.driver import Place, audit_findings, opened

TEXT, NOISE = 1, 2
QUIET = FsOptions(commit_interval_s=100_000.0, recovery_point_s=100_000.0)


async def test_a_hole_takes_no_space_and_no_blocks(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"sparse")
        await write_at(fs, inode, 2**40, b"end")
        await write_at(fs, inode, 5000, b"middle")
        await fs.commit()
        attr = fs.getattr(inode)
        assert (attr.size_bytes, attr.allocated_bytes) == (2**40 + 3, 9)
        assert await read_all(fs, inode, offset=4000, size=2000) == bytes(1000) + b"middle" + bytes(994)
        assert await read_all(fs, inode, offset=2**40 - 10, size=100) == bytes(10) + b"end"
        assert await read_all(fs, inode, offset=2**30, size=MIB) == bytes(MIB)
    assert block_count(place) == 2
    assert packs_bytes(place) < 2000
    assert audit_findings(place, data=True) == []


async def test_a_file_of_nothing_but_a_hole(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"hole")
        await truncate(fs, inode, 2**50)
        assert await read_all(fs, inode, offset=2**50 - 5, size=100) == bytes(5)
        await fs.commit()
        assert fs.getattr(inode).allocated_bytes == 0
    assert block_count(place) == 0


async def test_the_largest_file(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"large")
        await write_at(fs, inode, FILE_MAX_BYTES - 1, b"z")
        await fs.commit()
        assert fs.getattr(inode).size_bytes == FILE_MAX_BYTES
        assert await read_all(fs, inode, offset=FILE_MAX_BYTES - 4, size=4) == b"\0\0\0z"
        handle = await fs.open(inode, os.O_RDWR)
        for offset in (FILE_MAX_BYTES, FILE_MAX_BYTES - 1):
            with pytest.raises(PosixError) as caught:
                await fs.write(handle, offset, b"zz")
            assert caught.value.errno == errno.EFBIG
        fs.release(handle)
    assert audit_findings(place, data=True) == []


async def test_overwriting_a_little_does_not_rewrite_the_block(place: Place) -> None:
    data = bytearray(content(NOISE, 6 * MIB))
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"database", bytes(data))
        await fs.sync()
        before_bytes = packs_bytes(place)
        for offset in (1_000_000, 3_000_000, 3_000_005, 0, len(data) - 10):
            data[offset : offset + 10] = b"0123456789"
            await write_at(fs, inode, offset, b"0123456789")
            await fs.commit()
            assert await read_all(fs, inode) == data
            assert fs.getattr(inode).allocated_bytes == len(data)
        await fs.sync()
        assert packs_bytes(place) - before_bytes < 100_000
    rows = extents_of(place, inode)
    assert sum(length for _, length in rows) == len(data)
    async with opened(place.with_empty_cache("elsewhere"), QUIET) as fs:
        assert await read_all(fs, inode) == data
    assert audit_findings(place, data=True) == []


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, MIB),
        (0, 3 * MIB),
        (MIB - 1, 2),
        (MIB, MIB),
        (MIB + 1, MIB - 2),
        (2 * MIB - 1, MIB + 1),
        (MIB // 2, 2 * MIB),
    ],
)
async def test_overwriting_across_extents(place: Place, offset: int, size: int) -> None:
    data = bytearray(content(NOISE, 3 * MIB))
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"file")
        for start in range(0, len(data), MIB):  # three seals: extents end where the test knows
            await write_at(fs, inode, start, bytes(data[start : start + MIB]))
            await fs.commit()
        data[offset : offset + size] = content(TEXT, size)
        await write_at(fs, inode, offset, content(TEXT, size))
        assert await read_all(fs, inode) == data  # dirty over sealed
        await fs.commit()
        assert await read_all(fs, inode) == data
        assert fs.getattr(inode).allocated_bytes == len(data)
    assert audit_findings(place, data=True) == []


async def test_fixed_chunking_overwrites_in_place(fixed_place: Place) -> None:
    data = bytearray(content(NOISE, 10 * MIB))
    async with opened(fixed_place, QUIET) as fs:
        inode = await make_file(fs, b"image", bytes(data))
        await fs.commit()
        await write_at(fs, inode, 8 * MIB - 3, b"across")
        data[8 * MIB - 3 : 8 * MIB + 3] = b"across"
        await fs.commit()
        assert await read_all(fs, inode) == data
    assert next(row for row in extents_of(fixed_place, inode) if row[1] > MIB) == (0, 8 * MIB - 3)
    assert audit_findings(fixed_place, data=True) == []


async def test_fixed_chunking_cuts_at_file_offsets(fixed_place: Place) -> None:
    data = content(NOISE, 12 * MIB)
    async with opened(fixed_place, QUIET) as fs:
        inode = await make_file(fs, b"image")
        await write_at(fs, inode, 4 * MIB, data[4 * MIB :])
        await fs.commit()
    assert extents_of(fixed_place, inode) == [(4 * MIB, 4 * MIB), (8 * MIB, 4 * MIB)]


async def test_appending_keeps_what_was_there(place: Place) -> None:
    """A log file grows by many small appends, each committed."""
    data = b""
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"log")
        for number in range(40):
            line = content(NOISE, 3000, start=number * 3000)
            await write_at(fs, inode, len(data), line)
            data += line
            await fs.commit()
            assert fs.getattr(inode).size_bytes == len(data)
        assert await read_all(fs, inode) == data
    assert sum(length for _, length in extents_of(place, inode)) == len(data)
    assert audit_findings(place, data=True) == []


@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize("cut", [0, 1, 4095, MIB, MIB + 1, 2 * MIB - 1])
async def test_truncating_down_and_up_again_shows_zeros(place: Place, cut: int, settle: bool) -> None:
    data = content(NOISE, 2 * MIB)
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"file", data)
        if settle:
            await fs.commit()
        await truncate(fs, inode, cut)
        assert await read_all(fs, inode) == data[:cut]
        await truncate(fs, inode, 3 * MIB)
        expected = data[:cut] + bytes(3 * MIB - cut)
        assert await read_all(fs, inode) == expected
        await fs.commit()
        assert fs.getattr(inode).allocated_bytes == cut
        assert await read_all(fs, inode) == expected
        await write_at(fs, inode, 3 * MIB - 1, b"x")
        await fs.commit()
        assert await read_all(fs, inode) == expected[:-1] + b"x"
    assert audit_findings(place, data=True) == []


async def test_the_same_data_is_stored_once(place: Place) -> None:
    data = content(NOISE, 4 * MIB)
    async with opened(place, QUIET) as fs:
        await make_file(fs, b"first", data)
        await fs.sync()
        before_bytes, before_blocks = packs_bytes(place), None
        for number in range(3):
            await make_file(fs, b"copy %d" % number, data)
        await make_file(fs, b"half", data[: 2 * MIB])
        await fs.sync()
        assert packs_bytes(place) - before_bytes < 2 * MIB + 100_000  # at most the blocks that `half` ends in
        del before_blocks
    assert block_count(place) <= 4 * 4 + 4
    assert audit_findings(place, data=True) == []


async def test_concurrent_copies_are_stored_once(place: Place) -> None:
    import trio

    data = content(NOISE, 4 * MIB)
    async with opened(place, QUIET) as fs:
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(make_file, fs, b"copy %d" % number, data)
        await fs.sync()
        assert packs_bytes(place) < 4 * MIB + 200_000
    assert audit_findings(place, data=True) == []


async def test_text_is_compressed_and_noise_costs_nothing_extra(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        await make_file(fs, b"text", content(TEXT, 2 * MIB))
        await fs.sync()
        text_bytes = packs_bytes(place)
        assert text_bytes < 300_000
        await make_file(fs, b"noise", content(NOISE, 2 * MIB))
        await fs.sync()
        assert packs_bytes(place) - text_bytes < 2 * MIB + 20_000


async def test_reading_while_dirty_and_while_sealing(place: Place) -> None:
    data = bytearray(content(NOISE, 30 * MIB // 4))
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"file")
        handle = await fs.open(inode, os.O_RDWR)
        await write_all(fs, handle, bytes(data))
        for offset in range(0, len(data), 1_500_000):
            data[offset : offset + 1000] = b"n" * 1000
            await fs.write(handle, offset, b"n" * 1000)
            assert bytes(await fs.read(handle, offset, 2000)) == data[offset : offset + 2000]
        assert await read_all(fs, inode) == data
        fs.release(handle)
        assert await read_all(fs, inode) == data  # closed: it is being sealed
        await fs.commit()
        assert await read_all(fs, inode) == data


async def test_a_write_of_nothing_changes_nothing(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"file", b"data")
        before = fs.getattr(inode)
        handle = await fs.open(inode, os.O_RDWR)
        assert await fs.write(handle, 100, b"") == 0
        fs.release(handle)
        assert fs.getattr(inode) == before


async def test_data_written_to_an_unlinked_file_stays_readable_and_then_goes(place: Place) -> None:
    data = content(NOISE, 2 * MIB)
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"file", data[:MIB])
        handle = await fs.open(inode, os.O_RDWR)
        await fs.unlink(1, b"file")
        await write_all(fs, handle, data[MIB:], offset=MIB)
        attr = fs.getattr(inode)
        assert (attr.nlink, attr.size_bytes) == (0, 2 * MIB)
        await fs.commit()
        assert bytes(await fs.read(handle, MIB - 10, 20)) == data[MIB - 10 : MIB + 10]
        await make_file(fs, b"file", b"another")  # the name is free
        await fs.sync()
        assert bytes(await fs.read(handle, 0, MIB)) == data[:MIB]
        fs.release(handle)
        with pytest.raises(PosixError):
            fs.getattr(inode)
    assert extents_of(place, inode) == []
    assert audit_findings(place, data=True) == []


async def test_an_unlinked_open_file_does_not_outlive_a_remount(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        handle, attr = await fs.create(1, b"file", 0o100644, os.O_RDWR, ME)
        await write_all(fs, handle, content(NOISE, MIB))
        await fs.unlink(1, b"file")
        await fs.sync()
        # the handle is never released: as if the daemon had been stopped
    async with opened(place, QUIET) as fs:
        with pytest.raises(PosixError):
            fs.getattr(attr.ino)
    assert audit_findings(place, data=True) == []
