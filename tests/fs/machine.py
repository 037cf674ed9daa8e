"""The whole state machine: the rules for snapshots, remounts and crashes, on top of names and data."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from cubefs.errors import CubefsError
from cubefs.model import SNAPDIR_INODE, SNAPSHOT_SHIFT, SetAttr, Snapshot
from tests.fs.machine_data import DataRules
from tests.fs.machine_names import ME, NAMES, PICK
from tests.support.driver import Driver, Place
from tests.support.reference_model import GONE, NOT_IN_SNAPSHOT_DIRECTORY, ROOT

SNAPSHOT_NAMES = st.sampled_from([b"monday", b"tuesday", b"\xe9t\xe9", b"z" * 255])
LIMITS = st.sampled_from([1, 2, 3, 100])


class FileSystemMachine(DataRules):
    """Rules for everything that a mounted file system can be asked to do."""

    # -- snapshots -------------------------------------------------------------------------------------------

    @rule(name=SNAPSHOT_NAMES, by_mkdir=st.booleans(), is_free=st.sampled_from([True, True, True, False]))
    def snapshot_create(self, name: bytes, by_mkdir: bool, is_free: bool) -> None:
        """Take a snapshot, by command or by mkdir; a taken name refuses."""
        if is_free and name in self.model.snapshots:
            name = b"snapshot %d" % len(self.numbers)

        def real() -> int:
            if by_mkdir:
                number: int = self.fs.mkdir(SNAPDIR_INODE, name, 0o755, ME).ino >> SNAPSHOT_SHIFT
                return number
            snapshot = self.fs.snapshot_create(name)
            assert isinstance(snapshot, Snapshot) and snapshot.name == name
            return snapshot.number

        if done := self.both(real, lambda now: self.model.snapshot_create(name)):
            assert done[0] > max([0, *self.numbers.values(), *self.removed_numbers]), "numbers only grow"
            self.numbers[name] = done[0]

    @precondition(lambda self: len(self.model.snapshots) > 1)
    @rule(pick=PICK)
    def snapshot_remove(self, pick: int) -> None:
        """Remove a snapshot."""
        self.remove_snapshot(sorted(self.model.snapshots)[pick % len(self.model.snapshots)])

    def remove_snapshot(self, name: bytes) -> None:
        """Remove a snapshot; one that is not there refuses."""
        if self.both(lambda: self.fs.snapshot_remove(name), lambda now: self.model.snapshot_remove(name)):
            self.removed_numbers.append(self.numbers.pop(name))

    @rule(limit=LIMITS)
    def compare(self, limit: int) -> None:
        """Compare the live tree, and every snapshot with the copy that the model kept."""
        self.check_live(limit)
        self.check_snapshots(limit)

    # -- what must be refused --------------------------------------------------------------------------------

    @precondition(lambda self: self.model.snapshots)
    @rule(which=PICK, where=PICK, name=NAMES, verb=PICK)
    def change_snapshot(self, which: int, where: int, name: bytes, verb: int) -> None:
        """Nothing in a snapshot can be changed: EROFS, or another refusal that is true as well."""
        snapshots = sorted(self.model.snapshots)
        snapshot = snapshots[which % len(snapshots)]
        tree, high = self.model.snapshots[snapshot], self.numbers[snapshot] << SNAPSHOT_SHIFT
        nodes = sorted(tree.nodes)
        model_id = nodes[where % len(nodes)]
        node, inode = tree.nodes[model_id], high | self.inodes[model_id]
        calls = self.changes(inode, name, high | ROOT)
        if not node.is_directory:
            calls = calls[:4]
        accepted = {"EROFS"}
        if node.is_directory:
            accepted |= {"EEXIST"} if name in node.entries else {"ENOENT"}
            accepted |= {"ENAMETOOLONG"} if len(name) > 255 else set()
        self.refuses(calls[verb % len(calls)], accepted)
        if node.is_file:
            self.refuses(lambda: self.fs.open(inode, os.O_RDWR), {"EROFS"})

    def changes(self, inode: int, name: bytes, root: int) -> list[Callable[[], Any]]:
        """Return one call of each kind that would change `inode` (the first four suit any type)."""
        fs = self.fs
        return [
            lambda: fs.setattr(inode, SetAttr(mode=0o600), ME),
            lambda: fs.setxattr(inode, b"user.a", b"x"),
            lambda: fs.removexattr(inode, b"user.a"),
            lambda: fs.link(inode, root, b"new"),
            lambda: fs.mkdir(inode, name, 0o755, ME),
            lambda: fs.mknod(inode, name, stat.S_IFIFO | 0o600, 0, ME),
            lambda: fs.create(inode, name, stat.S_IFREG | 0o600, os.O_RDWR, ME),
            lambda: fs.symlink(inode, name, b"target", ME),
            lambda: fs.unlink(inode, name),
            lambda: fs.rmdir(inode, name),
            lambda: fs.rename(inode, name, root, b"new"),
        ]

    def refuses(self, call: Callable[[], Any], accepted: set[str]) -> None:
        """Assert that a call fails with one of the errnos named."""
        with pytest.raises(CubefsError) as caught:
            call()
        name = errno.errorcode[caught.value.errno]
        assert name in accepted, f"{name}, expected {accepted}"

    @precondition(lambda self: self.removed_numbers)
    @rule(pick=PICK, inode=PICK)
    def removed_snapshot_is_stale(self, pick: int, inode: int) -> None:
        """What stood in a removed snapshot answers ESTALE, and it cannot be removed again."""
        self.refuses(lambda: self.fs.snapshot_remove(b"never there"), {"ENOENT"})
        number = self.removed_numbers[pick % len(self.removed_numbers)] << SNAPSHOT_SHIFT
        inodes = sorted(self.inodes.values())
        stale = number | inodes[inode % len(inodes)]
        self.refuses(lambda: self.fs.getattr(stale), {"ESTALE"})
        self.refuses(lambda: self.fs.lookup(number | ROOT, b"a"), {"ESTALE"})
        self.refuses(lambda: self.fs.readdir(number | ROOT, 0, 10), {"ESTALE"})

    @precondition(lambda self: self.gone)
    @rule(pick=PICK)
    def what_is_gone_stays_gone(self, pick: int) -> None:
        """A deleted inode's number is never used again, and nothing can be made in a removed directory."""
        inode = self.gone[pick % len(self.gone)]
        gone = {errno.errorcode[number] for number in GONE}
        self.refuses(lambda: self.fs.getattr(inode), gone)
        self.refuses(lambda: self.fs.mkdir(inode, b"a", 0o755, ME), gone | {"ENOTDIR"})
        self.refuses(lambda: self.fs.open(inode, os.O_RDONLY), gone)
        self.refuses(lambda: self.fs.setattr(inode, SetAttr(mode=0o600), ME), gone)

    @rule(name=SNAPSHOT_NAMES, verb=st.integers(0, 9), pick=PICK)
    def change_snapshot_directory(self, name: bytes, verb: int, pick: int) -> None:
        """In snapshots/ only mkdir does anything: snapshots are removed by command alone."""
        accepted = {errno.errorcode[number] for number in NOT_IN_SNAPSHOT_DIRECTORY}
        parent, entry = self.an_entry(pick)
        fs, here = self.fs, SNAPDIR_INODE
        calls: list[Callable[[], Any]] = [
            lambda: fs.rmdir(here, name),
            lambda: fs.unlink(here, name),
            lambda: fs.rename(here, name, here, b"new"),
            lambda: fs.rename(here, name, ROOT, b"new"),
            lambda: fs.rename(self.inodes[parent], entry, here, name),
            lambda: fs.create(here, name, stat.S_IFREG | 0o600, os.O_RDWR, ME),
            lambda: fs.mknod(here, name, stat.S_IFREG | 0o600, 0, ME),
            lambda: fs.symlink(here, name, b"target", ME),
            lambda: fs.setattr(here, SetAttr(mode=0o700), ME),
            lambda: fs.setxattr(here, b"user.a", b"x"),
        ]
        is_there = name in self.model.snapshots
        accepted |= {"EEXIST", "EISDIR", "ENOTEMPTY"} if is_there else {"ENOENT"}
        if verb == 4:
            accepted |= {"ENOENT", "EXDEV"}
        self.refuses(calls[verb], accepted)

    # -- durability and remounts -----------------------------------------------------------------------------

    @rule(store=st.booleans())
    def settle(self, store: bool) -> None:
        """Make everything durable on this machine or in the store; then the space in use is exact."""
        if store:
            self.fs.sync()
        else:
            self.fs.commit()
        self.check_live(100, settled=True)

    @rule(how=st.sampled_from(["same cache", "fsck in between", "empty cache", "crash", "crash"]), after=PICK)
    def remount(self, how: str, after: int) -> None:
        """Unmount and mount again: with the same cache, without one, or after a crash."""
        self.generation += 1
        place = self.fs.place
        if how == "crash":
            self.make_durable(["commit", "sync", "fsync"][after % 3])
            place = self.fs.copy_as_after_a_crash(self.directory / f"crash-{self.generation}")
        elif how == "empty cache":
            place = place.with_empty_cache(f"cache-{self.generation}")
        self.close_all()
        self.fs.close()
        if how == "fsck in between":
            self.audit(place)
        self.open_again(place)

    def make_durable(self, how: str) -> None:
        """Do what promises that the next mount sees everything, even after a crash.

        The process dies by proxy: the copy of its store and cache, taken while it stands still, goes on.
        """
        if how == "fsync" and self.handles:
            for _, handle in self.handles:  # what was closed is covered by any commit
                self.fs.fsync(handle)
        elif how == "sync":
            self.fs.sync()
        else:
            self.fs.commit()

    def open_again(self, place: Place) -> None:
        """Mount, and compare everything."""
        self.driver = Driver(place, self.options)
        self.check_live(2)
        self.check_snapshots(2)
