"""Commits: their order, what they include, who shares one, and when they happen by themselves."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
import trio

from cubefs.db.database import Database
from cubefs.engine.committing import _WalSync
from cubefs.engine.packs import PackWriter
from cubefs.errors import CubefsError, FencedError, LocalDiskError, PosixError
from cubefs.format import names
from cubefs.model import MIB, SetAttr
from tests.support.calls import ME, make_file, read_all, truncate, write_all, write_at
from tests.support.driver import Place
from tests.support.engines import copy_as_killed, crashing, findings, noise, running, wait_until
from tests.support.faulty_store import FaultyStore
from tests.support.power import PowerCut


def record(monkeypatch: pytest.MonkeyPatch, log: list[str], owner: Any, method: str, label: str) -> None:
    """Note the end of each call of `owner.method`."""
    real: Callable[..., Any] = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        outcome = real(*args, **kwargs)
        log.append(label)
        return outcome

    monkeypatch.setattr(owner, method, call)


async def test_the_order_of_the_steps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    async with running(place) as fs:
        record(monkeypatch, log, PackWriter, "append", "append")
        record(monkeypatch, log, PackWriter, "sync", "sync packs")
        record(monkeypatch, log, Database, "commit", "COMMIT")
        record(monkeypatch, log, _WalSync, "sync", "sync WAL")
        inode = await make_file(fs, b"f")
        handle = await fs.open(inode, os.O_RDWR)
        await fs.write(handle, 0, noise(1, 100_000))
        await fs.fsync(handle)
        log.append("acknowledge")
        assert log.index("append") < log.index("sync packs")
        at = log.index("COMMIT")
        assert log[at - 1 :] == ["sync packs", "COMMIT", "sync WAL", "acknowledge"]
        fs.release(handle)
        monkeypatch.undo()


async def test_concurrent_fsyncs_share_a_commit(place: Place) -> None:
    async with running(place) as fs:
        handles = []
        for number in range(30):
            inode = await make_file(fs, b"file %d" % number)
            handles.append(await fs.open(inode, os.O_RDWR))
            await fs.write(handles[-1], 0, b"data %d" % number)
        before = fs.engine.committer.commit_count
        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(fs.fsync, handle)
        assert fs.engine.committer.commit_count - before <= 2
        for handle in handles:
            fs.release(handle)


async def test_fsync_does_not_wait_for_files_that_nothing_relies_on(place: Place) -> None:
    async with running(place) as fs:
        big, small = await make_file(fs, b"big"), await make_file(fs, b"small")
        handles = [await fs.open(inode, os.O_RDWR) for inode in (big, small)]
        await write_all(fs, handles[0], noise(1, 3 * MIB))
        await fs.write(handles[1], 0, b"small")
        await fs.fsync(handles[1])
        state = fs.engine.files.find(big)
        assert state is not None
        assert state.is_dirty
        for handle in handles:
            fs.release(handle)


@pytest.mark.parametrize("change", ["rename", "link", "chmod", "truncate", "close", "xattr"])
async def test_what_relies_on_data_takes_it_along(place: Place, tmp_path: Path, change: str) -> None:
    """A commit for another file's sake includes unsealed data that a name or attribute change relied on."""
    async with running(place) as fs:
        inode, other = await make_file(fs, b"f"), await make_file(fs, b"other")
        handle, other_handle = await fs.open(inode, os.O_RDWR), await fs.open(other, os.O_RDWR)
        await fs.write(handle, 0, b"precious")
        if change == "rename":
            await fs.rename(1, b"f", 1, b"g")
        elif change == "link":
            await fs.link(inode, 1, b"g")
        elif change == "chmod":
            await fs.setattr(inode, SetAttr(mode=0o600), ME)
        elif change == "truncate":
            await truncate(fs, inode, 100)
        elif change == "xattr":
            await fs.setxattr(inode, b"user.x", b"y")
        else:
            fs.release(handle)
        await fs.fsync(other_handle)
        copy = copy_as_killed(place, tmp_path / "copy")
        if change != "close":
            fs.release(handle)
        fs.release(other_handle)
    async with running(copy) as fs:
        data = await read_all(fs, inode)
        assert data == (b"precious" + bytes(92) if change == "truncate" else b"precious")
    assert findings(copy) == []


