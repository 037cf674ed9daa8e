"""Reading blocks: damage in the cache and in the store, repair, sharing, looking ahead, and time limits."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
import trio

from cubefs.errors import (
    IntegrityError,
    ObjectMissingError,
    PosixError,
    StoreBusyError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from cubefs.format import names
from cubefs.fs.filesystem import FileSystem
from cubefs.model import MIB, PackState
from tests.support.calls import make_file, read_all
from tests.support.driver import Place
from tests.support.engines import findings, noise, packs_in, quick_retries, running, wait_until
from tests.support.faulty_store import FaultyStore

DATA = noise(7, 3 * MIB)


async def store_file(place: Place, data: bytes = DATA, name: bytes = b"f") -> int:
    """Write a file in a mount of its own; return its inode number."""
    async with running(place) as fs:
        return await make_file(fs, name, data)


def damage(path: Path, *, at: float = 0.5) -> None:
    """Change one byte of a file in place."""
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def stored_packs(place: Place) -> list[Path]:
    """Return the packs in the store."""
    return sorted(path for path in (place.store_dir / "packs").rglob("*") if path.is_file())


def damaged_count(fs: FileSystem) -> int:
    count: int = fs.engine.database.execute("SELECT count(*) FROM block WHERE damaged = 1").get
    return count


async def is_readable(fs: FileSystem, inode: int, start: int) -> bool:
    """Tell whether 1000 bytes at `start` can be read; they must be right."""
    try:
        assert await read_all(fs, inode, offset=start, size=1000) == DATA[start : start + 1000]
    except IntegrityError:
        return False
    return True


@pytest.mark.log_warnings
@pytest.mark.parametrize("how", ["flipped", "short", "gone"])
async def test_a_damaged_copy_in_the_cache_is_fetched_again(place: Place, how: str) -> None:
    inode = await store_file(place)
    async with running(place) as fs:
        (path,) = packs_in(place.cache_dir / "packs")
        whole = path.read_bytes()
        if how == "flipped":
            damage(path)
        elif how == "short":
            os.truncate(path, len(whole) // 2)
        else:
            path.unlink()
        assert await read_all(fs, inode) == DATA
        assert path.read_bytes() == whole
        assert fs.engine.reader.statistics().packs_fetched == 1
        assert damaged_count(fs) == 0
    assert findings(place) == []


@pytest.mark.log_warnings
@pytest.mark.parametrize("how", ["flipped", "short", "empty", "gone"])
async def test_damage_in_the_store_is_named_and_writing_the_same_again_repairs_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    quick_retries(monkeypatch)
    inode = await store_file(place)
    (path,) = stored_packs(place)
    if how == "flipped":
        damage(path)
    elif how == "gone":
        path.unlink()
    else:
        path.chmod(0o600)
        os.truncate(path, 0 if how == "empty" else path.stat().st_size // 3)
    other = place.with_empty_cache("other")
    async with running(other) as fs:
        with pytest.raises(IntegrityError, match="packs/"):
            await read_all(fs, inode)
        assert damaged_count(fs) > 0
        if how == "flipped":  # what authenticates is served
            assert sum([await is_readable(fs, inode, start) for start in range(0, len(DATA), 100_000)]) > 5
        for turn in range(8):  # each pass finds the next damaged block
            await make_file(fs, b"again %d" % turn, DATA)
            await fs.commit()
            try:
                assert await read_all(fs, inode) == DATA
                break
            except IntegrityError:
                pass
        assert await read_all(fs, inode) == DATA
        assert damaged_count(fs) == 0
    assert findings(other) == []
    async with running(place.with_empty_cache("third")) as fs:
        assert await read_all(fs, inode) == DATA


@pytest.mark.log_warnings
async def test_a_damaged_pack_that_is_not_stored_is_named(place: Place) -> None:
    async with running(place) as fs:
        inode = await make_file(fs, b"f", DATA)
        await fs.commit()
        (path,) = packs_in(place.cache_dir / "packs")
        damage(path, at=0.1)
        with pytest.raises(IntegrityError, match=r"\.pack"):
            await read_all(fs, inode)
        assert damaged_count(fs) >= 1
        damage(path, at=0.1)  # put it right, so that the end can drain
        assert await read_all(fs, inode) == DATA


@pytest.mark.log_warnings
async def test_a_local_file_that_went_before_it_was_stored_is_not_forgotten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has cleared the cache: an error that names the file, and it is not taken for a cached copy."""
    async with running(place) as fs:
        inode = await make_file(fs, b"f", DATA)
        await fs.commit()
        (path,) = packs_in(place.cache_dir / "packs")
        aside = path.with_suffix(".aside")
        path.rename(aside)
        with pytest.raises(IntegrityError, match=r"\.pack"):
            await read_all(fs, inode)
        assert fs.engine.local.has(bytes.fromhex(path.stem))
        aside.rename(path)
        assert await read_all(fs, inode) == DATA


