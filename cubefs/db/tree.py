"""Inodes, directory entries and symlink targets: live rows, and any snapshot's view of them.

Must never: change a row that a snapshot still sees without keeping its old version first (`_keep_*`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from cubefs.db.database import Database
from cubefs.db.schema import fork, fork_ancestors
from cubefs.model import INODE_MASK, SNAPSHOT_SHIFT, Attr, DirEntry

_ATTR = "id, body, mode, uid, gid, nlink, size_bytes, allocated_bytes, rdev, mtime_ns, ctime_ns, btime_ns"
_INODE = "since, body, mode, uid, gid, nlink, size_bytes, allocated_bytes, rdev, mtime_ns, ctime_ns, btime_ns"


def _of(alias: str, columns: str = _ATTR) -> str:
    return ", ".join(f"{alias}.{column}" for column in columns.split(", "))


_GET = f"SELECT {_ATTR} FROM inode WHERE id = ?"
_GET_OLD = f"SELECT {_ATTR} FROM inode WHERE id = ? AND since <= ?"
_GET_HISTORY = f"SELECT since, {_ATTR} FROM inode_history WHERE id = ? AND until > ? ORDER BY until LIMIT 1"
_LOOKUP = (
    f"SELECT {_of('i')} FROM dentry d INDEXED BY dentry_name JOIN inode i ON i.id = d.inode "
    "WHERE d.parent = ? AND d.name = ?"
)
_PAGE = (
    f"SELECT d.name, d.id, {_of('i')} FROM dentry d INDEXED BY dentry_page JOIN inode i ON i.id = d.inode "
    "WHERE d.parent = ? AND d.id > ? ORDER BY d.id LIMIT ?"
)
_ATTR_COUNT = len(Attr._fields)


@lru_cache(maxsize=64)
def _snapshot_page_sql(forks: tuple[int, ...]) -> str:
    """Return the query of one page of a directory in a snapshot (?1 parent, ?2 after, ?3 epoch, ?4 limit).

    Each branch comes sorted from its index, so SQLite merges them and stops at the limit.
    """
    branches = [
        "SELECT id, name, inode FROM dentry INDEXED BY dentry_page WHERE parent = ?1 AND id > ?2 AND since <= ?3"
    ]
    branches += [
        f"SELECT id, name, inode FROM dentry_history WHERE parent = ?1 AND fork = {number} AND id > ?2 "
        "AND since <= ?3 AND until > ?3"
        for number in forks
    ]
    page = " UNION ALL ".join(branches) + " ORDER BY id LIMIT ?4"
    return (
        f"SELECT p.name, p.id, p.inode, {_of('i')}, {_of('h')} FROM ({page}) p "
        "LEFT JOIN inode i ON i.id = p.inode AND i.since <= ?3 "
        "LEFT JOIN inode_history h ON i.id IS NULL AND h.id = p.inode AND h.until = "
        "(SELECT min(until) FROM inode_history WHERE id = p.inode AND until > ?3) ORDER BY p.id"
    )


class Entry:
    """A live directory entry."""

    __slots__ = ("id", "inode", "name", "parent", "since")

    def __init__(self, id: int, since: int, parent: int, name: bytes, inode: int) -> None:
        self.id = id
        self.since = since
        self.parent = parent
        self.name = name
        self.inode = inode


class Tree:
    """Reads and changes of the name space. Changes belong inside `Database.operation()`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._execute = database.execute

    # -- reading: live ----------

    def find_attr(self, inode: int) -> Attr | None:
        """Return the live attributes of `inode`."""
        for row in self._execute(_GET, (inode,)):
            return Attr._make(row)
        return None

    def find_child(self, parent: int, name: bytes) -> Attr | None:
        """Return the live attributes of what `name` in `parent` names."""
        for row in self._execute(_LOOKUP, (parent, name)):
            return Attr._make(row)
        return None

    def find_entry(self, parent: int, name: bytes) -> Entry | None:
        """Return the live entry `name` of directory `parent`."""
        sql = (
            "SELECT id, since, parent, name, inode FROM dentry INDEXED BY dentry_name WHERE parent = ? AND name = ?"
        )
        for row in self._execute(sql, (parent, name)):
            return Entry(*row)
        return None

    def page(self, parent: int, *, after_id: int, limit: int) -> list[DirEntry]:
        """Return up to `limit` live entries with ids above `after_id`, in the order of ids."""
        rows = self._execute(_PAGE, (parent, after_id, limit))
        return [DirEntry(row[0], Attr._make(row[2:]), row[1]) for row in rows]

    def is_empty(self, directory: int) -> bool:
        """Tell whether `directory` has no live entry."""
        sql = "SELECT 1 FROM dentry INDEXED BY dentry_page WHERE parent = ? LIMIT 1"
        return self._execute(sql, (directory,)).get is None

    def find_parent(self, directory: int) -> int | None:
        """Return the live parent of a directory other than the root (a directory has one entry)."""
        parent: int | None = self._execute("SELECT parent FROM dentry WHERE inode = ?", (directory,)).get
        return parent

    def find_target(self, inode: int, epoch: int | None = None) -> bytes | None:
        """Return a symlink's target, live or as snapshot `epoch` sees it (a target never changes)."""
        target = self._execute("SELECT target FROM symlink WHERE inode = ?", (inode,)).get
        if target is None and epoch is not None:
            target = self._execute("SELECT target FROM symlink_history WHERE inode = ?", (inode,)).get
        return target if target is None else bytes(target)

    # -- reading: as of a snapshot ----------

    def find_attr_at(self, inode: int, epoch: int) -> Attr | None:
        """Return the attributes of `inode` as snapshot `epoch` sees them; `ino` carries the snapshot."""
        high = epoch << SNAPSHOT_SHIFT
        for row in self._execute(_GET_OLD, (inode, epoch)):
            return Attr(high | row[0], *row[1:])
        for row in self._execute(_GET_HISTORY, (inode, epoch)):
            if row[0] <= epoch:
                return Attr(high | row[1], *row[2:])
        return None

    def find_child_at(self, parent: int, name: bytes, epoch: int) -> Attr | None:
        """Return what `name` in `parent` named when snapshot `epoch` was taken."""
        sql = "SELECT inode FROM dentry INDEXED BY dentry_name WHERE parent = ? AND name = ? AND since <= ?"
        inode = self._execute(sql, (parent, name, epoch)).get
        if inode is None:
            # versions of one name do not overlap: the first that ends after the epoch is the only candidate
            sql = (
                "SELECT since, inode FROM dentry_history INDEXED BY dentry_history_name "
                "WHERE parent = ? AND name = ? AND until > ? ORDER BY until LIMIT 1"
            )
            for since, candidate in self._execute(sql, (parent, name, epoch)):
                inode = candidate if since <= epoch else None
        return None if inode is None else self.find_attr_at(inode, epoch)

    def page_at(self, parent: int, epoch: int, *, after_id: int, limit: int) -> list[DirEntry]:
        """Return up to `limit` entries of a directory as snapshot `epoch` sees it, in the order of ids."""
        forks = tuple(fork_ancestors(epoch, self._db.epoch))
        high = epoch << SNAPSHOT_SHIFT
        entries = []
        for row in self._execute(_snapshot_page_sql(forks), (parent, after_id, epoch, limit)):
            live, old = row[3 : 3 + _ATTR_COUNT], row[3 + _ATTR_COUNT :]
            columns = live if live[0] is not None else old
            if columns[0] is not None:
                entries.append(DirEntry(row[0], Attr(high | columns[0], *columns[1:]), row[1]))
        return entries

    # -- changing ----------

    def insert_inode(self, attr: Attr) -> None:
        """Add a live inode with the attributes given; `attr.ino` must be new."""
        self._execute(
            "INSERT INTO inode VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (attr.ino & INODE_MASK, self._db.epoch, *attr[1:]),
        )

    def update_inode(self, attr: Attr) -> None:
        """Give a live inode these attributes, keeping the version that a snapshot sees."""
        self._keep_inode(attr.ino)
        self._execute(
            "UPDATE inode SET since=?, body=?, mode=?, uid=?, gid=?, nlink=?, size_bytes=?, allocated_bytes=?, "
            "rdev=?, mtime_ns=?, ctime_ns=?, btime_ns=? WHERE id=?",
            (self._db.epoch, *attr[1:], attr.ino),
        )

    def touch(self, inode: int, *, now_ns: int, nlink_delta: int = 0) -> None:
        """Set mtime and ctime of a directory whose entries change, and count a sub-directory in or out."""
        self._keep_inode(inode)
        self._execute(
            "UPDATE inode SET since=?, mtime_ns=?, ctime_ns=?, nlink=nlink+? WHERE id=?",
            (self._db.epoch, now_ns, now_ns, nlink_delta, inode),
        )

    def change_nlink(self, inode: int, *, delta: int, now_ns: int) -> None:
        """Add `delta` to the link count of a live inode and set its ctime."""
        self._keep_inode(inode)
        self._execute(
            "UPDATE inode SET since=?, nlink=nlink+?, ctime_ns=? WHERE id=?",
            (self._db.epoch, delta, now_ns, inode),
        )

    def delete_inode(self, inode: int) -> None:
        """Remove a live inode and its symlink target; its extents and xattrs are the callers' business."""
        self._keep_inode(inode)
        self._execute("DELETE FROM inode WHERE id = ?", (inode,))
        if self._db.newest_snapshot:
            self._execute(
                "INSERT INTO symlink_history SELECT inode, ?, since, target FROM symlink "
                "WHERE inode = ? AND since <= ?",
                (self._db.epoch, inode, self._db.newest_snapshot),
            )
        self._execute("DELETE FROM symlink WHERE inode = ?", (inode,))

    def insert_symlink(self, inode: int, target: bytes) -> None:
        """Store the target of a new symlink."""
        self._execute("INSERT INTO symlink VALUES (?, ?, ?)", (inode, self._db.epoch, target))

    def insert_entry(self, parent: int, name: bytes, inode: int) -> None:
        """Add a live entry; the caller has made sure that the name is free."""
        row = (self._db.new_id("dentry"), self._db.epoch, parent, name, inode)
        self._execute("INSERT INTO dentry VALUES (?,?,?,?,?)", row)

    def delete_entry(self, entry: Entry) -> None:
        """Remove a live entry."""
        self._keep_entry(entry)
        self._execute("DELETE FROM dentry WHERE id = ?", (entry.id,))

    def point_entry(self, entry: Entry, inode: int) -> None:
        """Let a live entry name another inode (rename-over and exchange keep the entry's id)."""
        self._keep_entry(entry)
        self._execute("UPDATE dentry SET since = ?, inode = ? WHERE id = ?", (self._db.epoch, inode, entry.id))

    def move_entry(self, entry: Entry, *, parent: int, name: bytes) -> None:
        """Rename a live entry, keeping its id."""
        self._keep_entry(entry)
        self._execute(
            "UPDATE dentry SET since = ?, parent = ?, name = ? WHERE id = ?",
            (self._db.epoch, parent, name, entry.id),
        )

    def insert_orphan(self, inode: int) -> None:
        """Note that an unlinked inode is still open."""
        self._execute("INSERT INTO orphan VALUES (?)", (inode,))

    def delete_orphan(self, inode: int) -> None:
        """Forget that an inode was an orphan."""
        self._execute("DELETE FROM orphan WHERE inode = ?", (inode,))

    def orphans(self) -> Sequence[int]:
        """Return the inodes that were unlinked but open."""
        return [row[0] for row in self._execute("SELECT inode FROM orphan")]

    # -- history ----------

    def _keep_inode(self, inode: int) -> None:
        newest = self._db.newest_snapshot
        if newest:
            self._execute(
                f"INSERT INTO inode_history SELECT id, ?, {_INODE} FROM inode WHERE id = ? AND since <= ?",
                (self._db.epoch, inode, newest),
            )

    def _keep_entry(self, entry: Entry) -> None:
        if entry.since <= self._db.newest_snapshot:
            epoch = self._db.epoch
            row = (
                entry.parent,
                fork(entry.since, epoch),
                entry.id,
                epoch,
                entry.since,
                entry.name,
                entry.inode,
            )
            self._execute("INSERT INTO dentry_history VALUES (?,?,?,?,?,?,?)", row)