async def test_an_action_runs_inside_the_commit(place: Place) -> None:
    async with running(place) as fs:
        seen = []

        def action() -> None:
            seen.append(fs.engine.gate.is_shut)
            fs.engine.database.execute("INSERT INTO orphan VALUES (99)")

        await fs.engine.committer.commit(action=action)
        assert seen == [True]
        assert fs.engine.database.changed_rows == 0
        with fs.engine.database.operation():
            fs.engine.database.execute("DELETE FROM orphan WHERE inode = 99")


async def test_an_action_that_fails_fails_alone(place: Place) -> None:
    async with running(place) as fs:
        inode = await make_file(fs, b"f", b"data")
        outcomes: list[object] = []

        def refuse() -> None:
            fs.engine.database.execute("INSERT INTO orphan VALUES (98)")
            raise PosixError(17)

        async def commit(action: Callable[[], None] | None) -> None:
            try:
                outcomes.append(await fs.engine.committer.commit(everything=True, action=action))
            except PosixError as error:
                outcomes.append(error.errno)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, refuse)
            nursery.start_soon(commit, None)
        assert 17 in outcomes
        assert len(outcomes) == 2
        assert fs.engine.gate.failure is None
        assert fs.engine.database.execute("SELECT count(*) FROM orphan").get == 0
        assert await read_all(fs, inode) == b"data"


@pytest.mark.log_warnings
async def test_an_action_on_a_lost_database_is_the_end(place: Place) -> None:
    async with crashing(place) as fs:
        await make_file(fs, b"f", b"data")

        def lose() -> None:
            fs.engine.database.execute("ROLLBACK")
            raise PosixError(17)

        with pytest.raises(CubefsError):
            await fs.engine.committer.commit(everything=True, action=lose)
        assert isinstance(fs.engine.gate.failure, LocalDiskError)
        with pytest.raises(LocalDiskError):
            await make_file(fs, b"g")


@pytest.mark.log_warnings
async def test_a_failed_sync_of_the_wal_is_not_acknowledged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with crashing(place) as fs:

        def fail(self: _WalSync) -> int:
            raise LocalDiskError("for the test")

        monkeypatch.setattr(_WalSync, "sync", fail)
        inode = await make_file(fs, b"f", b"data")
        handle = await fs.open(inode, os.O_RDWR)
        for _ in range(2):  # it stays so
            with pytest.raises(LocalDiskError):
                await fs.fsync(handle)
        assert await read_all(fs, inode) == b"data"
        with pytest.raises(LocalDiskError):
            await fs.write(handle, 0, b"more")


async def test_commits_by_themselves(place: Place) -> None:
    async with running(place, commit_interval_s=0.05) as fs:
        await make_file(fs, b"f", b"data")
        handle, _ = await fs.create(1, b"open", 0o644, os.O_RDWR, ME)
        await fs.write(handle, 0, b"not closed")
        committer = fs.engine.committer
        before = committer.commit_count
        await wait_until(lambda: committer.commit_count > before)
        await wait_until(lambda: not fs.engine.files.dirty())
        fs.release(handle)


async def test_an_idle_file_system_reaches_the_store(place: Place) -> None:
    """The recovery point holds although nothing changes after the last commit."""
    async with running(place, commit_interval_s=0.02, recovery_point_s=0.5) as fs:
        await make_file(fs, b"f", b"data")
        await fs.commit()
        seq = fs.engine.shipper.seq
        await wait_until(lambda: fs.engine.shipper.seq > seq)
        elsewhere = place.with_empty_cache("elsewhere")
        async with running(elsewhere, read_only=True) as other:
            assert await read_all(other, other.lookup(1, b"f").ino) == b"data"
        shipped = fs.engine.shipper.seq
        await trio.sleep(0.8)
        assert fs.engine.shipper.seq == shipped  # nothing is written when nothing changed


async def test_what_a_crash_left_reaches_the_store_without_a_change(place: Place) -> None:
    async with crashing(place) as fs:
        await make_file(fs, b"f", b"data")
        await fs.commit()
    async with running(place, commit_interval_s=0.02, recovery_point_s=0.2) as fs:
        await wait_until(lambda: fs.engine.outbox.first_waiting_ns() is None)
        assert fs.engine.shipper.seq > 0


