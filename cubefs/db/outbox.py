"""What waits to be shipped, what is on its way, and the last log object known to be in the store.

Only local tables: nothing here ever enters a changeset. Changes ride in the batch that is open.
"""

from __future__ import annotations

from typing import NamedTuple

from cubefs.db.database import Database


class Cut(NamedTuple):
    """Committed changesets that may be shipped as one object."""

    last_number: int
    time_ns: int
    changesets: list[bytes]


class Sealed(NamedTuple):
    """A log object that has been sealed and may or may not have reached the store."""

    seq: int
    last_number: int
    body: bytes


class StoredHead(NamedTuple):
    """The row of `local_head`."""

    seq: int
    chain_hash: bytes
    writer: bytes
    log_bytes: int
    base_bytes: int


class Outbox:
    """The tables local_outbox, local_log and local_head."""

    def __init__(self, database: Database) -> None:
        self._execute = database.execute

    def next_cut(self, limit_bytes: int, *, durable_number: int) -> int:
        """Return the number up to which everything may be shipped in one object now (0: nothing).

        The newest cut with at most `limit_bytes` of changesets up to it, or the first if that has more; none behind
        `durable_number`: a commit can be seen here before it is on the disk and its packs are known.
        """
        sql = (
            "SELECT coalesce(max(number) FILTER (WHERE total <= ?), min(number), 0) FROM "
            "(SELECT number, cut, sum(length(changeset)) OVER (ORDER BY number) AS total FROM local_outbox) "
            "WHERE cut = 1 AND number <= ?"
        )
        number: int = self._execute(sql, (limit_bytes, durable_number)).get
        return number

    def first_waiting_ns(self) -> int | None:
        """Return when the oldest unshipped change was committed."""
        time_ns: int | None = self._execute("SELECT min(time_ns) FROM local_outbox").get
        return time_ns

    def size(self) -> tuple[int, int]:
        """Return number and bytes of the changesets that wait."""
        row = self._execute("SELECT count(*), coalesce(sum(length(changeset)), 0) FROM local_outbox").fetchone()
        return row[0], row[1]

    def take(self, last_number: int) -> Cut:
        """Return all changesets up to `last_number`; they stay until `shipped`."""
        rows = self._execute(
            "SELECT time_ns, changeset FROM local_outbox WHERE number <= ? ORDER BY number", (last_number,)
        ).fetchall()
        return Cut(last_number, rows[-1][0], [bytes(row[1]) for row in rows])

    def put_sealed(self, sealed: Sealed) -> None:
        """Keep a sealed object: a retry must send exactly these bytes."""
        self._execute("INSERT INTO local_log VALUES (?, ?, ?)", sealed)

    def find_sealed(self) -> Sealed | None:
        """Return the sealed object that waits to be confirmed."""
        for row in self._execute("SELECT seq, last_number, body FROM local_log ORDER BY seq LIMIT 1"):
            return Sealed._make(row)
        return None

    def shipped(self, sealed: Sealed, head: StoredHead) -> None:
        """Record that the store has `sealed`, which made `head` the end of the log."""
        self._execute("DELETE FROM local_log WHERE seq = ?", (sealed.seq,))
        self._execute("DELETE FROM local_outbox WHERE number <= ?", (sealed.last_number,))
        self.set_head(head)

    def find_head(self) -> StoredHead | None:
        """Return the last log object known to be in the store."""
        sql = "SELECT seq, chain_hash, writer, log_bytes, base_bytes FROM local_head"
        for row in self._execute(sql):
            return StoredHead._make(row)
        return None

    def set_head(self, head: StoredHead) -> None:
        """Record the end of the log."""
        self._execute("INSERT OR REPLACE INTO local_head VALUES (1, ?, ?, ?, ?, ?)", head)
