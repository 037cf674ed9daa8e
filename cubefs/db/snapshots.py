"""Snapshots: taking one in O(1), listing, and deleting one in bounded steps.

Must never: copy rows when a snapshot is taken; the history tables fill up as rows change.
"""

from __future__ import annotations

from cubefs.db.database import Database
from cubefs.db.extents import RefDeltas
from cubefs.model import Snapshot, SnapshotState

_HISTORIES = ("inode_history", "dentry_history", "xattr_history", "symlink_history", "extent_history")


class Snapshots:
    """The table `snapshot` and the clean-up of history. Changes belong inside `Database.operation()`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._execute = database.execute

    def list(self) -> list[Snapshot]:
        """Return the snapshots that can be seen, oldest first."""
        sql = "SELECT number, name, created_ns FROM snapshot WHERE state = ? ORDER BY number"
        return [Snapshot(row[0], bytes(row[1]), row[2]) for row in self._execute(sql, (int(SnapshotState.LIVE),))]

    def find(self, name: bytes) -> Snapshot | None:
        """Return the visible snapshot called `name`."""
        sql = "SELECT number, name, created_ns FROM snapshot WHERE name = ? AND state = ?"
        for row in self._execute(sql, (name, int(SnapshotState.LIVE))):
            return Snapshot(row[0], bytes(row[1]), row[2])
        return None

    def create(self, name: bytes, *, now_ns: int) -> Snapshot:
        """Make the present state a snapshot and begin the next epoch; its name must be free."""
        number = self._db.epoch
        self._execute("INSERT INTO snapshot VALUES (?, ?, ?, ?)", (number, name, now_ns, int(SnapshotState.LIVE)))
        self._db.epoch = number + 1
        self._db.refresh_newest_snapshot()
        return Snapshot(number, name, now_ns)

    def start_deleting(self, number: int) -> None:
        """Make a snapshot invisible; `delete_step` drops what only it saw."""
        self._execute("UPDATE snapshot SET state = ? WHERE number = ?", (int(SnapshotState.DELETING), number))
        self._db.refresh_newest_snapshot()

    def delete_step(self, *, limit: int, deltas: RefDeltas) -> bool:
        """Drop up to `limit` history rows of a snapshot being deleted; return whether any work was found.

        A row goes when its interval holds the deleted number but no visible one: it began after the visible
        neighbour before and ended by the visible neighbour after. Indexes by (until, since) make this
        proportional to what changed between the neighbours.
        """
        deleting = int(SnapshotState.DELETING)
        number = self._execute("SELECT min(number) FROM snapshot WHERE state = ?", (deleting,)).get
        if number is None:
            return False
        before, after = self._neighbours(number)
        for until in range(number + 1, after + 1):
            for table in _HISTORIES:
                if self._drop(table, until=until, above=before, limit=limit, deltas=deltas):
                    return True
        self._execute("DELETE FROM snapshot WHERE number = ?", (number,))
        return True

    def _neighbours(self, number: int) -> tuple[int, int]:
        live = int(SnapshotState.LIVE)
        before = self._execute(
            "SELECT max(number) FROM snapshot WHERE state = ? AND number < ?", (live, number)
        ).get
        after = self._execute("SELECT min(number) FROM snapshot WHERE state = ? AND number > ?", (live, number)).get
        return before or 0, after or self._db.epoch

    def _drop(self, table: str, *, until: int, above: int, limit: int, deltas: RefDeltas) -> bool:
        """Delete up to `limit` rows of one history that ended at `until` and began after `above`."""
        where = "until = ? AND since > ?"
        if table == "inode_history":
            key = "id, until"
        elif table == "dentry_history":
            key = "parent, fork, id, until"
        elif table == "extent_history":
            key = "body, fork, file_offset, until"
        elif table == "xattr_history":
            key = "inode, name, until"
        else:
            key = "inode, until"
        extra = ", block" if table == "extent_history" else ""
        rows = self._execute(
            f"SELECT {key}{extra} FROM {table} INDEXED BY {table}_until WHERE {where} LIMIT ?",
            (until, above, limit),
        ).fetchall()
        columns = key.split(", ")
        condition = " AND ".join(f"{column} = ?" for column in columns)
        for row in rows:
            self._execute(f"DELETE FROM {table} WHERE {condition}", row[: len(columns)])
            if extra:
                deltas[row[-1]] -= 1
        return bool(rows)
