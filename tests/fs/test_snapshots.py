"""Snapshots: each shows what was there when it was taken, whatever happens to the live tree and its neighbours."""

from __future__ import annotations

import errno
import os
import random
import stat

import pytest
import trio

from cubefs.errors import CubefsError
from cubefs.fs.filesystem import FileSystem, FsOptions
from cubefs.model import MIB, ROOT_INODE, SNAPDIR_INODE, SNAPSHOT_SHIFT, SetAttr
from tests.support.calls import ME, list_names, make_file, read_all, truncate, write_at
from tests.support.content import content
from tests.support.database import rows
from tests.support.driver import Place, audit_findings, opened

NOISE = 2
QUIET = FsOptions(commit_interval_s=100_000.0, recovery_point_s=100_000.0)


def root_of(fs: FileSystem, name: bytes) -> int:
    """Return the inode number of a snapshot's root."""
    return fs.lookup(SNAPDIR_INODE, name).ino


async def contents(fs: FileSystem, directory: int) -> dict[bytes, bytes]:
    """Return name -> content of a directory of files."""
    names = [name for name in list_names(fs, directory, limit=5) if name != b"snapshots"]
    return {name: await read_all(fs, fs.lookup(directory, name).ino) for name in names}


async def churn(fs: FileSystem, source: random.Random, files: dict[bytes, bytes], round: int) -> None:
    """Change some files in every way, and `files` with them."""
    for _ in range(8):
        name = b"file %d" % source.randrange(12)
        if name not in files:
            files[name] = content(NOISE, source.randrange(200_000), start=source.randrange(MIB))
            await make_file(fs, name, files[name])
            continue
        inode = fs.lookup(ROOT_INODE, name).ino
        action = source.randrange(5)
        if action == 0:
            await fs.unlink(ROOT_INODE, name)
            del files[name]
        elif action == 1:
            size = source.randrange(300_000)
            await truncate(fs, inode, size)
            files[name] = files[name][:size].ljust(size, b"\0")
        elif action == 2:
            other = b"file %d" % source.randrange(12)
            await fs.rename(ROOT_INODE, name, ROOT_INODE, other)
            if other != name:
                files[other] = files.pop(name)
        else:
            offset = source.randrange(len(files[name]) + 1)
            data = content(NOISE, source.randrange(1, 50_000), start=round * 1000)
            await write_at(fs, inode, offset, data)
            files[name] = files[name][:offset] + data + files[name][offset + len(data) :]


async def test_views_under_churn_with_removals_in_between(place: Place) -> None:
    source = random.Random(7)
    files: dict[bytes, bytes] = {}
    kept: dict[bytes, dict[bytes, bytes]] = {}
    async with opened(place, QUIET) as fs:
        for round in range(25):
            await churn(fs, source, files, round)
            name = b"snapshot %d" % round
            await fs.snapshot_create(name)
            kept[name] = dict(files)
            if len(kept) > 5:
                victim = source.choice(sorted(kept))
                await fs.snapshot_remove(victim)
                del kept[victim]
            if round % 6 == 5:
                await fs.commit()
                for name, expected in kept.items():
                    assert await contents(fs, root_of(fs, name)) == expected
        assert await contents(fs, ROOT_INODE) == files
    async with opened(place.with_empty_cache("elsewhere"), QUIET) as fs:
        assert sorted(list_names(fs, SNAPDIR_INODE)) == sorted(kept)
        for name, expected in kept.items():
            assert await contents(fs, root_of(fs, name)) == expected
    assert audit_findings(place, data=True) == []


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 2, 0, 3), (2, 1, 3, 0)])
async def test_removing_snapshots_leaves_no_history_behind(place: Place, order: tuple[int, ...]) -> None:
    """In whatever order they go: after the last, no history row is left, and every reference is given back."""
    async with opened(place, QUIET) as fs:
        inode = await make_file(fs, b"changing", content(NOISE, 300_000))
        directory = (await fs.mkdir(ROOT_INODE, b"directory", 0o755, ME)).ino
        for number in range(4):
            await fs.snapshot_create(b"s%d" % number)
            await write_at(fs, inode, number * 50_000, b"changed %d" % number)
            await fs.setxattr(inode, b"user.n", b"%d" % number)
            await fs.symlink(directory, b"link %d" % number, b"target %d" % number, ME)
            if number:
                await fs.unlink(directory, b"link %d" % (number - 1))
            await fs.rename(ROOT_INODE, b"directory", ROOT_INODE, b"other")
            await fs.rename(ROOT_INODE, b"other", ROOT_INODE, b"directory")
            await fs.commit()
        for number in order:
            await fs.snapshot_remove(b"s%d" % number)
        await fs.sync()
    async with opened(place, QUIET) as fs:  # removal may go on in the background, also of the next mount
        await fs.sync()
    for table in ("inode", "dentry", "extent", "xattr", "symlink"):
        assert rows(place, f"SELECT count(*) FROM {table}_history") == [(0,)], table
    assert rows(place, "SELECT count(*) FROM snapshot") == [(0,)]
    assert audit_findings(place, data=True) == []


