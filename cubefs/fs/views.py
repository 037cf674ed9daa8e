"""Which tree an inode number belongs to, and the virtual directory `snapshots`.

FUSE inode number = snapshot number << 40 | inode; 0 is the live tree. Must never: change anything.
"""

from __future__ import annotations

import errno
import stat

from cubefs.db.snapshots import Snapshots
from cubefs.db.tree import Tree
from cubefs.errors import PosixError
from cubefs.model import (
    INODE_MASK,
    ROOT_INODE,
    SNAPDIR_INODE,
    SNAPSHOT_SHIFT,
    Attr,
    DirEntry,
    Snapshot,
)

SNAPDIR_NAME = b"snapshots"
_SNAPDIR_OFFSET = 1 << 62  # its place in the root's listing: behind every dentry id


class Views:
    """The live tree, the snapshots' trees and the directory that lists them."""

    def __init__(self, tree: Tree, snapshots: Snapshots, *, hidden: bool) -> None:
        self._tree = tree
        self._table = snapshots
        self.hidden = hidden
        self._by_number: dict[int, Snapshot] = {}
        self._by_name: dict[bytes, Snapshot] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read which snapshots there are."""
        found = self._table.list()
        self._by_number = {snapshot.number: snapshot for snapshot in found}
        self._by_name = {snapshot.name: snapshot for snapshot in found}

    def all(self) -> list[Snapshot]:
        """Return the snapshots, oldest first."""
        return list(self._by_number.values())

    def find(self, name: bytes) -> Snapshot | None:
        """Return the snapshot called `name`."""
        return self._by_name.get(name)

    def epoch(self, ino: int) -> int:
        """Return the snapshot number of an inode number, 0 for the live tree. ESTALE when it was deleted."""
        epoch = ino >> SNAPSHOT_SHIFT
        if epoch:
            self.check(epoch)
        return epoch

    def check(self, epoch: int) -> None:
        """ESTALE when snapshot `epoch` was deleted."""
        if epoch not in self._by_number:
            raise PosixError(errno.ESTALE)

    def attr(self, ino: int) -> Attr | None:
        """Return the attributes of an inode of a snapshot or of the virtual directory."""
        if ino == SNAPDIR_INODE:
            return self.snapdir_attr()
        return self._tree.find_attr_at(ino & INODE_MASK, self.epoch(ino))

    def child(self, parent: int, name: bytes) -> Attr | None:
        """Return what `name` names in a directory of a snapshot or in the virtual directory."""
        if parent == SNAPDIR_INODE:
            snapshot = self.find(name)
            return None if snapshot is None else self._tree.find_attr_at(ROOT_INODE, snapshot.number)
        return self._tree.find_child_at(parent & INODE_MASK, name, self.epoch(parent))

    def page(self, ino: int, *, after_id: int, limit: int) -> list[DirEntry]:
        """Return a page of a directory of a snapshot or of the virtual directory."""
        if ino != SNAPDIR_INODE:
            return self._tree.page_at(ino & INODE_MASK, self.epoch(ino), after_id=after_id, limit=limit)
        entries: list[DirEntry] = []
        for number, snapshot in self._by_number.items():
            if number > after_id and len(entries) < limit:
                attr = self._tree.find_attr_at(ROOT_INODE, number)
                if attr is not None:
                    entries.append(DirEntry(snapshot.name, attr, number))
        return entries

    def root_entries(self, entries: list[DirEntry], *, after_id: int, limit: int) -> list[DirEntry]:
        """Return the root's last page with the entry `snapshots` behind it, unless that is hidden."""
        if self.hidden or after_id >= _SNAPDIR_OFFSET or len(entries) >= limit:
            return entries
        return [*entries, DirEntry(SNAPDIR_NAME, self.snapdir_attr(), _SNAPDIR_OFFSET)]

    def snapdir_attr(self) -> Attr:
        """Return the attributes of `snapshots`: the root's owner, changed when the newest snapshot was taken."""
        root = self._tree.find_attr(ROOT_INODE)
        assert root is not None
        newest = max((snapshot.created_ns for snapshot in self._by_number.values()), default=root.btime_ns)
        return Attr(
            ino=SNAPDIR_INODE,
            body=0,
            mode=stat.S_IFDIR | 0o755,
            uid=root.uid,
            gid=root.gid,
            nlink=2 + len(self._by_number),
            size_bytes=0,
            allocated_bytes=0,
            rdev=0,
            mtime_ns=newest,
            ctime_ns=newest,
            btime_ns=root.btime_ns,
        )


def is_virtual(ino: int) -> bool:
    """Whether an inode number is outside the live tree's rows."""
    return ino > INODE_MASK or ino == SNAPDIR_INODE
