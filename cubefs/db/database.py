"""The one SQLite connection of the event loop: settings, batches, savepoints, ids and the epoch.

Must never: be used from a worker thread, or be opened a second time by anybody but SQLite itself (closing
another descriptor of the database file silently drops SQLite's POSIX locks).

All changes between two commits form one batch, one open transaction. An exception inside `operation()` undoes
that operation only. An error that has ended the transaction (disk full, I/O error) has undone the whole batch,
acknowledged operations included: then nothing may be answered any more and `DatabaseLostError` ends the mount,
which equals a crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import apsw

from cubefs.db import schema
from cubefs.errors import IntegrityError, LocalDiskError, LocalDiskFullError, UnsupportedVersionError
from cubefs.model import SnapshotState

_COUNTERS = ("inode", "dentry", "body", "block", "pack")
_CACHE_KIB = 64 * 1024  # SQLite's page cache: holds the hot part of an index over some million rows
_BUSY_MS = 10_000  # only our own checkpointer and readers compete, for milliseconds


class DatabaseLostError(LocalDiskError):
    """The open batch is gone: stop for good, the next mount goes on from the last commit."""


class Committed:
    """What a commit did: its number (0: nothing shipped changed) and how many bytes its changeset has."""

    __slots__ = ("changeset_bytes", "number")

    def __init__(self, number: int, changeset_bytes: int) -> None:
        self.number = number
        self.changeset_bytes = changeset_bytes


def _set_wal(connection: apsw.Connection) -> None:
    """Readers (checkpoints, bases) do not block the loop, and COMMIT appends instead of rewriting pages."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # we fdatasync the WAL ourselves, in a worker
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # an inline checkpoint of 124 MB stalls 240 ms


def _set_stable_plans(connection: apsw.Connection) -> None:
    """Plan without looking at bound values: this build's STAT4 would prepare a join anew for every call (7 µs)."""
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def _set_memory(connection: apsw.Connection) -> None:
    """Keep temporary B-trees off the disk and the page cache bounded."""
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")


