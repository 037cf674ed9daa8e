"""Extended attributes: live rows, and any snapshot's view of them.

Must never: interpret a value; names and values are bytes to this layer.
"""

from __future__ import annotations

from cubefs.db.database import Database


class Xattrs:
    """Reads and changes of extended attributes. Changes belong inside `Database.operation()`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._execute = database.execute

    def find(self, inode: int, name: bytes) -> bytes | None:
        """Return the live value of one attribute."""
        value = self._execute("SELECT value FROM xattr WHERE inode = ? AND name = ?", (inode, name)).get
        return None if value is None else bytes(value)

    def is_used(self, name: bytes) -> bool:
        """Whether any live inode has an attribute of this name. Reads the whole table."""
        return bool(self._execute("SELECT EXISTS (SELECT 1 FROM xattr WHERE name = ?)", (name,)).get)

    def names(self, inode: int) -> list[bytes]:
        """Return the names of all live attributes of `inode`, sorted."""
        return [
            bytes(row[0]) for row in self._execute("SELECT name FROM xattr WHERE inode = ? ORDER BY name", (inode,))
        ]

    def all_at(self, inode: int, epoch: int) -> dict[bytes, bytes]:
        """Return every attribute of `inode` as snapshot `epoch` sees it."""
        rows = self._execute(
            "SELECT name, value FROM xattr WHERE inode = ?1 AND since <= ?2 UNION ALL "
            "SELECT name, value FROM xattr_history WHERE inode = ?1 AND since <= ?2 AND until > ?2 ORDER BY name",
            (inode, epoch),
        )
        return {bytes(name): bytes(value) for name, value in rows}

    def set(self, inode: int, name: bytes, value: bytes) -> None:
        """Give an attribute a value, keeping the one that a snapshot sees."""
        self._keep(inode, name)
        self._execute("INSERT OR REPLACE INTO xattr VALUES (?, ?, ?, ?)", (inode, name, self._db.epoch, value))

    def delete(self, inode: int, name: bytes) -> None:
        """Remove one attribute."""
        self._keep(inode, name)
        self._execute("DELETE FROM xattr WHERE inode = ? AND name = ?", (inode, name))

    def delete_all(self, inode: int) -> None:
        """Remove every attribute of an inode that is going away."""
        for name in self.names(inode):
            self.delete(inode, name)

    def _keep(self, inode: int, name: bytes) -> None:
        newest = self._db.newest_snapshot
        if newest:
            self._execute(
                "INSERT INTO xattr_history SELECT inode, name, ?, since, value FROM xattr "
                "WHERE inode = ? AND name = ? AND since <= ?",
                (self._db.epoch, inode, name, newest),
            )