async def test_a_snapshot_holds_what_was_not_sealed_yet(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        handle, attr = await fs.create(ROOT_INODE, b"open", 0o100644, os.O_RDWR, ME)
        await fs.write(handle, 0, b"before")
        seen = fs.getattr(attr.ino)
        await fs.snapshot_create(b"one")
        await fs.write(handle, 0, b"after ")
        await fs.commit()
        fs.release(handle)
        kept = fs.lookup(root_of(fs, b"one"), b"open")
        assert await read_all(fs, kept.ino) == b"before"
        assert (kept.size_bytes, kept.mtime_ns, kept.ctime_ns) == (6, seen.mtime_ns, seen.ctime_ns)
        assert await read_all(fs, attr.ino) == b"after "


async def test_default_names_and_taken_names(place: Place) -> None:
    async with opened(place) as fs:
        first = await fs.snapshot_create(None)
        second = await fs.snapshot_create(None)
        assert first.name != second.name and second.number > first.number
        for name in (first.name, b"mine", b"mine"):
            if name == b"mine" and b"mine" not in list_names(fs, SNAPDIR_INODE):
                await fs.snapshot_create(name)
                continue
            for call in (fs.snapshot_create(name), fs.mkdir(SNAPDIR_INODE, name, 0o755, ME)):
                with pytest.raises(CubefsError) as caught:
                    await call
                assert caught.value.errno == errno.EEXIST


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"nul\0"])
async def test_a_snapshot_name_must_be_a_file_name(place: Place, name: bytes) -> None:
    async with opened(place) as fs:
        with pytest.raises(CubefsError) as caught:
            await fs.snapshot_create(name)
        assert caught.value.errno == errno.EINVAL


async def test_a_name_can_be_taken_again_after_removal(place: Place) -> None:
    async with opened(place) as fs:
        await make_file(fs, b"first")
        old = await fs.snapshot_create(b"daily")
        await fs.snapshot_remove(b"daily")
        await make_file(fs, b"second")
        new = await fs.snapshot_create(b"daily")
        assert new.number > old.number
        assert list_names(fs, root_of(fs, b"daily")) == [b"first", b"second"]
        with pytest.raises(CubefsError) as caught:
            fs.getattr(old.number << SNAPSHOT_SHIFT | ROOT_INODE)
        assert caught.value.errno == errno.ESTALE


async def test_a_file_open_in_a_snapshot_that_is_removed(place: Place) -> None:
    """Its reader gets the data or ESTALE, never other bytes."""
    data = content(NOISE, 2 * MIB)
    async with opened(place, QUIET) as fs:
        await make_file(fs, b"file", data)
        await fs.snapshot_create(b"one")
        await fs.unlink(ROOT_INODE, b"file")
        handle = await fs.open(fs.lookup(root_of(fs, b"one"), b"file").ino, os.O_RDONLY)
        assert bytes(await fs.read(handle, 100, 1000)) == data[100:1100]
        await fs.snapshot_remove(b"one")
        for _ in range(20):  # its history is dropped in steps, meanwhile
            try:
                assert bytes(await fs.read(handle, MIB, 1000)) == data[MIB : MIB + 1000]
            except CubefsError as error:
                assert error.errno == errno.ESTALE
            await trio.sleep(0.005)
        fs.release(handle)
    assert audit_findings(place, data=True) == []


async def test_a_snapshot_of_nothing(place: Place) -> None:
    async with opened(place) as fs:
        await fs.snapshot_create(b"empty")
        await make_file(fs, b"later")
        root = root_of(fs, b"empty")
        assert fs.readdir(root, 0, 10) == []
        attr = fs.getattr(root)
        assert (attr.nlink, stat.S_IFMT(attr.mode)) == (2, stat.S_IFDIR)
        with pytest.raises(CubefsError) as caught:
            fs.lookup(root, b"later")
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(CubefsError):
            fs.lookup(root, b"snapshots")  # no snapshots inside a snapshot


async def test_the_mode_of_a_snapshot_is_kept_but_nothing_can_be_written(place: Place) -> None:
    async with opened(place) as fs:
        inode = await make_file(fs, b"file", b"data")
        await fs.setattr(inode, SetAttr(mode=0o666), ME)
        await fs.snapshot_create(b"one")
        attr = fs.lookup(root_of(fs, b"one"), b"file")
        assert stat.S_IMODE(attr.mode) == 0o666
        for flags in (os.O_WRONLY, os.O_RDWR):
            with pytest.raises(CubefsError) as caught:
                await fs.open(attr.ino, flags)
            assert caught.value.errno == errno.EROFS


async def test_taking_a_snapshot_touches_no_rows_of_files(place: Place) -> None:
    async with opened(place, QUIET) as fs:
        for number in range(50):
            await make_file(fs, b"file %d" % number, b"data")
        await fs.commit()
        for number in range(5):
            await fs.snapshot_create(b"s%d" % number)
    for table in ("inode", "dentry", "extent"):
        assert rows(place, f"SELECT count(*) FROM {table}_history") == [(0,)]
    assert rows(place, "SELECT DISTINCT since FROM dentry") == [(1,)]
