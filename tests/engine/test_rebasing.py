"""New bases: written beside everything else, of exactly one cut, and of use to a machine with an empty cache."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import trio

from cubefs.db.database import checkpoint
from cubefs.db.image import PinnedImage
from cubefs.engine import metalog
from cubefs.errors import LocalDiskError, StoreUnavailableError
from cubefs.format import names
from cubefs.fs.filesystem import FileSystem
from tests.support.calls import list_names, make_file, read_all
from tests.support.driver import Place
from tests.support.engines import (
    copy_as_killed,
    findings,
    noise,
    quick_retries,
    running,
    wait_until,
)
from tests.support.faulty_store import FaultyStore


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a log of some kB be too long."""
    monkeypatch.setattr("cubefs.engine.rebasing.LOG_MIN_BYTES", 1000)
    quick_retries(monkeypatch)


def bases(place: Place) -> list[int]:
    """Return the seqs of the complete bases."""
    found = (names.parse_base_manifest(info.name) for info in place.store().list(names.BASE))
    return [seq for seq in found if seq is not None]


async def work(fs: FileSystem, round_number: int) -> None:
    """Change names and data, enough for the log to grow."""
    for number in range(40):
        await make_file(fs, b"file %d %d" % (round_number, number), noise(number, 700))
    if round_number:
        for number in range(0, 40, 3):
            name = b"file %d %d" % (round_number - 1, number)
            if fs.find_child(1, name) is not None:
                await fs.unlink(1, name)
    await fs.snapshot_create(b"snapshot %d" % round_number)


async def contents(fs: FileSystem) -> dict[bytes, bytes]:
    """Return all files, those of the snapshots as well."""
    found = {}
    roots = {b"": 1} | {snapshot.name: snapshot.number << 40 | 1 for snapshot in fs.snapshot_list()}
    for prefix, root in roots.items():
        for name in list_names(fs, root):
            if name != b"snapshots":
                found[prefix + b"/" + name] = await read_all(fs, fs.lookup(root, name).ino)
    return found


async def test_a_machine_with_an_empty_cache_sees_the_same(place: Place) -> None:
    async with running(place) as fs:
        for round_number in range(5):
            await work(fs, round_number)
            await fs.sync()
        expected = await contents(fs)
    assert len(bases(place)) >= 2
    elsewhere = place.with_empty_cache("elsewhere")
    async with running(elsewhere, read_only=True) as fs:
        assert await contents(fs) == expected
    assert findings(elsewhere, is_shipped=True) == []
    async with running(place) as fs:  # and the writer goes on
        await work(fs, 9)
        expected = await contents(fs)
    async with running(place.with_empty_cache("third"), read_only=True) as fs:
        assert await contents(fs) == expected


async def test_commits_while_a_base_is_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing a base takes as long as it takes: cuts go on meanwhile, and so does the database."""
    entered, release = threading.Event(), threading.Event()
    real = PinnedImage.write

    def write(self: PinnedImage, target: Path) -> None:
        entered.set()
        release.wait(10)
        real(self, target)

    monkeypatch.setattr(PinnedImage, "write", write)
    async with running(place) as fs:
        await work(fs, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.sync)
            with trio.fail_after(5):
                round_number = 1
                while not entered.is_set():
                    await work(fs, round_number)
                    nursery.start_soon(fs.sync)
                    await trio.sleep(0.05)
                    round_number += 1
                for more in range(3):
                    await work(fs, round_number + more)
                    await fs.engine.committer.commit(everything=True, cut=True)
            release.set()
        expected = await contents(fs)
    assert len(bases(place)) >= 2
    async with running(place.with_empty_cache("elsewhere"), read_only=True) as fs:
        assert await contents(fs) == expected


@pytest.mark.log_warnings
async def test_a_store_that_refuses_a_base(place: Place) -> None:
    store = FaultyStore(place.store())

    def refuse(verb: str, name: str) -> None:
        if verb in ("put", "put_new") and name.startswith(names.BASE):
            raise StoreUnavailableError("not now")

    store.hook = refuse
    async with running(place, store=store) as fs:
        for round_number in range(3):
            await work(fs, round_number)
            await fs.sync()
        assert bases(place) == [0]
        store.hook = lambda verb, name: None
        await work(fs, 5)
        await fs.sync()
        expected = await contents(fs)
    assert len(bases(place)) >= 2
    async with running(place.with_empty_cache("elsewhere"), read_only=True) as fs:
        assert await contents(fs) == expected


@pytest.mark.log_warnings
async def test_nothing_is_pinned_while_the_store_is_down(place: Place) -> None:
    """A pinned state keeps the WAL from ever being emptied."""
    store = FaultyStore(place.store())
    async with running(place, store=store) as fs:
        await work(fs, 0)
        await fs.sync()
        await work(fs, 1)
        is_down = True

        def refuse(verb: str, name: str) -> None:
            if is_down:
                raise StoreUnavailableError("down")

        store.hook = refuse
        await fs.engine.committer.commit(everything=True, cut=True)
        await wait_until(lambda: fs.engine.uploader.last_error or fs.engine.shipper.last_error)
        await work(fs, 2)
        await fs.engine.committer.commit(everything=True, cut=True)
        with fs.engine.database.operation():
            fs.engine.database.execute("DELETE FROM local_pack WHERE salt = zeroblob(32)")
        fs.engine.database.commit(cut=False, time_ns=0)
        await trio.to_thread.run_sync(checkpoint, fs.engine.database.path)
        fs.engine.database.commit(cut=False, time_ns=0, truncate_wal=True)
        assert (place.cache_dir / "db.sqlite-wal").stat().st_size == 0
        is_down = False
        await fs.sync()


async def test_a_crash_between_the_base_and_its_note(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    real = metalog.write_base

    def write_base(*arguments: object, **keywords: object) -> int:
        outcome = real(*arguments, **keywords)  # type: ignore[arg-type]
        copies.append(copy_as_killed(place, tmp_path / f"copy {len(copies)}"))
        return outcome

    monkeypatch.setattr(metalog, "write_base", write_base)
    async with running(place) as fs:
        for round_number in range(3):
            await work(fs, round_number)
            await fs.sync()
    assert copies
    monkeypatch.undo()
    copy = copies[0]
    async with running(copy) as fs:
        assert b"file 0 1" in list_names(fs)
        await work(fs, 7)
        expected = await contents(fs)
    async with running(copy.with_empty_cache("copied elsewhere"), read_only=True) as fs:
        assert await contents(fs) == expected
    assert findings(copy) == []


@pytest.mark.log_warnings
async def test_a_base_is_not_worth_a_full_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copies must never take the room that the next commit needs."""
    usage = shutil.disk_usage(place.store_dir)
    with monkeypatch.context() as patch:
        async with running(place) as fs:
            patch.setattr("cubefs.engine.rebasing.shutil.disk_usage", lambda path: usage._replace(free=100_000))
            for round_number in range(3):
                await work(fs, round_number)
                await fs.sync()
            assert fs.engine.gate.failure is None
            assert bases(place) == [0]
            patch.undo()
            await work(fs, 3)
            await fs.sync()
    assert len(bases(place)) >= 2


@pytest.mark.log_warnings
async def test_a_state_that_cannot_be_pinned_costs_a_base_and_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> PinnedImage:
        raise LocalDiskError("too many open files")

    async with running(place) as fs:
        await work(fs, 0)
        await fs.sync()
        monkeypatch.setattr("cubefs.engine.rebasing.pin", fail)
        await work(fs, 1)
        await fs.sync()
        assert fs.engine.gate.failure is None
        assert await contents(fs)
