"""Names and attributes with POSIX semantics, without FUSE types.

Each operation checks and changes in one synchronous stretch inside one savepoint: atomic without locks.
Must never: await between its first check and its last change, or wait for the store.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable

from cubefs.db.tree import Entry
from cubefs.engine.engine import Engine
from cubefs.errors import PosixError
from cubefs.fs.views import SNAPDIR_NAME, Views, is_virtual
from cubefs.model import (
    INODE_MASK,
    NAME_MAX_BYTES,
    ROOT_INODE,
    SNAPDIR_INODE,
    Attr,
    Caller,
    DirEntry,
)

RENAME_NOREPLACE = 1  # renameat2(2)
RENAME_EXCHANGE = 2
_TARGET_MAX_BYTES = 4095  # PATH_MAX less the terminating null
_LINK_MAX = 65000  # as ext4


class Namespace:
    """Directories and what they name. Numbers are FUSE inode numbers."""

    def __init__(self, engine: Engine, views: Views) -> None:
        self._engine = engine
        self._views = views
        self._db = engine.database
        self._tree = engine.tree
        self._files = engine.files
        self._gate = engine.gate
        self._read_only = engine.options.read_only
        self.on_snapshot_mkdir: Callable[[bytes], object] | None = None

    # -- reading ----------

    def find_child(self, parent: int, name: bytes) -> Attr | None:
        """Return the attributes of what `name` in `parent` names. `parent` must be a directory. ESTALE."""
        if is_virtual(parent):
            return self._views.child(parent, name)
        attr = self._tree.find_child(parent, name)
        if attr is not None:
            return self._seen(attr)
        if parent == ROOT_INODE and name == SNAPDIR_NAME:
            return self._views.snapdir_attr()
        if len(name) > NAME_MAX_BYTES:
            raise PosixError(errno.ENAMETOOLONG)
        return None

    def lookup(self, parent: int, name: bytes) -> Attr:
        """Return the attributes of what `name` in `parent` names. ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE."""
        attr = self.find_child(parent, name)
        if attr is None:
            self._get_dir(parent)
            raise PosixError(errno.ENOENT)
        return attr

    def getattr(self, ino: int) -> Attr:
        """Return the attributes of an inode. ESTALE when it is gone, or its snapshot."""
        attr = self._views.attr(ino) if is_virtual(ino) else self._tree.find_attr(ino)
        if attr is None:
            raise PosixError(errno.ESTALE)
        if ino == ROOT_INODE and not self._views.hidden:
            return attr._replace(nlink=attr.nlink + 1)  # `snapshots` is a sub-directory too
        return self._seen(attr)

    def readlink(self, ino: int) -> bytes:
        """Return a symlink's target. EINVAL for anything else, ESTALE."""
        epoch = self._views.epoch(ino)
        target = self._tree.find_target(ino & INODE_MASK, epoch or None)
        if target is None:
            self.getattr(ino)
            raise PosixError(errno.EINVAL)
        return target

    def readdir(self, ino: int, after_id: int, limit: int) -> list[DirEntry]:
        """Return up to `limit` entries behind `after_id` (0: from the start), without `.` and `..`."""
        if is_virtual(ino):
            return self._views.page(ino, after_id=after_id, limit=limit)
        entries = [
            entry if self._files.find(entry.attr.ino) is None else entry._replace(attr=self._seen(entry.attr))
            for entry in self._tree.page(ino, after_id=after_id, limit=limit)
        ]
        if ino == ROOT_INODE:
            return self._views.root_entries(entries, after_id=after_id, limit=limit)
        return entries

    def _seen(self, attr: Attr) -> Attr:
        """Return attributes as programs see them: with what unsealed data has changed."""
        state = self._files.find(attr.ino)
        return attr if state is None or not state.is_dirty else state.seen(attr)

    # -- making ----------

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Attr:
        """Make a file, fifo, socket or device node; `mode` has the type bits."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        return self.make(parent, name, mode, caller, rdev=rdev)

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        """Make a directory. (In `snapshots`, the layer above takes a snapshot instead.)"""
        if self._gate.is_shut:
            await self._gate.wait_open()
        return self.make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), caller)

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attr:
        """Make a symlink."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        if not target:
            raise PosixError(errno.ENOENT)
        if len(target) > _TARGET_MAX_BYTES:
            raise PosixError(errno.ENAMETOOLONG)
        return self.make(parent, name, stat.S_IFLNK | 0o777, caller, target=target)

    def make(
        self, parent: int, name: bytes, mode: int, caller: Caller, *, rdev: int = 0, target: bytes | None = None
    ) -> Attr:
        """Add an inode and its name in one stretch; the gate must be open. EEXIST and the checks of all changes."""
        self._engine.disk.check_metadata()
        now_ns = self._engine.clock_ns()
        with self._db.operation():
            directory = self._change_dir(parent, name)
            if self._tree.find_entry(parent, name) is not None:
                raise PosixError(errno.EEXIST)
            is_dir = stat.S_ISDIR(mode)
            gid = caller.gid
            if directory.mode & stat.S_ISGID:  # new entries of such a directory belong to its group (inode(7))
                gid = directory.gid
                mode |= stat.S_ISGID if is_dir else 0
            attr = Attr(
                ino=self._db.new_id("inode"),
                body=self._db.new_id("body") if stat.S_ISREG(mode) else 0,
                mode=mode,
                uid=caller.uid,
                gid=gid,
                nlink=2 if is_dir else 1,
                size_bytes=len(target) if target is not None else 0,
                allocated_bytes=0,
                rdev=rdev,
                mtime_ns=now_ns,
                ctime_ns=now_ns,
                btime_ns=now_ns,
            )
            self._tree.insert_inode(attr)
            if target is not None:
                self._tree.insert_symlink(attr.ino, target)
            self._tree.insert_entry(parent, name, attr.ino)
            self._tree.touch(parent, now_ns=now_ns, nlink_delta=int(is_dir))
        return attr

    async def link(self, ino: int, parent: int, name: bytes) -> Attr:
        """Give a file another name. EPERM for directories, EXDEV across trees, EMLINK."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        self._engine.disk.check_metadata()
        now_ns = self._engine.clock_ns()
        with self._db.operation():
            if self._views.epoch(ino) != self._views.epoch(parent):
                raise PosixError(errno.EXDEV)
            self._change_dir(parent, name)
            attr = self._tree.find_attr(ino)
            if attr is None or attr.nlink == 0:
                raise PosixError(errno.ESTALE if attr is None else errno.ENOENT)
            if stat.S_ISDIR(attr.mode) or ino == SNAPDIR_INODE:
                raise PosixError(errno.EPERM)
            if attr.nlink >= _LINK_MAX:
                raise PosixError(errno.EMLINK)
            if self._tree.find_entry(parent, name) is not None:
                raise PosixError(errno.EEXIST)
            self._tree.insert_entry(parent, name, ino)
            self._tree.touch(parent, now_ns=now_ns)
            self._change_link(ino, delta=1, now_ns=now_ns)
        return self.getattr(ino)

    # -- removing ----------

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory's. ENOENT, EISDIR."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        now_ns = self._engine.clock_ns()
        with self._db.operation():
            self._change_dir(parent, name, removes=True)
            entry = self._get_entry(parent, name)
            attr = self._get_live(entry.inode)
            if stat.S_ISDIR(attr.mode):
                raise PosixError(errno.EISDIR)
            self._tree.delete_entry(entry)
            self._tree.touch(parent, now_ns=now_ns)
            self._drop_link(attr, now_ns=now_ns)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory. ENOENT, ENOTDIR, ENOTEMPTY."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        now_ns = self._engine.clock_ns()
        with self._db.operation():
            self._change_dir(parent, name, removes=True)
            entry = self._get_entry(parent, name)
            attr = self._get_live(entry.inode)
            if not stat.S_ISDIR(attr.mode):
                raise PosixError(errno.ENOTDIR)
            if not self._tree.is_empty(attr.ino):
                raise PosixError(errno.ENOTEMPTY)
            self._tree.delete_entry(entry)
            self._tree.touch(parent, now_ns=now_ns, nlink_delta=-1)
            self.destroy(attr)

    def _drop_link(self, attr: Attr, *, now_ns: int) -> None:
        """Count one name less of a file; with the last one it goes, now or when it is closed."""
        if attr.nlink > 1:
            self._change_link(attr.ino, delta=-1, now_ns=now_ns)
            return
        state = self._files.find(attr.ino)
        if state is not None and state.open_count:
            self._change_link(attr.ino, delta=-1, now_ns=now_ns)
            self._tree.insert_orphan(attr.ino)
            state.is_unlinked = True
        else:
            self.destroy(attr)

    def destroy(self, attr: Attr) -> None:
        """Delete an inode that has no name and is not open. Its extents are retired in steps later."""
        self._engine.xattrs.delete_all(attr.ino)
        self._tree.delete_inode(attr.ino)
        if attr.allocated_bytes:
            self._engine.extents.detach(attr.body)
            self._engine.housekeeper.wake()
        state = self._files.find(attr.ino)
        if state is not None:
            state.drop()
            self._files.forget(attr.ino)

    # -- renaming ----------

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """Move a name, replacing what has the new one; flags as in renameat2(2)."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise PosixError(errno.EINVAL)
        self._engine.disk.check_metadata()
        with self._db.operation():
            if self._views.epoch(parent) != self._views.epoch(new_parent):
                raise PosixError(errno.EXDEV)
            self._change_dir(parent, name, removes=True)
            self._change_dir(new_parent, new_name, removes=True)
            source = self._get_entry(parent, name)
            moved = self._get_live(source.inode)
            target = self._tree.find_entry(new_parent, new_name)
            if target is not None and flags & RENAME_NOREPLACE:
                raise PosixError(errno.EEXIST)
            if parent != new_parent and stat.S_ISDIR(moved.mode):
                self._check_no_loop(moved.ino, new_parent)
            if flags & RENAME_EXCHANGE:
                self._exchange(source, moved, target)
            elif target is None or target.inode != source.inode:
                self._replace(source, moved, target, new_parent, new_name)

    def _replace(self, source: Entry, moved: Attr, target: Entry | None, new_parent: int, new_name: bytes) -> None:
        now_ns = self._engine.clock_ns()
        is_dir = stat.S_ISDIR(moved.mode)
        old_parent = source.parent
        subdirs_delta = int(is_dir)
        if target is None:
            self._tree.move_entry(source, parent=new_parent, name=new_name)
        else:
            replaced = self._get_live(target.inode)
            self._check_replaceable(moved, replaced)
            # the replaced entry's id stays, so that a listing in progress shows the name once
            self._tree.point_entry(target, moved.ino)
            self._tree.delete_entry(source)
            if is_dir:
                subdirs_delta -= 1
                self.destroy(replaced)
            else:
                self._drop_link(replaced, now_ns=now_ns)
        if old_parent == new_parent:
            self._tree.touch(old_parent, now_ns=now_ns, nlink_delta=subdirs_delta - int(is_dir))
        else:
            self._tree.touch(old_parent, now_ns=now_ns, nlink_delta=-int(is_dir))
            self._tree.touch(new_parent, now_ns=now_ns, nlink_delta=subdirs_delta)
        self._change_link(moved.ino, delta=0, now_ns=now_ns)

    def _check_replaceable(self, moved: Attr, replaced: Attr) -> None:
        if stat.S_ISDIR(moved.mode) and not stat.S_ISDIR(replaced.mode):
            raise PosixError(errno.ENOTDIR)
        if not stat.S_ISDIR(moved.mode) and stat.S_ISDIR(replaced.mode):
            raise PosixError(errno.EISDIR)
        if stat.S_ISDIR(replaced.mode) and not self._tree.is_empty(replaced.ino):
            raise PosixError(errno.ENOTEMPTY)

    def _exchange(self, source: Entry, moved: Attr, target: Entry | None) -> None:
        if target is None:
            raise PosixError(errno.ENOENT)
        other = self._get_live(target.inode)
        if source.parent != target.parent and stat.S_ISDIR(other.mode):
            self._check_no_loop(other.ino, source.parent)
        now_ns = self._engine.clock_ns()
        self._tree.point_entry(source, other.ino)
        self._tree.point_entry(target, moved.ino)
        delta = int(stat.S_ISDIR(other.mode)) - int(stat.S_ISDIR(moved.mode))
        if source.parent == target.parent:
            delta = 0
        self._tree.touch(source.parent, now_ns=now_ns, nlink_delta=delta)
        self._tree.touch(target.parent, now_ns=now_ns, nlink_delta=-delta)
        self._change_link(moved.ino, delta=0, now_ns=now_ns)
        self._change_link(other.ino, delta=0, now_ns=now_ns)

    def _check_no_loop(self, directory: int, new_parent: int) -> None:
        """EINVAL when `directory` would come to lie below itself."""
        ancestor: int | None = new_parent
        while ancestor is not None and ancestor != ROOT_INODE:
            if ancestor == directory:
                raise PosixError(errno.EINVAL)
            ancestor = self._tree.find_parent(ancestor)

    # -- checks that changes share ----------

    def _change_link(self, ino: int, *, delta: int, now_ns: int) -> None:
        """Count a name in or out; unsealed data must reach the database with the change."""
        self._tree.change_nlink(ino, delta=delta, now_ns=now_ns)
        state = self._files.find(ino)
        if state is not None and state.is_dirty:
            state.must_seal = True
            state.ctime_ns = None if state.ctime_ns is None else now_ns

    def _get_live(self, ino: int) -> Attr:
        attr = self._tree.find_attr(ino)
        if attr is None:
            raise PosixError(errno.ENOENT)
        return attr

    def _get_entry(self, parent: int, name: bytes) -> Entry:
        entry = self._tree.find_entry(parent, name)
        if entry is None:
            raise PosixError(errno.ENOENT)
        return entry

    def _get_dir(self, ino: int) -> Attr:
        attr = self._views.attr(ino) if is_virtual(ino) else self._tree.find_attr(ino)
        if attr is None:
            raise PosixError(errno.ENOENT)
        if not stat.S_ISDIR(attr.mode):
            raise PosixError(errno.ENOTDIR)
        return attr

    def _change_dir(self, ino: int, name: bytes, *, removes: bool = False) -> Attr:
        """Return a directory whose entry `name` is about to change, after the checks that all changes share.

        EROFS in a snapshot or a read-only mount, EPERM for what only `cubefs snapshot` may do, ENAMETOOLONG,
        EEXIST (making) or EPERM (removing) for the entry `snapshots` itself, ENOENT for a removed directory.
        """
        if self._views.epoch(ino) or self._read_only:
            raise PosixError(errno.EROFS)
        if ino == SNAPDIR_INODE:
            raise PosixError(errno.EPERM)
        if len(name) > NAME_MAX_BYTES:
            raise PosixError(errno.ENAMETOOLONG)
        directory = self._get_dir(ino)
        if ino == ROOT_INODE and name == SNAPDIR_NAME:
            raise PosixError(errno.EPERM if removes else errno.EEXIST)
        return directory
