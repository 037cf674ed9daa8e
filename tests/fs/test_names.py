"""Names, directories, times and links where the state machine's small alphabet does not reach."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Awaitable, Callable

import pytest

from cubefs.errors import CubefsError, PosixError
from cubefs.fs.filesystem import FileSystem, FsOptions
from cubefs.model import ROOT_INODE, SNAPDIR_INODE, Caller, SetAttr
from tests.support.calls import ME, list_names, make_file
from tests.support.driver import Place, audit_findings, opened


def arbitrary_names(count: int) -> list[bytes]:
    """Return different names of 255 bytes, all values but 0 and / among them."""
    source = random.Random(255)
    values = bytes(value for value in range(1, 256) if value != ord("/"))
    return [bytes(source.choices(values, k=255)) for _ in range(count)] + [values + b"!"]


async def test_names_of_255_arbitrary_bytes(place: Place) -> None:
    names = arbitrary_names(50)
    assert all(len(name) == 255 for name in names)
    async with opened(place) as fs:
        directory = (await fs.mkdir(ROOT_INODE, names[0], 0o755, ME)).ino
        inodes = {name: await make_file(fs, name, name, parent=directory) for name in names}
        target = b"\xff" * 4095
        await fs.symlink(ROOT_INODE, b"link", target, ME)
        await fs.setxattr(directory, b"user." + names[1][:200], names[2])
    async with opened(place.with_empty_cache("elsewhere")) as fs:
        assert sorted(list_names(fs, directory, limit=7)) == sorted(names)
        for name in names:
            assert fs.lookup(directory, name).ino == inodes[name]
        assert fs.readlink(fs.lookup(ROOT_INODE, b"link").ino) == target
        assert fs.getxattr(directory, b"user." + names[1][:200]) == names[2]
    assert audit_findings(place, data=True) == []


async def test_a_name_of_256_bytes_is_too_long(place: Place) -> None:
    name = b"n" * 256
    async with opened(place) as fs:
        await make_file(fs, b"file")
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: fs.mkdir(ROOT_INODE, name, 0o755, ME),
            lambda: fs.create(ROOT_INODE, name, 0o100644, os.O_RDWR, ME),
            lambda: fs.mknod(ROOT_INODE, name, 0o100644, 0, ME),
            lambda: fs.symlink(ROOT_INODE, name, b"x", ME),
            lambda: fs.rename(ROOT_INODE, b"file", ROOT_INODE, name),
            lambda: fs.snapshot_create(name),
        ]
        for call in calls:
            with pytest.raises(CubefsError) as caught:
                await call()
            assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize("time_ns", [-1, 0, 1, -1_000_000_001, -(2**62), 2**62, 1_234_567_890_987_654_321])
async def test_times_are_kept_to_the_nanosecond_also_before_1970(place: Place, time_ns: int) -> None:
    async with opened(place) as fs:
        inode = await make_file(fs, b"file", b"data still dirty")
        await fs.setattr(inode, SetAttr(mtime_ns=time_ns), ME)
        assert fs.getattr(inode).mtime_ns == time_ns
        await fs.sync()
        assert fs.getattr(inode).mtime_ns == time_ns
        await fs.snapshot_create(b"then")
    async with opened(place.with_empty_cache("elsewhere")) as fs:
        assert fs.getattr(inode).mtime_ns == time_ns
        root = fs.lookup(SNAPDIR_INODE, b"then").ino
        assert fs.lookup(root, b"file").mtime_ns == time_ns


async def test_sealing_does_not_move_times(place: Place) -> None:
    async with opened(place) as fs:
        inode = await make_file(fs, b"file", b"data")
        written = fs.getattr(inode)
        await fs.setattr(inode, SetAttr(mode=0o600), ME)
        changed = fs.getattr(inode)
        assert changed.ctime_ns > written.ctime_ns
        await fs.sync()
        settled = fs.getattr(inode)
        assert (settled.mtime_ns, settled.ctime_ns) == (written.mtime_ns, changed.ctime_ns)


async def fill(fs: FileSystem, count: int) -> list[bytes]:
    """Make `count` empty files in the root."""
    names = [b"file %03d" % number for number in range(count)]
    for name in names:
        await make_file(fs, name)
    return names


@pytest.mark.parametrize("limit", [1, 3, 10])
async def test_a_listing_goes_on_while_entries_come_and_go(place: Place, limit: int) -> None:
    """POSIX: what is there all the time is listed exactly once; the rest at most once."""
    async with opened(place, FsOptions(snapdir_hidden=True)) as fs:
        names = await fill(fs, 40)
        stays = set(names[::2])
        seen: list[bytes] = []
        after = step = 0
        doomed = iter(names[1::2])
        while page := fs.readdir(ROOT_INODE, after, limit):
            seen += [entry.name for entry in page]
            after = page[-1].next_id
            if (name := next(doomed, None)) is not None:
                await fs.unlink(ROOT_INODE, name)
            if step < 30:
                await make_file(fs, b"new %03d" % step)
            step += 1
        assert len(seen) == len(set(seen))
        assert stays <= set(seen)


async def test_a_listing_shows_nothing_twice_while_entries_are_renamed(place: Place) -> None:
    """An entry keeps its place under a new name; renamed over another it takes that one's place."""
    async with opened(place, FsOptions(snapdir_hidden=True)) as fs:
        names = await fill(fs, 40)
        moved = {0: 39, 38: 1, 2: 37, 36: 3, 4: 5, 35: 34}  # source -> replaced, in both directions
        fresh = [6, 33, 8, 31]
        untouched = set(names) - {names[i] for pair in moved.items() for i in pair} - {names[i] for i in fresh}
        seen: list[bytes] = []
        after = 0
        while page := fs.readdir(ROOT_INODE, after, 3):
            seen += [entry.name for entry in page]
            after = page[-1].next_id
            if moved:
                source, replaced = moved.popitem()
                await fs.rename(ROOT_INODE, names[source], ROOT_INODE, names[replaced])
            elif fresh:
                await fs.rename(ROOT_INODE, names[fresh[0]], ROOT_INODE, b"fresh %d" % fresh.pop(0))
        assert len(seen) == len(set(seen)), sorted(seen)
        assert untouched <= set(seen)
        assert untouched < set(list_names(fs))


