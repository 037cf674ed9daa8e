"""Uploading and shipping with a store that fails, lies, is full, is down for a while, or has another writer."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest
import trio

from cubefs.errors import (
    CubefsError,
    FencedError,
    LocalDiskError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from cubefs.format import names
from cubefs.format.keys import object_hash
from cubefs.fs.filesystem import FileSystem
from cubefs.model import MIB, PackState
from tests.support.calls import make_file, read_all
from tests.support.database import rows
from tests.support.driver import Place
from tests.support.engines import crashing, findings, noise, packs_in, quick_retries, running, wait_until
from tests.support.faulty_store import FaultyStore

DATA = noise(7, 2 * MIB)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick_retries(monkeypatch)


def spoilt(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def check_store(place: Place) -> None:
    """Every pack in the store has the bytes that its name says."""
    found = 0
    for path in (place.store_dir / "packs").rglob("*"):
        if path.is_file():
            assert object_hash(path.read_bytes()).hex() == path.name
            found += 1
    assert found


async def check_elsewhere(place: Place, inode: int, data: bytes = DATA) -> None:
    """Another machine sees the same."""
    other = place.with_empty_cache("elsewhere")
    async with running(other, read_only=True) as fs:
        assert await read_all(fs, inode) == data
    assert findings(other, is_shipped=True) == []


@pytest.mark.log_warnings
@pytest.mark.parametrize("verb", ["put", "get", "put_new"])
@pytest.mark.parametrize(
    "error", [StoreUnavailableError("down"), StoreFullError("full"), StoreDeniedError("no"), StoreError("odd")]
)
async def test_a_store_that_fails_for_a_while(place: Place, verb: str, error: StoreError) -> None:
    """Nothing is lost, sync waits and goes on by itself; reads and writes do not notice."""
    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        inode = await make_file(fs, b"f", DATA)
        store.fail(verb, error, times=3)
        await fs.sync()
        assert fs.engine.uploader.last_error is None
        assert fs.engine.shipper.last_error is None
        assert not fs.engine.uploader.unstored
    check_store(place)
    await check_elsewhere(place, inode)
    assert findings(place) == []


@pytest.mark.log_warnings
@pytest.mark.parametrize("verb", ["put", "put_new"])
async def test_an_answer_that_is_lost(place: Place, verb: str) -> None:
    """The store did it, but we do not know: the retry finds its own bytes."""
    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        inode = await make_file(fs, b"f", DATA)
        store.fail(verb, StoreUnavailableError("no answer"), times=2, done=True)
        await fs.sync()
    check_store(place)
    await check_elsewhere(place, inode)


@pytest.mark.log_warnings
@pytest.mark.parametrize("verb", ["put", "get", "put_new"])
@pytest.mark.parametrize("times", [1, 4])
async def test_a_store_that_keeps_or_returns_other_bytes(place: Place, verb: str, times: int) -> None:
    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        inode = await make_file(fs, b"f", DATA)
        store.spoil(verb, spoilt, times=times)
        await fs.sync()
    check_store(place)
    await check_elsewhere(place, inode)


@pytest.mark.log_warnings
async def test_wrong_bytes_are_never_called_stored(place: Place) -> None:
    store = FaultyStore(place.store())
    async with crashing(place, store=store) as fs:
        await make_file(fs, b"f", DATA)
        store.spoil("put", spoilt, times=1000)
        with trio.move_on_after(0.5):
            await fs.sync()
        assert fs.engine.uploader.last_error is not None
        assert fs.engine.uploader.unstored
        assert await fs.engine.local.evict(target_bytes=0) == 0
        states = fs.engine.database.execute("SELECT state FROM local_pack").fetchall()
        assert (PackState.STORED,) not in states
        assert list(place.store().list(names.META)) == []
    async with running(place) as fs:  # an honest store again
        assert fs.lookup(1, b"f").size_bytes == len(DATA)
    check_store(place)


@pytest.mark.log_warnings
async def test_a_pack_spoilt_on_the_local_disk_is_not_uploaded(place: Place) -> None:
    """The store would keep, and prove, bytes that nobody wrote."""
    async with crashing(place) as fs:
        inode = await make_file(fs, b"f", DATA)
        await fs.commit()
        async with fs.engine.sealer.pack_lock:
            await fs.engine.sealer.close_pack()
        (path,) = packs_in(place.cache_dir / "packs")
        good = path.read_bytes()
        path.write_bytes(good[:1000] + spoilt(good[1000:2000]) + good[2000:])
        with trio.move_on_after(0.5):
            await fs.sync()
        assert "bytes" in (fs.engine.uploader.last_error or "")
        assert not (place.store_dir / "packs").exists() or not list((place.store_dir / "packs").rglob("*.*"))
        assert list(place.store().list(names.PACKS)) == []
        path.write_bytes(good)
        await fs.sync()
        assert await read_all(fs, inode) == DATA
    check_store(place)
    await check_elsewhere(place, inode)


@pytest.mark.log_warnings
async def test_commits_go_on_while_the_store_is_down(place: Place) -> None:
    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        is_down = True

        def refuse(verb: str, name: str) -> None:
            if is_down:
                raise StoreUnavailableError("down")

        store.hook = refuse
        inodes = []
        for number in range(5):
            inodes.append(await make_file(fs, b"f%d" % number, noise(number, 300_000)))
            handle = await fs.open(inodes[-1], os.O_RDONLY)
            await fs.fsync(handle)
            fs.release(handle)
            await fs.snapshot_create(b"s%d" % number)
        assert fs.engine.shipper.seq == 0
        assert fs.engine.outbox.size()[0] >= 5
        is_down = False
        await fs.sync()
        assert fs.engine.shipper.seq >= 1
    for number, inode in enumerate(inodes):
        await check_elsewhere(place, inode, noise(number, 300_000))


@pytest.mark.log_warnings
async def test_a_crash_while_the_store_is_down(place: Place) -> None:
    """The next mount ships what was committed, with its packs first."""
    store = FaultyStore(place.store())
    async with crashing(place, store=store) as fs:
        store.fail("put", StoreUnavailableError("down"), times=10_000)
        inode = await make_file(fs, b"f", DATA)
        with trio.move_on_after(0.3):
            await fs.sync()
        assert fs.engine.uploader.unstored
    order: list[str] = []
    store = FaultyStore(place.store())
    store.hook = lambda verb, name: order.append(name) if verb in ("put", "put_new") else None
    async with running(place, store=store) as fs:
        await fs.sync()
    assert order[0].startswith(names.PACKS)
    assert order[-1].startswith(names.META)
    await check_elsewhere(place, inode)
    assert findings(place) == []


async def test_packs_are_stored_before_the_commit_that_needs_them(place: Place) -> None:
    """Slow packs hold back their own commit and none of the reads and local commits."""
    store = FaultyStore(place.store())
    release = threading.Event()
    shipped: list[str] = []

    def hook(verb: str, name: str) -> None:
        if verb == "put" and name.startswith(names.PACKS):
            release.wait(10)
        if verb == "put_new":
            shipped.append(name)

    store.hook = hook
    async with running(place, store=store) as fs:
        inode = await make_file(fs, b"f", DATA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.sync)
            await wait_until(lambda: fs.engine.uploader._busy)
            await make_file(fs, b"g", b"more")
            await fs.commit()
            assert await read_all(fs, inode) == DATA
            assert shipped == []
            release.set()
        assert shipped[0] == names.meta(1)
    await check_elsewhere(place, inode)


async def test_later_commits_do_not_delay_an_earlier_one(place: Place) -> None:
    """Packs completed after a cut are not waited for."""
    store = FaultyStore(place.store())
    release = threading.Event()
    held: list[str] = []

    def hook(verb: str, name: str) -> None:
        if verb == "put" and name.startswith(names.PACKS):
            held.append(name)
            if len(held) > 1:
                release.wait(10)

    store.hook = hook
    async with running(place, store=store) as fs:
        await make_file(fs, b"f", DATA)
        await fs.sync()
        seq = fs.engine.shipper.seq
        await make_file(fs, b"g", noise(9, MIB))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.sync)
            await wait_until(lambda: len(held) == 2)
            assert fs.engine.shipper.seq == seq
            release.set()
        assert fs.engine.shipper.seq > seq


@pytest.mark.log_warnings
async def test_another_writer_fences(place: Place) -> None:
    """The log has an object of somebody else: changes are refused for good, reads go on, nothing is overwritten."""
    async with crashing(place) as fs:
        inode = await make_file(fs, b"mine", DATA)
        await fs.sync()
        seq = fs.engine.shipper.seq
        async with running(place.with_empty_cache("thief")) as thief:
            await make_file(thief, b"theirs", b"theirs")
        taken = {info.name: place.store().get(info.name) for info in place.store().list(names.META)}
        assert len(taken) > seq
        unshipped = await make_file(fs, b"unshipped", noise(1, 1000))
        with pytest.raises(FencedError):
            await fs.sync()
        await refuses_changes(fs)
        assert await read_all(fs, inode) == DATA
        assert await read_all(fs, unshipped) == noise(1, 1000)
        assert fs.status is not None
        for name, data in taken.items():
            assert place.store().get(name) == data
    with pytest.raises(FencedError):
        async with running(place):
            pass


async def refuses_changes(fs: FileSystem) -> None:
    handle = await fs.open(fs.lookup(1, b"mine").ino, os.O_RDWR)
    for attempt in (
        lambda: make_file(fs, b"new", b"x"),
        lambda: fs.write(handle, 0, b"x"),
        lambda: fs.unlink(1, b"mine"),
        lambda: fs.fsync(handle),
        lambda: fs.snapshot_create(b"s"),
        lambda: fs.sync(),
    ):
        with pytest.raises(CubefsError) as caught:
            await attempt()
        assert isinstance(caught.value, FencedError)
    fs.release(handle)


@pytest.mark.log_warnings
async def test_a_full_cache_makes_writers_wait_for_the_store(place: Place) -> None:
    store = FaultyStore(place.store())
    async with running(
        place, store=store, cache_limit_bytes=4 * MIB, dirty_limit_bytes=2 * MIB, commit_interval_s=0.02
    ) as fs:
        is_down = True

        def refuse(verb: str, name: str) -> None:
            if is_down and name.startswith(names.PACKS):
                raise StoreUnavailableError("down")

        store.hook = refuse
        data = noise(3, 30 * MIB)
        inode = await make_file(fs, b"f")
        handle = await fs.open(inode, os.O_RDWR)
        written = 0

        async def write() -> None:
            nonlocal written
            for start in range(0, len(data), MIB):
                await fs.write(handle, start, data[start : start + MIB])
                written += MIB

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await wait_until(lambda: fs.engine.local.is_full_of_dirty)
            await trio.sleep(0.1)
            stopped_at = written
            await trio.sleep(0.1)
            assert written == stopped_at < len(data)
            is_down = False
        fs.release(handle)
        await fs.commit()
        assert await read_all(fs, inode) == data
        assert fs.engine.local.dirty_bytes <= fs.engine.local.total_bytes
    await check_elsewhere(place, inode, data)


def packs_bytes(place: Place) -> int:
    """Return the size of the local pack files."""
    total = 0
    for path in packs_in(place.cache_dir / "packs"):
        with contextlib.suppress(FileNotFoundError):  # evicted just now
            total += path.stat().st_size
    return total


async def test_the_cache_keeps_to_its_limit(place: Place) -> None:
    async with running(place, cache_limit_bytes=9 * MIB, commit_interval_s=0.02) as fs:
        inodes = [await make_file(fs, b"f%d" % number, noise(number, 5 * MIB)) for number in range(6)]
        await fs.sync()
        await wait_until(lambda: packs_bytes(place) <= 9 * MIB)
        assert fs.engine.local.total_bytes <= 9 * MIB
        for number, inode in enumerate(inodes):
            assert await read_all(fs, inode) == noise(number, 5 * MIB)
    assert findings(place) == []


async def test_a_long_outbox_is_shipped_in_several_objects(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log object has a size limit; changesets that waited for days for the store must not exceed it."""
    monkeypatch.setattr("cubefs.engine.shipping.OBJECT_CHANGES_BYTES", 20_000)
    store = FaultyStore(place.store())
    release = threading.Event()

    def hold(verb: str, name: str) -> None:
        if verb == "put":
            release.wait(10)

    store.hook = hold
    async with running(place, store=store) as fs:
        for number in range(10):
            for file in range(50):
                await make_file(fs, b"file %d %d" % (number, file))
            await make_file(fs, b"data %d" % number, noise(number, 1000))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fs.engine.committer.commit)
            await fs.engine.committer.commit(everything=True, cut=True)
        release.set()
        await fs.sync()
        assert fs.engine.shipper.seq > 3
    async with running(place.with_empty_cache("elsewhere"), read_only=True) as fs:
        for number in range(10):
            assert await read_all(fs, fs.lookup(1, b"data %d" % number).ino) == noise(number, 1000)
            assert fs.lookup(1, b"file %d 49" % number)