class Database:
    """The local metadata database. Every method runs on the event loop."""

    def __init__(self, path: Path) -> None:
        """Open the database at `path` and begin the first batch.

        Raises UnsupportedVersionError for a newer schema and IntegrityError for a file that is no database.
        """
        self.path = path
        try:
            self.connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, statementcachesize=300)
            self.connection.set_busy_timeout(_BUSY_MS)
            _set_wal(self.connection)
            _set_stable_plans(self.connection)
            _set_memory(self.connection)
            version = self.connection.execute("PRAGMA user_version").get
        except apsw.Error as error:
            raise IntegrityError(f"the local database {path} cannot be opened: {error}") from error
        if version != schema.SCHEMA_VERSION:
            self.connection.close()
            raise UnsupportedVersionError(
                f"the database has schema version {version}, this program knows {schema.SCHEMA_VERSION}: "
                "upgrade cubefs"
            )
        # rows are of whatever types the schema says; STRICT tables make that hold
        self.execute: Callable[..., Any] = self.connection.execute
        self._ids: dict[str, int] = dict(self.execute("SELECT name, value FROM counter"))
        self._stored_ids = dict(self._ids)
        self.epoch = self._ids["epoch"]
        self.newest_snapshot = 0
        self.refresh_newest_snapshot()
        shipped = self.execute("SELECT coalesce(max(number), 0) FROM commit_point").get
        waiting = self.execute("SELECT coalesce(max(number), 0) FROM local_outbox").get
        self._last_number: int = max(shipped, waiting)
        self._operation = _Operation(self)
        self._begin()

    # -- batches ----------

    def _begin(self) -> None:
        self.execute("BEGIN IMMEDIATE")
        self._changes_at_begin = self.connection.total_changes()
        self._session = apsw.Session(self.connection, "main")
        for table in schema.SHIPPED:
            self._session.attach(table)

    def operation(self) -> _Operation:
        """Return the context manager of one operation: a savepoint, undone as a whole by an exception."""
        return self._operation

    @property
    def last_number(self) -> int:
        """The number of the last commit that changed anything shipped."""
        return self._last_number

    @property
    def changed_rows(self) -> int:
        """Number of rows changed since the last commit, local tables included."""
        return self.connection.total_changes() - self._changes_at_begin

    def commit(self, *, cut: bool, time_ns: int, truncate_wal: bool = False) -> Committed:
        """End the batch: its changeset goes to the outbox in the same transaction; begin the next.

        Durable against a crash of the process on return; against a power cut once the WAL has been synced.
        `truncate_wal` empties the WAL between the batches: quick when a passive checkpoint has just run.
        """
        self._check_not_lost()
        try:
            self._store_counters()
            changeset = b""
            if not self._session.is_empty:
                if cut:
                    self.execute("INSERT INTO commit_point VALUES (?, ?)", (self._last_number + 1, time_ns))
                changeset = self._session.changeset()
            self._session.close()
            number = 0
            if changeset:
                self._last_number += 1
                number = self._last_number
                self.execute("INSERT INTO local_outbox VALUES (?, ?, ?, ?)", (number, int(cut), time_ns, changeset))
            self.execute("COMMIT")
            if truncate_wal:
                self._empty_wal()
            self._begin()
        except apsw.Error as error:
            raise translate(error) from error
        return Committed(number, len(changeset))

    def _empty_wal(self) -> None:
        self.connection.set_busy_timeout(0)  # a reader is at work (a base being written): next time
        try:
            with contextlib.suppress(apsw.BusyError):
                self.connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            self.connection.set_busy_timeout(_BUSY_MS)

    def _check_not_lost(self) -> None:
        """Raise DatabaseLostError once the batch has been rolled back: SQLite would now commit each statement."""
        if not self.connection.in_transaction:
            raise DatabaseLostError("the local database has rolled back: everything since the last commit is lost")

    def mark_cut(self) -> int:
        """Make the last number in the outbox a place where shipping may stop; return it (0: outbox empty)."""
        number: int = self.execute("SELECT coalesce(max(number), 0) FROM local_outbox").get
        if number:
            self.execute("UPDATE local_outbox SET cut = 1 WHERE number = ? AND cut = 0", (number,))
        return number

    def close(self) -> None:
        """Undo what was not committed and close. Safe to call twice."""
        with contextlib.suppress(apsw.Error):
            self._session.close()
        with contextlib.suppress(apsw.Error):
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
        self.connection.close()

    # -- ids and epochs ----------

    def new_id(self, counter: str) -> int:
        """Return a number never used before as `counter` (inode, dentry, body, block or pack)."""
        number = self._ids[counter] + 1
        self._ids[counter] = number
        return number

    def last_id(self, counter: str) -> int:
        """Return the last number handed out for `counter`."""
        return self._ids[counter]

    def _store_counters(self) -> None:
        self._ids["epoch"] = self.epoch
        for name, value in self._ids.items():
            if self._stored_ids[name] != value:
                self.execute("UPDATE counter SET value = ? WHERE name = ?", (value, name))
                self._stored_ids[name] = value

    def refresh_newest_snapshot(self) -> None:
        """Look up the newest snapshot that can still be seen: rows that it sees are kept before they change."""
        sql = "SELECT coalesce(max(number), 0) FROM snapshot WHERE state = ?"
        self.newest_snapshot = self.execute(sql, (int(SnapshotState.LIVE),)).get

    def meta(self, key: str) -> bytes:
        """Return the value of `key` in `meta`; raises IntegrityError when it is not there."""
        value = self.execute("SELECT value FROM meta WHERE key = ?", (key,)).get
        if value is None:
            raise IntegrityError(f"the database lacks its meta entry {key!r}")
        return bytes(value)


class _Operation:
    """One savepoint. Reused: operations never nest (one synchronous stretch each)."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        if not self._database.connection.in_transaction:
            self._database._check_not_lost()
        self._database.execute("SAVEPOINT operation")

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> Literal[False]:
        database = self._database
        if error is None:
            database.execute("RELEASE operation")
            return False
        if not database.connection.in_transaction:
            raise DatabaseLostError(f"the local database has rolled back: {error}") from error
        try:
            database.execute("ROLLBACK TO operation")
            database.execute("RELEASE operation")
        except apsw.Error as rollback_error:
            raise DatabaseLostError(f"the local database cannot undo: {rollback_error}") from error
        if isinstance(error, apsw.Error):
            raise translate(error) from error
        return False


def translate(error: apsw.Error) -> LocalDiskError | IntegrityError:
    """Return our error for one of SQLite's."""
    if isinstance(error, apsw.FullError):
        return LocalDiskFullError(f"the disk of the cache directory is full: {error}")
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return IntegrityError(f"the local database is damaged: {error}")
    return LocalDiskError(f"the local database failed: {error}")


def checkpoint(path: Path) -> None:
    """Move what the WAL holds into the database file, as far as readers allow. Runs in a worker."""
    with reader(path, writable=True) as connection:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)


@contextlib.contextmanager
def reader(path: Path, *, writable: bool = False) -> Iterator[apsw.Connection]:
    """Open a second connection for a worker: it sees the last commit, and never the batch that is open."""
    flags = apsw.SQLITE_OPEN_READWRITE if writable else apsw.SQLITE_OPEN_READONLY
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(_BUSY_MS)
    try:
        yield connection
    finally:
        connection.close()
