"""Crashes: a process killed, or the power cut, at every step; and what the next mount makes of the remains."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.db.outbox import Outbox
from cubefs.engine import logend
from cubefs.engine.committing import _WalSync
from cubefs.engine.localpacks import LocalPacks
from cubefs.engine.packing import NewBlock
from cubefs.engine.packs import PackFiles, PackWriter
from cubefs.engine.sealing import Sealer
from cubefs.engine.uploading import Uploader
from cubefs.errors import IntegrityError, LocalDiskError
from cubefs.format.pack import PackCipher, PackedFrame
from cubefs.fs.filesystem import FileSystem
from cubefs.model import MIB, PackState
from tests.support.calls import list_names, make_file, read_all, write_all
from tests.support.database import rows
from tests.support.driver import Place
from tests.support.engines import copy_as_killed, crashing, findings, noise, packs_in, running
from tests.support.power import PowerCut

STEPS: list[tuple[Any, str]] = [
    (PackWriter, "append"),
    (PackWriter, "sync"),
    (PackWriter, "close_pack"),
    (Database, "commit"),
    (Database, "mark_cut"),
    (_WalSync, "sync"),
    (Uploader, "_put_sync"),
    (LocalPacks, "mark_stored"),
    (Outbox, "put_sealed"),
    (logend, "ship"),
    (Outbox, "shipped"),
]


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a large file fill packs without much to copy."""
    monkeypatch.setattr("cubefs.engine.packs.PACK_TARGET_BYTES", MIB)