async def test_no_pack_is_uploaded_before_the_commit_that_names_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that is completed while the commit's WAL is being synced waits for the next commit."""
    early = []

    def look(verb: str, name: str) -> None:
        if verb == "put" and name.startswith(names.PACKS):
            with contextlib.closing(
                apsw.Connection(str(place.cache_dir / "db.sqlite"), flags=apsw.SQLITE_OPEN_READONLY)
            ) as reader:
                named = {names.pack(row[0]) for row in reader.execute("SELECT name FROM pack WHERE name NOT NULL")}
            if name not in named:
                early.append(name)

    store = FaultyStore(place.store())
    store.hook = look
    async with running(place, store=store) as fs:
        real = _WalSync.sync
        token = trio.lowlevel.current_trio_token()

        async def close_a_pack() -> None:
            await fs.engine.sealer.settle(fs.engine.files.dirty())
            async with fs.engine.sealer.pack_lock:
                await fs.engine.sealer.close_pack()

        def sync(self: _WalSync) -> int:
            monkeypatch.setattr(_WalSync, "sync", real)
            trio.from_thread.run(make_file, fs, b"late", b"late", trio_token=token)
            trio.from_thread.run(close_a_pack, trio_token=token)
            return real(self)

        await make_file(fs, b"f", b"data")
        monkeypatch.setattr(_WalSync, "sync", sync)
        await fs.commit()
        await trio.sleep(0.1)
        assert store.calls["put"] == 0  # the first file's pack is open, the second's is not committed
        await fs.sync()
    assert early == []
    async with running(place) as fs:
        assert await read_all(fs, fs.lookup(1, b"late").ino) == b"late"


async def test_a_long_truncation_lets_others_work(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many extents go in steps, and between them the loop serves others."""
    monkeypatch.setattr("cubefs.fs.attributes._CLIP_ROWS", 100)
    async with running(place) as fs:
        inode = await make_file(fs, b"fragments")
        handle = await fs.open(inode, os.O_RDWR)
        for number in range(1500):
            await fs.write(handle, number * 10, b"%05d" % number)
        fs.release(handle)
        await fs.commit()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await trio.lowlevel.checkpoint()
            turns = 0
            await truncate(fs, inode, 5)
            assert turns >= 10
            nursery.cancel_scope.cancel()
        assert fs.getattr(inode).allocated_bytes == 5
        await write_at(fs, inode, 20, b"x")
        assert await read_all(fs, inode) == b"00000" + bytes(15) + b"x"
    assert findings(place) == []


async def test_data_that_comes_between_the_first_sync_and_the_gate(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sealed behind the gate, and its frames are synced before the rows that name them are committed."""
    power = PowerCut(monkeypatch)
    async with running(place) as fs:
        await make_file(fs, b"f", noise(1, 100_000))
        real = fs.engine.sealer.sync_packs
        count = 0

        async def sync_packs() -> None:
            nonlocal count
            await real()
            count += 1
            if count == 1:
                await make_file(fs, b"late", noise(2, 100_000))

        monkeypatch.setattr(fs.engine.sealer, "sync_packs", sync_packs)
        await fs.commit()
        copy = power.copy(place, tmp_path / "copy")
    async with running(copy) as fs:
        for name, seed in ((b"f", 1), (b"late", 2)):
            assert await read_all(fs, fs.lookup(1, name).ino) == noise(seed, 100_000)
    assert findings(copy) == []


@pytest.mark.log_warnings
async def test_a_gate_that_fails_while_a_commit_is_under_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fenced in the midst of a commit: whoever waits gets the error, nobody hangs, nothing is acknowledged."""
    async with crashing(place) as fs:
        real = fs.engine.sealer.sync_packs

        async def sync_packs() -> None:
            await real()
            fs.engine.gate.fail(FencedError("somebody else"))

        monkeypatch.setattr(fs.engine.sealer, "sync_packs", sync_packs)
        inode = await make_file(fs, b"f", noise(1, 1000))
        errors = []

        async def commit() -> None:
            try:
                await fs.commit()
            except FencedError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(commit)
        assert len(errors) == 3
        assert await read_all(fs, inode) == noise(1, 1000)
    async with running(place) as fs:
        assert fs.find_child(1, b"f") is None


async def test_leaving_while_everybody_waits(place: Place) -> None:
    """An exception ends the mount at once, whatever its tasks are doing."""
    store = FaultyStore(place.store())
    release = threading.Event()

    def hold(verb: str, name: str) -> None:
        if verb in ("put", "put_new"):
            release.wait(5)

    store.hook = hold
    try:
        with trio.fail_after(3):
            async with crashing(place, store=store, dirty_limit_bytes=MIB) as fs:
                await make_file(fs, b"f", noise(1, 3 * MIB))
                with trio.move_on_after(0.1):
                    await fs.sync()
    finally:
        release.set()
