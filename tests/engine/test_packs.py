"""Local pack files: what the writer makes of units, at pack boundaries, on a full disk and under failures."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubefs.engine.packing import NewBlock, plan_frames
from cubefs.engine.packs import Appended, PackFiles, PackWriter, Unit
from cubefs.errors import LocalDiskError, LocalDiskFullError
from cubefs.format.keys import object_hash
from cubefs.format.pack import PackCipher, pack_frame, parse_header, read_pack
from cubefs.model import FRAME_MAX_BYTES, MIB, PACK_MAX_BYTES, PACK_TARGET_BYTES, BlockPlace, FrameInfo
from tests.support.engines import noise

KEY, UUID = bytes(range(32)), bytes(range(16))


def writer_in(directory: Path, *, wait_for_space: Callable[[], bool] = lambda: False) -> PackWriter:
    return PackWriter(PackFiles(directory), pack_key=KEY, uuid=UUID, wait_for_space=wait_for_space)


def units_of(data: Iterable[bytes]) -> list[Unit]:
    """Plan and compress blocks with these contents."""
    blocks = [NewBlock(object_hash(each), memoryview(each)) for each in data]
    return [Unit(tuple(pack_frame(plain()) for plain in plan.frames), plan.blocks) for plan in plan_frames(blocks)]


class Ledger:
    """What the writer has said, as the database would keep it."""

    def __init__(self) -> None:
        self.frames: dict[bytes, dict[int, FrameInfo]] = {}
        self.blocks: dict[bytes, list[BlockPlace]] = {}
        self.names: dict[bytes, bytes] = {}
        self.open: bytes | None = None

    def note(self, appended: list[Appended]) -> None:
        for part in appended:
            assert part.opened == (part.salt not in self.frames)
            assert part.salt not in self.names
            frames = self.frames.setdefault(part.salt, {})
            for number, info in part.frames:
                assert number == len(frames)
                frames[number] = info
            self.blocks.setdefault(part.salt, []).extend(part.blocks)
            if part.closed is not None:
                self.names[part.salt] = part.closed.name
            self.open = None if part.closed is not None else part.salt

    def close(self, writer: PackWriter) -> None:
        outcome = writer.close_pack()
        if outcome is not None:
            self.names[outcome[0]] = outcome[1].name
            self.open = None

    def read(self, files: PackFiles) -> dict[bytes, bytes]:
        """Return all blocks by hash, from what was said and from the files alone; both must agree."""
        found: dict[bytes, bytes] = {}
        for salt, frames in self.frames.items():
            cipher = PackCipher(KEY, salt=salt, uuid=UUID)
            plain = {}
            for number, info in frames.items():
                stored = files.read(salt, start=info.pack_offset, length=info.stored_bytes)
                assert stored is not None
                plain[number] = cipher.open_frame(number, stored, plain_bytes=info.plain_bytes)
            for block in self.blocks[salt]:
                parts, number, offset = [], block.frame, block.frame_offset
                while sum(map(len, parts)) < block.length:
                    parts.append(plain[number][offset : offset + block.length])
                    number, offset = number + 1, 0
                found[block.block_hash] = b"".join(parts)
            if salt in self.names:
                data = files.read_all(salt)
                assert object_hash(data) == self.names[salt]
                assert len(data) <= PACK_MAX_BYTES
                index = read_pack(data, pack_key=KEY, uuid=UUID)
                assert index.salt == salt == parse_header(data)[1]
                assert dict(enumerate(index.frames)) == frames
                assert list(index.blocks) == self.blocks[salt]
        return found


def check(files: PackFiles, ledger: Ledger, data: Iterable[bytes]) -> None:
    found = ledger.read(files)
    assert found == {object_hash(each): each for each in data}


SIZES = st.one_of(
    st.integers(1, 3000),
    st.integers(1, 3 * FRAME_MAX_BYTES),
    st.sampled_from([FRAME_MAX_BYTES, FRAME_MAX_BYTES + 1, 2 * FRAME_MAX_BYTES, 8 * MIB]),
)


@settings(max_examples=30)
@given(batches=st.lists(st.lists(SIZES, max_size=6), max_size=6), closes=st.sets(st.integers(0, 5)))
def test_round_trips(tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]], closes: set[int]) -> None:
    directory = tmp_path_factory.mktemp("packs") / "packs"
    writer, ledger, data = writer_in(directory), Ledger(), []
    for number, sizes in enumerate(batches):
        batch = [noise(1, 8 * MIB)[: size - 1] + bytes([number * 16 + index]) for index, size in enumerate(sizes)]
        data += batch
        ledger.note(writer.append(units_of(batch)))
        if number in closes:
            ledger.close(writer)
        writer.sync()
        assert writer.open_salt == ledger.open
    check(PackFiles(directory), ledger, data)
    ledger.close(writer)
    check(PackFiles(directory), ledger, data)
    assert set(ledger.names) == set(ledger.frames)
    for salt in list(PackFiles(directory).salts()):
        PackFiles(directory).delete(salt)


def test_a_full_pack_is_closed_and_the_next_is_opened(tmp_path: Path) -> None:
    writer, ledger = writer_in(tmp_path / "packs"), Ledger()
    data = [noise(number, 900_000) for number in range(30)]
    ledger.note(writer.append(units_of(data)))
    assert len(ledger.frames) == 4
    assert len(ledger.names) == 3
    check(PackFiles(tmp_path / "packs"), ledger, data)
    for salt in ledger.names:
        assert PackFiles(tmp_path / "packs").path(salt).stat().st_size <= PACK_TARGET_BYTES + 64 + 32 + 2000
    ledger.close(writer)


def test_a_pack_that_was_open_is_closed_by_the_append_that_does_not_fit(tmp_path: Path) -> None:
    writer, ledger = writer_in(tmp_path / "packs"), Ledger()
    ledger.note(writer.append(units_of([noise(1, 5 * MIB)])))
    assert ledger.names == {}
    ledger.note(writer.append(units_of([noise(2, 5 * MIB)])))
    assert len(ledger.names) == 1
    ledger.close(writer)
    check(PackFiles(tmp_path / "packs"), ledger, [noise(1, 5 * MIB), noise(2, 5 * MIB)])


def test_the_largest_block_fits_into_any_pack(tmp_path: Path) -> None:
    writer, ledger = writer_in(tmp_path / "packs"), Ledger()
    data = [noise(1, 8 * MIB), b"small", noise(2, 8 * MIB), noise(3, 8 * MIB)]
    for each in data:
        ledger.note(writer.append(units_of([each])))
    ledger.close(writer)
    check(PackFiles(tmp_path / "packs"), ledger, data)


def test_closing_nothing(tmp_path: Path) -> None:
    writer = writer_in(tmp_path / "packs")
    assert writer.close_pack() is None
    assert writer.append([]) == []
    writer.sync()
    assert writer.open_salt is None


# -- failures ----------


class Disk:
    """Fails writes to packs on command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 40
        self._real = os.pwrite
        monkeypatch.setattr("cubefs.engine.packs.os.pwrite", self._write)

    def _write(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        piece = bytes(data)[: self.room]
        self.room -= len(piece)
        return self._real(descriptor, piece, offset)


@pytest.mark.parametrize("room", [0, 10, 64, 65, 100_000, 900_000, 2_500_000])
def test_a_full_disk_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The very bytes that did not fit are written in the end, from where the disk was full."""
    disk = Disk(monkeypatch)
    waits = 0

    def wait() -> bool:
        nonlocal waits
        waits += 1
        if waits % 3 == 0:
            disk.room = 400_000
        return True

    writer, ledger = writer_in(tmp_path / "packs", wait_for_space=wait), Ledger()
    disk.room = room
    data = [noise(number, 700_000) for number in range(4)]
    ledger.note(writer.append(units_of(data)))
    disk.room = 1 << 40
    ledger.close(writer)
    assert waits >= 3
    check(PackFiles(tmp_path / "packs"), ledger, data)


@pytest.mark.parametrize("room", [0, 100_000])
def test_giving_up_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """The pack is left as it is; the writer goes on with another, under another key."""
    disk = Disk(monkeypatch)
    writer, ledger = writer_in(tmp_path / "packs"), Ledger()
    ledger.note(writer.append(units_of([b"before"])))
    abandoned = writer.open_salt
    disk.room = room
    with pytest.raises(LocalDiskFullError, match="full"):
        writer.append(units_of([noise(1, MIB)]))
    assert writer.open_salt is None
    disk.room = 1 << 40
    ledger.note(writer.append(units_of([b"after"])))
    assert writer.open_salt != abandoned
    ledger.close(writer)
    check(PackFiles(tmp_path / "packs"), ledger, [b"before", b"after"])


def test_a_failed_sync_is_an_error_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = writer_in(tmp_path / "packs")
    writer.append(units_of([b"data"]))

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("cubefs.engine.packs.os.fdatasync", fail)
    with pytest.raises(LocalDiskError, match="Input/output error"):
        writer.sync()
    with pytest.raises(LocalDiskError, match="Input/output error"):
        writer.close_pack()
    monkeypatch.undo()
    writer.abandon()
    assert writer.open_salt is None


def test_what_is_synced_needs_no_second_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    real = os.fdatasync
    monkeypatch.setattr("cubefs.engine.packs.os.fdatasync", lambda descriptor: synced.append(real(descriptor)))
    writer = writer_in(tmp_path / "packs")
    writer.append(units_of([b"data"]))
    writer.sync()
    writer.sync()
    assert len(synced) == 1
    writer.append(units_of([b"more"]))
    writer.sync()
    assert len(synced) == 2
    writer.close_pack()
    assert len(synced) == 3


def test_a_salt_is_never_used_twice(tmp_path: Path) -> None:
    """Even if the randomness repeated: the file of that name is there already."""
    files = PackFiles(tmp_path / "packs")
    writer = PackWriter(
        files, pack_key=KEY, uuid=UUID, wait_for_space=lambda: False, random=lambda length: b"r" * length
    )
    writer.append(units_of([b"data"]))
    writer.close_pack()
    with pytest.raises(LocalDiskError):
        writer.append(units_of([b"more"]))


# -- the directory ----------


def test_reading_past_the_end_and_what_is_not_there(tmp_path: Path) -> None:
    files = PackFiles(tmp_path / "packs")
    assert files.read(b"s" * 32, start=0, length=10) is None
    files.write_fetched(b"s" * 32, b"0123456789")
    assert files.read(b"s" * 32, start=8, length=10) == b"89"
    assert files.read(b"s" * 32, start=20, length=10) == b""
    assert files.read_all(b"s" * 32) == b"0123456789"
    files.delete(b"s" * 32)
    files.delete(b"s" * 32)
    with pytest.raises(LocalDiskError):
        files.read_all(b"s" * 32)


def test_half_a_fetch_is_cleared_away(tmp_path: Path) -> None:
    files = PackFiles(tmp_path / "packs")
    files.write_fetched(b"s" * 32, b"whole")
    (files.directory / f"{bytes(32).hex()}.1234.tmp").write_bytes(b"half")
    assert files.salts() == {b"s" * 32}
    assert [path.suffix for path in files.directory.iterdir()] == [".pack"]


def test_a_fetched_pack_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = PackFiles(tmp_path / "packs")

    def fail(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(LocalDiskFullError):
        files.write_fetched(b"s" * 32, b"data")
    assert list(files.directory.iterdir()) == []