async def test_readers_of_one_pack_share_a_fetch(place: Place) -> None:
    data = noise(8, 512 * 1024)
    inode = await store_file(place, data)
    store = FaultyStore(place.store())
    async with running(place.with_empty_cache("other"), store=store) as fs:
        store.calls.clear()
        results = []

        async def read() -> None:
            results.append(await read_all(fs, inode))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
        assert results == [data] * 20
        assert store.calls["get"] == 1
        assert fs.engine.reader.statistics().frames_decoded == 1


async def test_a_walk_in_the_order_of_writing_is_fetched_ahead(place: Place) -> None:
    async with running(place) as fs:
        inodes = []
        for number in range(4):
            inodes.append(await make_file(fs, b"f%d" % number, noise(number, 5 * MIB)))
            await fs.sync()  # a pack each
    async with running(place.with_empty_cache("other")) as fs:
        assert await read_all(fs, inodes[0]) == noise(0, 5 * MIB)
        await wait_until(lambda: fs.engine.reader.statistics().packs_fetched >= 3)
        await trio.sleep(0.02)
        assert fs.engine.reader.statistics().packs_fetched == 3  # the one that was read and two ahead


async def test_a_store_that_does_not_answer(place: Place) -> None:
    inode = await store_file(place)
    store = FaultyStore(place.store())
    release = threading.Event()

    def hold(name: str) -> None:
        if name.startswith(names.PACKS):
            release.wait(10)

    other = place.with_empty_cache("other")
    async with running(other, store=store, read_timeout_s=0.2) as fs:
        store.hook = lambda verb, name: hold(name)
        start = trio.current_time()
        with pytest.raises(StoreUnavailableError, match="no answer"):
            await read_all(fs, inode)
        assert trio.current_time() - start < 2
        release.set()
        assert await read_all(fs, inode) == DATA


DOWN = StoreUnavailableError("down")


@pytest.mark.log_warnings
@pytest.mark.parametrize("error", [DOWN, StoreDeniedError("revoked"), StoreBusyError("busy", retry_after_s=0.01)])
async def test_a_reader_waits_for_a_store_that_comes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: StoreError
) -> None:
    quick_retries(monkeypatch)
    inode = await store_file(place)
    store = FaultyStore(place.store())
    async with running(place.with_empty_cache("other"), store=store) as fs:
        store.fail("get", error, times=20)
        assert await read_all(fs, inode) == DATA
        assert damaged_count(fs) == 0
        assert fs.engine.reader.waiting_count == 0
        assert fs.engine.reader.trouble.last_error is None


