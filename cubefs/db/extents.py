"""Extents: which bytes of a body are which bytes of which block, live and in any snapshot's view.

Must never: change a reference count itself (it collects deltas, blocks.py applies them), or touch more than the
given number of rows in one call.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from cubefs.db.database import Database
from cubefs.db.schema import fork, fork_ancestors, spread
from cubefs.model import BLOCK_MAX_BYTES, SnapshotState

RefDeltas = defaultdict[int, int]


class Piece(NamedTuple):
    """A run of file bytes and where its plaintext is."""

    file_offset: int
    length: int
    block: int
    block_length: int
    pack: int
    frame: int  # of the block's first byte
    frame_offset: int  # of the block's first byte
    block_offset: int


class NewExtent(NamedTuple):
    """A run of file bytes to be mapped to a block."""

    file_offset: int
    length: int
    block: int


class _Live(NamedTuple):
    file_offset: int
    since: int
    length: int
    block: int
    block_offset: int


_PIECE = "e.file_offset, e.length, e.block, b.length, b.pack, b.frame, b.frame_offset, e.block_offset"
# Live extents of a body do not overlap: of those that begin before `start`, only the last can reach beyond it.
_FIRST = "coalesce((SELECT max(file_offset) FROM extent WHERE body = ?1 AND file_offset <= ?2), ?2)"  # ?2: start
_READ = (
    f"SELECT {_PIECE} FROM extent e JOIN block b ON b.id = e.block "
    f"WHERE e.body = ?1 AND e.file_offset >= {_FIRST} AND e.file_offset < ?3 ORDER BY e.file_offset"
)
_LIVE = (
    "SELECT file_offset, since, length, block, block_offset FROM extent "
    f"WHERE body = ?1 AND file_offset >= {_FIRST} AND file_offset < ?3"
)
_READ_OLD = (
    f"SELECT {_PIECE} FROM extent e JOIN block b ON b.id = e.block "
    "WHERE e.body = ? AND e.file_offset > ? AND e.file_offset < ? AND e.since <= ?"
)
_READ_HISTORY = (
    f"SELECT {_PIECE} FROM extent_history e JOIN block b ON b.id = e.block "
    "WHERE e.body = ? AND e.fork = ? AND e.file_offset > ? AND e.file_offset < ? AND e.since <= ? AND e.until > ?"
)


class Extents:
    """Reads and changes of extents. Changes belong inside `Database.operation()`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._execute = database.execute

    # -- reading ----------

    def pieces(self, body: int, *, start: int, stop: int) -> list[Piece]:
        """Return the live pieces that reach into the file range [start, stop), in order, not clipped."""
        found = map(Piece._make, self._execute(_READ, (body, start, stop)))
        return [piece for piece in found if piece.file_offset + piece.length > start]

    def pieces_at(self, body: int, epoch: int, *, start: int, stop: int) -> list[Piece]:
        """Return the same as snapshot `epoch` sees it.

        No extent is longer than BLOCK_MAX_BYTES, so looking back that far finds all that begin earlier.
        """
        first = start - BLOCK_MAX_BYTES
        found = list(map(Piece._make, self._execute(_READ_OLD, (body, first, stop, epoch))))
        for number in fork_ancestors(epoch, self._db.epoch):
            found += map(Piece._make, self._execute(_READ_HISTORY, (body, number, first, stop, epoch, epoch)))
        return sorted(piece for piece in found if piece.file_offset + piece.length > start)

    # -- changing ----------

    def write(self, body: int, extents: list[NewExtent], deltas: RefDeltas) -> int:
        """Map runs of file bytes to blocks, in place of what was there; return the change of allocated bytes."""
        allocated = 0
        for extent in extents:
            allocated -= self.punch(
                body, start=extent.file_offset, stop=extent.file_offset + extent.length, deltas=deltas
            )
            self._insert(body, extent.file_offset, extent.length, extent.block, 0, deltas)
            allocated += extent.length
        return allocated

    def punch(self, body: int, *, start: int, stop: int, deltas: RefDeltas) -> int:
        """Unmap the file range [start, stop); return how many bytes were mapped in it.

        An extent that reaches beyond the range goes whole (to history when a snapshot sees it); what is left of
        it are new rows of the present epoch.
        """
        freed = 0
        rows = self._execute(_LIVE, (body, start, stop)).fetchall()
        for row in map(_Live._make, rows):
            row_stop = row.file_offset + row.length
            if row_stop <= start:
                continue
            self._retire(body, row, until=self._db.epoch, newest=self._db.newest_snapshot, deltas=deltas)
            if row.file_offset < start:
                self._insert(body, row.file_offset, start - row.file_offset, row.block, row.block_offset, deltas)
            if row_stop > stop:
                skipped = stop - row.file_offset
                self._insert(body, stop, row_stop - stop, row.block, row.block_offset + skipped, deltas)
            freed += min(row_stop, stop) - max(row.file_offset, start)
        return freed

    def clip_step(self, body: int, *, start: int, limit: int, deltas: RefDeltas) -> tuple[int, int | None]:
        """Unmap up to `limit` extents from the end of a body, none below `start`.

        Returns the bytes unmapped and, when more are left at or beyond `start`, the size the file has so far.
        """
        sql = (
            "SELECT file_offset, length FROM extent WHERE body = ? AND file_offset > ? "
            "ORDER BY file_offset DESC LIMIT ?"
        )
        rows = self._execute(sql, (body, start - BLOCK_MAX_BYTES, limit + 1)).fetchall()
        rows = [row for row in rows if row[0] + row[1] > start]
        if not rows:
            return 0, None
        last = rows[0][0] + rows[0][1]
        more = len(rows) > limit
        first = max(start, rows[limit - 1][0] if more else start)
        freed = self.punch(body, start=first, stop=last, deltas=deltas)
        return freed, first if more else None

    def detach(self, body: int) -> None:
        """Cut a body off from its inode as of now; `retire_step` drops its extents later."""
        self._execute("INSERT INTO detached VALUES (?, ?)", (body, self._db.epoch))

    def retire_step(self, *, limit: int, deltas: RefDeltas) -> bool:
        """Drop or keep for snapshots up to `limit` extents of detached bodies; return whether more are left."""
        for body, since in self._execute("SELECT body, since FROM detached LIMIT 1").fetchall():
            newest = self._newest_snapshot_before(since)
            sql = "SELECT file_offset, since, length, block, block_offset FROM extent WHERE body = ? LIMIT ?"
            rows = self._execute(sql, (body, limit)).fetchall()
            for row in map(_Live._make, rows):
                self._retire(body, row, until=since, newest=newest, deltas=deltas)
            if len(rows) < limit:
                self._execute("DELETE FROM detached WHERE body = ?", (body,))
            return True
        return False

    def _newest_snapshot_before(self, epoch: int) -> int:
        sql = "SELECT coalesce(max(number), 0) FROM snapshot WHERE state = ? AND number < ?"
        number: int = self._execute(sql, (int(SnapshotState.LIVE), epoch)).get
        return number

    def _insert(
        self, body: int, file_offset: int, length: int, block: int, block_offset: int, deltas: RefDeltas
    ) -> None:
        row = (body, file_offset, self._db.epoch, length, block, block_offset, spread(file_offset))
        self._execute("INSERT INTO extent VALUES (?,?,?,?,?,?,?)", row)
        deltas[block] += 1

    def _retire(self, body: int, row: _Live, *, until: int, newest: int, deltas: RefDeltas) -> None:
        """Remove one live extent, keeping it in history when snapshot `newest` or an older one sees it."""
        if row.since <= newest:
            kept = (
                *(body, fork(row.since, until), row.file_offset, until),
                *(row.since, row.length, row.block, row.block_offset, spread(row.file_offset)),
            )
            self._execute("INSERT INTO extent_history VALUES (?,?,?,?,?,?,?,?,?)", kept)
        else:
            deltas[row.block] -= 1
        self._execute("DELETE FROM extent WHERE body = ? AND file_offset = ?", (body, row.file_offset))