async def test_a_page_restarts_from_any_entry(place: Place) -> None:
    async with opened(place, FsOptions(snapdir_hidden=True)) as fs:
        await fill(fs, 10)
        await fs.snapshot_create(b"one")
        snapshot = fs.lookup(SNAPDIR_INODE, b"one").ino
        for directory in (ROOT_INODE, snapshot):
            whole = fs.readdir(directory, 0, 100)
            assert len(whole) == 10
            for index, entry in enumerate(whole):
                assert fs.readdir(directory, entry.next_id, 100) == whole[index + 1 :]


async def test_a_listing_of_a_snapshot_does_not_notice_the_live_tree(place: Place) -> None:
    async with opened(place) as fs:
        names = await fill(fs, 30)
        await fs.snapshot_create(b"one")
        directory = fs.lookup(SNAPDIR_INODE, b"one").ino
        seen: list[bytes] = []
        after = 0
        while page := fs.readdir(directory, after, 4):
            seen += [entry.name for entry in page]
            after = page[-1].next_id
            await fs.unlink(ROOT_INODE, names.pop())
            await fs.rename(ROOT_INODE, names[0], ROOT_INODE, b"renamed %d" % len(seen))
            names.pop(0)
        assert sorted(seen) == [b"file %03d" % number for number in range(30)]


async def test_a_directory_with_its_group_bit_hands_on_its_group(place: Place) -> None:
    async with opened(place) as fs:
        directory = (await fs.mkdir(ROOT_INODE, b"shared", 0o755, ME)).ino
        await fs.setattr(directory, SetAttr(mode=0o2775, gid=4242), ME)
        caller = Caller(uid=7, gid=8, umask=0o022)
        below = await fs.mkdir(directory, b"below", 0o755, caller)
        assert (below.uid, below.gid, below.mode) == (7, 4242, stat.S_IFDIR | 0o2755)
        _, attr = await fs.create(directory, b"file", 0o100644, os.O_RDWR, caller)
        assert (attr.uid, attr.gid, attr.mode) == (7, 4242, stat.S_IFREG | 0o644)


async def test_devices_keep_their_numbers(place: Place) -> None:
    kinds = {
        b"null": (stat.S_IFCHR, os.makedev(1, 3)),
        b"disk": (stat.S_IFBLK, os.makedev(4095, 1048575)),
        b"fifo": (stat.S_IFIFO, 0),
        b"socket": (stat.S_IFSOCK, 0),
    }
    async with opened(place) as fs:
        for name, (kind, rdev) in kinds.items():
            await fs.mknod(ROOT_INODE, name, kind | 0o600, rdev, ME)
    async with opened(place.with_empty_cache("elsewhere")) as fs:
        for name, (kind, rdev) in kinds.items():
            attr = fs.lookup(ROOT_INODE, name)
            assert (attr.mode, attr.rdev, attr.size_bytes) == (kind | 0o600, rdev, 0)


async def test_many_hard_links(place: Place) -> None:
    async with opened(place) as fs:
        inode = await make_file(fs, b"first", b"data")
        for number in range(50):
            assert (await fs.link(inode, ROOT_INODE, b"link %d" % number)).nlink == number + 2
        await fs.snapshot_create(b"all")
        for number in range(50):
            await fs.unlink(ROOT_INODE, b"link %d" % number)
        assert fs.getattr(inode).nlink == 1
        root = fs.lookup(SNAPDIR_INODE, b"all").ino
        assert {fs.lookup(root, b"link %d" % number).ino for number in range(50)} == {fs.lookup(root, b"first").ino}
        assert fs.lookup(root, b"first").nlink == 51
    assert audit_findings(place, data=True) == []


async def test_looking_up_in_a_file_is_enotdir(place: Place) -> None:
    async with opened(place) as fs:
        inode = await make_file(fs, b"file")
        with pytest.raises(PosixError) as caught:
            fs.lookup(inode, b"x")
        assert caught.value.errno == errno.ENOTDIR


async def test_losing_the_last_name_moves_the_change_time_of_an_open_file(place: Place) -> None:
    """Also while its data is not sealed yet, and after."""
    async with opened(place) as fs:
        handle, attr = await fs.create(ROOT_INODE, b"file", 0o100644, os.O_RDWR, ME)
        await fs.write(handle, 0, b"data")
        written = fs.getattr(attr.ino)
        await fs.unlink(ROOT_INODE, b"file")
        unlinked = fs.getattr(attr.ino)
        assert unlinked.ctime_ns > written.ctime_ns
        await fs.commit()
        assert fs.getattr(attr.ino).ctime_ns == unlinked.ctime_ns
        fs.release(handle)