class Crashes:
    """Copies the file system before and after each call of the steps, with what must be found in the copy."""

    def __init__(self, place: Place, directory: Path, copy: Callable[[Place, Path], Place]) -> None:
        self.place = place
        self.directory = directory
        self.copy = copy
        self.durable: dict[bytes, bytes] = {}  # fsynced: name → data
        self.stored: dict[bytes, bytes] = {}  # in the store as well
        self.copies: list[tuple[str, Place, dict[bytes, bytes], dict[bytes, bytes]]] = []
        self._token = trio.lowlevel.current_trio_token()
        self._is_at_work = False
        self.limit = 2  # copies of each kind: enough for the first and one in the midst

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name), name))

    def _wrapped(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        counts = {"before": 0, "after": 0}

        def step(*args: Any, **kwargs: Any) -> Any:
            for when in ("before", "after"):
                if when == "after":
                    outcome = real(*args, **kwargs)
                counts[when] += 1
                if counts[when] <= self.limit:
                    self.take(f"{when} {name} {counts[when]}")
            return outcome

        return step

    def take(self, label: str) -> None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            trio.from_thread.run_sync(self._take, label, trio_token=self._token)
        else:
            self._take(label)

    def _take(self, label: str) -> None:
        target = self.directory / label.replace(" ", "-")
        if not target.exists():
            target.mkdir()
            copied = self.copy(self.place, target)
            self.copies.append((label, copied, dict(self.durable), dict(self.stored)))


async def write_durably(fs: FileSystem, name: bytes, data: bytes) -> None:
    inode = await make_file(fs, name, data)
    handle = await fs.open(inode, os.O_RDONLY)
    await fs.fsync(handle)
    fs.release(handle)


async def busy_life(fs: FileSystem, crashes: Crashes) -> None:
    """Some of everything, noting what has been acknowledged."""
    for number in range(3):
        name, data = b"file %d" % number, noise(number, 300_000 + number)
        await write_durably(fs, name, data)
        crashes.durable[name] = data
    await make_file(fs, b"not synced", noise(50, 100_000))
    await fs.sync()
    crashes.durable[b"not synced"] = noise(50, 100_000)
    crashes.stored = dict(crashes.durable)
    await fs.rename(1, b"file 0", 1, b"renamed")
    await write_durably(fs, b"same again", noise(1, 300_001))
    crashes.durable[b"same again"] = noise(1, 300_001)
    del crashes.durable[b"file 0"]
    crashes.durable[b"renamed"] = noise(0, 300_000)
    await fs.snapshot_create(b"s")
    await write_durably(fs, b"large", noise(60, 3 * MIB))
    crashes.durable[b"large"] = noise(60, 3 * MIB)
    await fs.sync()


async def check(copy: Place, durable: dict[bytes, bytes], label: str) -> None:
    async with running(copy) as fs:
        names = set(list_names(fs)) - {b"snapshots"}
        for name, data in durable.items():
            where = name
            if name == b"file 0" and name not in names:
                where = b"renamed"  # a later operation may have been committed as well
            assert await read_all(fs, fs.lookup(1, where).ino) == data, (label, name)
        for name in names:
            size = fs.lookup(1, name).size_bytes
            assert len(await read_all(fs, fs.lookup(1, name).ino)) == size, (label, name)
        assert fs.engine.gate.failure is None
        open_packs = fs.engine.database.execute("SELECT count(*) FROM local_pack WHERE state = 1").get
        assert open_packs <= 1  # the one that recovery itself writes
    assert findings(copy) == [], label


async def check_elsewhere(copy: Place, durable: dict[bytes, bytes], label: str) -> None:
    """Another machine sees the same, once the first has drained."""
    elsewhere = copy.with_empty_cache("another machine")
    async with running(elsewhere, read_only=True) as fs:
        for name, data in durable.items():
            where = name if name != b"file 0" or fs.find_child(1, name) else b"renamed"
            assert await read_all(fs, fs.lookup(1, where).ino) == data, (label, name)
    assert findings(elsewhere, is_shipped=True) == [], label


@pytest.mark.parametrize("kind", ["killed", "power cut"])
async def test_a_crash_at_every_step(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_packs: None, kind: str
) -> None:
    power = PowerCut(monkeypatch)
    crashes = Crashes(place, tmp_path / "crashes", copy_as_killed if kind == "killed" else power.copy)
    crashes.directory.mkdir()
    with monkeypatch.context() as patch:
        async with running(place) as fs:
            crashes.watch(patch)
            await busy_life(fs, crashes)
            patch.undo()
    monkeypatch.undo()
    assert {label.split()[1] for label, *_ in crashes.copies} == {name for _, name in STEPS}
    for label, copy, durable, _ in crashes.copies:
        with trio.fail_after(10):
            await check(copy, durable, label)
            if kind == "killed":
                await check_elsewhere(copy, durable, label)


async def test_losing_the_machine(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_packs: None
) -> None:
    """At every step, what was synced to the store is there for a machine that has nothing else."""
    crashes = Crashes(place, tmp_path / "crashes", copy_as_killed)
    crashes.directory.mkdir()
    with monkeypatch.context() as patch:
        async with running(place) as fs:
            crashes.watch(patch)
            await busy_life(fs, crashes)
            patch.undo()
    for number, (label, copy, _, stored) in enumerate(crashes.copies):
        elsewhere = copy.with_empty_cache(f"cache {number}")
        async with running(elsewhere, read_only=True) as fs:
            for name, data in stored.items():
                where = name if name != b"file 0" or fs.find_child(1, name) else b"renamed"
                assert await read_all(fs, fs.lookup(1, where).ino) == data, (label, name)
        assert findings(elsewhere, is_shipped=True) == [], label


async def test_no_two_frames_are_sealed_alike(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over crashes and mounts: the same salt and frame number would repeat a nonce under one key."""
    sealed: dict[tuple[bytes, int], int] = {}
    real = PackCipher.seal_frame

    def seal_frame(self: PackCipher, number: int, packed: PackedFrame) -> bytes:
        key = (self.header[-32:], number)
        sealed[key] = sealed.get(key, 0) + 1
        return real(self, number, packed)

    monkeypatch.setattr(PackCipher, "seal_frame", seal_frame)
    for round_number in range(4):
        async with crashing(place) as fs:
            for number in range(3):
                await write_durably(
                    fs, b"f %d %d" % (round_number, number), noise(round_number * 3 + number, 50_000)
                )
            await make_file(fs, b"lost %d" % round_number, noise(99, 1000))
    assert set(sealed.values()) == {1}
    assert len({salt for salt, _ in sealed}) >= 4
    async with running(place) as fs:
        for round_number in range(4):
            for number in range(3):
                name = b"f %d %d" % (round_number, number)
                assert await read_all(fs, fs.lookup(1, name).ino) == noise(round_number * 3 + number, 50_000)
    assert findings(place) == []


async def test_an_open_pack_is_sealed_again(place: Place) -> None:
    async with crashing(place) as fs:
        await write_durably(fs, b"f", noise(1, 3 * MIB))
        await write_durably(fs, b"small", b"small")
        await write_durably(fs, b"gone", noise(2, 100_000))
        await fs.unlink(1, b"gone")
        await fs.commit()
        await fs.engine.housekeeper.wait_idle()
        await fs.commit()
        (old,) = packs_in(place.cache_dir / "packs")
    async with running(place) as fs:
        (new,) = packs_in(place.cache_dir / "packs")
        assert new != old
        assert await read_all(fs, fs.lookup(1, b"f").ino) == noise(1, 3 * MIB)
        assert await read_all(fs, fs.lookup(1, b"small").ino) == b"small"
        assert fs.engine.database.execute("SELECT count(*) FROM block WHERE refs = 0").get == 0
    assert rows(place, "SELECT count(*) FROM pack WHERE name IS NULL") == [(0,)]
    assert findings(place) == []


async def test_crashing_again_and_again_while_recovering(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crashing(place) as fs:
        for number in range(3):
            await write_durably(fs, b"f%d" % number, noise(number, MIB))
    copies: list[Place] = []

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            copies.append(copy_as_killed(place, tmp_path / f"copy {len(copies)}"))
            outcome = real(*args, **kwargs)
            copies.append(copy_as_killed(place, tmp_path / f"copy {len(copies)}"))
            return outcome

        monkeypatch.setattr(owner, name, step)

    for owner, name in ((Blocks, "delete_pack"), (PackFiles, "delete"), (Database, "commit"), (Blocks, "move")):
        wrap(owner, name)
    async with crashing(place):
        pass
    monkeypatch.undo()
    assert len(copies) >= 8
    for copy in copies:
        async with running(copy) as fs:
            for number in range(3):
                assert await read_all(fs, fs.lookup(1, b"f%d" % number).ino) == noise(number, MIB)
        assert findings(copy) == []
        assert rows(copy, "SELECT count(*) FROM pack WHERE name IS NULL") == [(0,)]


async def test_what_was_never_committed_is_cleared_away(place: Place) -> None:
    async with crashing(place) as fs:
        await make_file(fs, b"f", noise(1, MIB))
        await fs.engine.sealer.settle(fs.engine.files.dirty())
        assert len(list(packs_in(place.cache_dir / "packs"))) == 1
    (place.cache_dir / "packs" / "a fetch in progress.tmp").write_bytes(b"half")
    async with running(place) as fs:
        assert list_names(fs) == [b"snapshots"]
        assert list((place.cache_dir / "packs").iterdir()) == []
    assert findings(place) == []


async def test_unlinked_open_files_go_at_the_next_mount(place: Place) -> None:
    async with crashing(place) as fs:
        inode = await make_file(fs, b"f", noise(1, MIB))
        handle = await fs.open(inode, os.O_RDWR)
        await fs.unlink(1, b"f")
        await write_all(fs, handle, noise(2, 1000))
        await fs.fsync(handle)
        assert fs.engine.tree.orphans() == [inode]
    async with running(place) as fs:
        assert fs.engine.tree.orphans() == []
        assert fs.engine.tree.find_attr(inode) is None
        await fs.engine.housekeeper.wait_idle()
    assert rows(place, "SELECT count(*) FROM extent") == [(0,)]
    assert findings(place) == []


@pytest.mark.log_warnings
@pytest.mark.parametrize("how", ["flipped", "short", "unreadable", "gone"])
async def test_an_open_pack_that_the_disk_has_spoilt(
    place: Place, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The mount comes up all the same, what is not lost is there, and nothing new refers to what is."""
    data = [noise(number, 600_000) for number in range(4)]
    async with crashing(place) as fs:
        for number, piece in enumerate(data):
            await write_durably(fs, b"f%d" % number, piece)
        await fs.unlink(1, b"f3")
        await fs.engine.housekeeper.wait_idle()
        await fs.commit()
        (path,) = packs_in(place.cache_dir / "packs")
    if how == "gone":
        path.unlink()
    elif how == "short":
        os.truncate(path, 700_000)
    elif how == "flipped":
        with path.open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"spoilt")
    else:
        real = PackFiles.read

        def read(self: PackFiles, salt: bytes, *, start: int, length: int) -> bytes | None:
            if salt.hex() == path.stem and start > 600_000:
                raise LocalDiskError("the disk of the cache directory failed: Input/output error")
            return real(self, salt, start=start, length=length)

        monkeypatch.setattr(PackFiles, "read", read)
    async with running(place) as fs:
        good = []
        for number in range(3):
            try:
                assert await read_all(fs, fs.lookup(1, b"f%d" % number).ino) == data[number]
                good.append(number)
            except IntegrityError:
                pass
        assert good == {"gone": [], "short": [0], "flipped": [0, 2], "unreadable": [0]}[how]
        for number in range(4):
            await make_file(fs, b"again %d" % number, data[number])
        await fs.commit()
        for number in range(4):
            assert await read_all(fs, fs.lookup(1, b"again %d" % number).ino) == data[number]
        for number in range(3):  # which repairs what was lost
            assert await read_all(fs, fs.lookup(1, b"f%d" % number).ino) == data[number]
    async with running(place.with_empty_cache("elsewhere"), read_only=True) as fs:
        for number in range(4):
            assert await read_all(fs, fs.lookup(1, b"again %d" % number).ino) == data[number]


async def test_recovery_takes_bounded_memory(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that compresses a thousandfold fits into one pack by the gigabyte."""
    monkeypatch.setattr("cubefs.engine.recovery.BATCH_BYTES", MIB)
    async with crashing(place) as fs:
        for number in range(8):
            await write_durably(fs, b"f%d" % number, (b"%d" % number) * (MIB // 2))
    sizes = []
    real = Sealer.reseal

    async def reseal(self: Sealer, blocks: Sequence[NewBlock]) -> None:
        sizes.append(sum(len(block.data) for block in blocks))
        await real(self, list(blocks))

    monkeypatch.setattr(Sealer, "reseal", reseal)
    async with running(place) as fs:
        assert sum(sizes) == 8 * (MIB // 2)
        assert max(sizes) <= 2 * MIB
        assert len(sizes) >= 3
        for number in range(8):
            assert await read_all(fs, fs.lookup(1, b"f%d" % number).ino) == (b"%d" % number) * (MIB // 2)
    assert findings(place) == []


async def test_a_pack_of_many_small_blocks_is_decoded_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with crashing(place) as fs:
        for number in range(300):
            await make_file(fs, b"f%d" % number, b"contents %d" % number)
        await fs.commit()
    decoded = 0
    real = PackCipher.open_frame

    def open_frame(self: PackCipher, number: int, stored: bytes | memoryview, *, plain_bytes: int) -> bytes:
        nonlocal decoded
        decoded += 1
        return real(self, number, stored, plain_bytes=plain_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(PackCipher, "open_frame", open_frame)
        async with crashing(place):
            assert decoded <= 10
    async with running(place) as fs:
        assert await read_all(fs, fs.lookup(1, b"f123").ino) == b"contents 123"


async def test_local_packs_know_their_states_after_a_crash(place: Place) -> None:
    async with crashing(place) as fs:
        await write_durably(fs, b"f", noise(1, MIB))
        await fs.sync()
        await fs.commit()
        await write_durably(fs, b"g", noise(2, MIB))
    async with crashing(place) as fs:
        states = sorted(row[0] for row in fs.engine.database.execute("SELECT state FROM local_pack"))
        assert states == [PackState.OPEN, PackState.STORED]
        assert fs.engine.local.dirty_bytes >= 0
        assert len(list(packs_in(place.cache_dir / "packs"))) == 2