@pytest.mark.log_warnings
async def test_a_reader_waits_so_long_and_no_longer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The read fails with EIO, says why, and the next one goes on when the store is back."""
    quick_retries(monkeypatch)
    inode = await store_file(place)
    store = FaultyStore(place.store())
    async with running(place.with_empty_cache("other"), store=store, read_timeout_s=0.3) as fs:
        store.fail("get", StoreDeniedError("credentials revoked"), times=100_000)
        with pytest.raises(StoreUnavailableError, match=r"did not deliver in 0 s: credentials revoked") as caught:
            await read_all(fs, inode)
        assert caught.value.errno == errno.EIO
        assert fs.counters()["store_error"] == "credentials revoked"
        store._failures.clear()
        assert await read_all(fs, inode) == DATA
        assert damaged_count(fs) == 0
        assert fs.counters()["store_error"] is None


@pytest.mark.log_warnings
async def test_waiting_readers_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_retries(monkeypatch)
    inode = await store_file(place)
    store = FaultyStore(place.store())
    async with running(place.with_empty_cache("other"), store=store) as fs, trio.open_nursery() as nursery:
        store.fail("get", DOWN, times=100_000)
        for _ in range(3):
            nursery.start_soon(read_all, fs, inode)
        await wait_until(lambda: fs.counters()["readers_waiting_for_store"] == 3)
        store._failures.clear()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_store_that_returns_wrong_bytes_for_a_moment(
    place: Place, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """They are asked for again: neither the pack nor its blocks count as damaged, and nobody is warned."""
    quick_retries(monkeypatch)
    inode = await store_file(place)
    store = FaultyStore(place.store())
    async with running(place.with_empty_cache("other"), store=store) as fs:
        store.spoil("get", lambda data: data[:-1] + bytes([data[-1] ^ 1]), times=times)
        assert await read_all(fs, inode) == DATA
        assert damaged_count(fs) == 0
        assert store.calls["get_range"] == 0  # the pack is kept whole


async def test_a_store_that_misses_a_pack_for_a_moment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_retries(monkeypatch)
    inode = await store_file(place)
    store = FaultyStore(place.store())
    async with running(place.with_empty_cache("other"), store=store) as fs:
        store.fail("get", ObjectMissingError("not yet"), times=2)
        assert await read_all(fs, inode) == DATA


@pytest.mark.log_warnings
async def test_a_missing_pack_is_not_asked_for_again_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore of thousands of files must not wait for the same answer thousands of times."""
    quick_retries(monkeypatch)
    inode = await store_file(place)
    (path,) = stored_packs(place)
    kept = path.read_bytes()
    path.unlink()
    store = FaultyStore(place.store())
    async with running(place.with_empty_cache("other"), store=store) as fs:
        for _ in range(4):
            assert not await is_readable(fs, inode, 1000)
        assert store.calls["get"] - store.calls["list"] <= 8  # those of the mount, and three for the pack
        asked = store.calls["get"]
        assert not await is_readable(fs, inode, 2 * MIB)
        assert store.calls["get"] == asked
        path.write_bytes(kept)
        monkeypatch.setattr("cubefs.engine.reading._BAD_S", -1.0)
        for pack in fs.engine.reader._packs.values():
            pack.bad_until_s = -1.0  # as after some minutes
        assert await read_all(fs, inode) == DATA


async def test_an_open_file_of_a_deleted_snapshot_is_stale(place: Place) -> None:
    """Its extents are being dropped: zeros in their place would be a silently wrong restore."""
    async with running(place) as fs:
        inode = await make_file(fs, b"f", DATA)
        snapshot = await fs.snapshot_create(b"s")
        await fs.unlink(1, b"f")
        handle = await fs.open(snapshot.number << 40 | inode, os.O_RDONLY)
        assert bytes(await fs.read(handle, 0, 1000)) == DATA[:1000]
        await fs.snapshot_remove(b"s")
        await fs.engine.housekeeper.wait_idle()
        with pytest.raises(PosixError, match="ESTALE"):
            await fs.read(handle, 0, 1000)
        fs.release(handle)


async def test_a_pack_that_cannot_be_kept_locally_is_read_all_the_same(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache too small for even one pack."""
    inode = await store_file(place)
    async with running(place.with_empty_cache("other"), cache_limit_bytes=1) as fs:
        assert await read_all(fs, inode) == DATA


async def test_eviction_spares_what_is_not_stored(place: Place) -> None:
    async with running(place) as fs:
        stored = await make_file(fs, b"stored", noise(1, 2 * MIB))
        await fs.sync()
        await fs.commit()
        closed = await make_file(fs, b"closed", noise(2, 2 * MIB))
        await fs.commit()
        async with fs.engine.sealer.pack_lock:
            await fs.engine.sealer.close_pack()  # complete, its commit has not happened
        open_file = await make_file(fs, b"open", noise(3, 2 * MIB))
        assert len(list(packs_in(place.cache_dir / "packs"))) >= 2
        freed = await fs.engine.local.evict(target_bytes=0)
        assert freed > 0
        states = dict(fs.engine.database.execute("SELECT salt, state FROM local_pack"))
        assert PackState.STORED not in states.values()
        assert {path.stem for path in packs_in(place.cache_dir / "packs")} == {salt.hex() for salt in states}
        for inode, seed in ((stored, 1), (closed, 2), (open_file, 3)):
            assert await read_all(fs, inode) == noise(seed, 2 * MIB)
    assert findings(place) == []