async def test_what_is_shipped_is_what_is_here(place: Place, tmp_path: Path) -> None:
    """After a sync, every shipped table has the same rows in a database rebuilt elsewhere."""
    async with running(place) as fs:
        for number in range(20):
            await make_file(fs, b"f%d" % number, noise(number % 7, 50_000))
        await fs.snapshot_create(b"s")
        for number in range(0, 20, 3):
            await fs.unlink(1, b"f%d" % number)
        await fs.sync()
        await fs.rename(1, b"f1", 1, b"g1")
        await fs.engine.housekeeper.wait_idle()
    elsewhere = place.with_empty_cache("elsewhere")
    async with running(elsewhere, read_only=True):
        pass
    for table in ("inode", "dentry", "extent", "block", "pack", "frame", "snapshot", "inode_history", "counter"):
        assert rows(place, f"SELECT * FROM {table} ORDER BY 1, 2") == rows(
            elsewhere, f"SELECT * FROM {table} ORDER BY 1, 2"
        )


@pytest.mark.log_warnings
async def test_packs_that_cannot_be_stored_do_not_keep_others_back(place: Place) -> None:
    store = FaultyStore(place.store())
    refused: set[str] = set()

    def refuse(verb: str, name: str) -> None:
        if verb == "put" and name.startswith(names.PACKS) and (len(refused) < 8 or name in refused):
            refused.add(name)
            raise StoreDeniedError("not this one")

    store.hook = refuse
    async with crashing(place, store=store) as fs:
        for number in range(20):
            await make_file(fs, b"f%d" % number, noise(number, MIB))
            await fs.engine.committer.commit(everything=True, cut=True)
        await wait_until(lambda: len(fs.engine.uploader.unstored) == 8)
        assert fs.counters()["store_error"] == "not this one"  # also while others succeed
        store.hook = lambda verb, name: None
        await fs.sync()
        assert fs.counters()["store_error"] is None


@pytest.mark.log_warnings
async def test_a_mistake_in_a_driver_ends_no_mount(place: Place) -> None:
    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        for verb in ("put", "get", "put_new"):
            store.fail(verb, LookupError("a bug"), times=3)
        await make_file(fs, b"f", DATA)
        await fs.sync()
        assert fs.engine.gate.failure is None


@pytest.mark.log_warnings
async def test_a_failing_local_disk_ends_changes_but_not_the_mount(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with crashing(place) as fs:
        inode = await make_file(fs, b"f", DATA)
        await fs.commit()

        def fail(salt: bytes) -> None:
            raise LocalDiskError("the disk is broken")

        monkeypatch.setattr(fs.engine.local, "mark_stored", fail)
        with pytest.raises(LocalDiskError):
            await fs.sync()
        assert isinstance(fs.engine.gate.failure, LocalDiskError)
        assert await read_all(fs, inode) == DATA
