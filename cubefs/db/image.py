"""The database as one plain SQLite file: making it, copying it for a base, rebuilding it from changesets.

Must never: touch rows of the live database, or resolve a conflict: in a log with one writer it is corruption.

Synchronous, for worker threads, on connections of its own. Only `pin` may also be called on the event loop.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apsw

from cubefs.db import schema
from cubefs.errors import (
    CubefsError,
    IntegrityError,
    LocalDiskError,
    LocalDiskFullError,
    UnsupportedVersionError,
)
from cubefs.model import FIRST_FREE_INODE, ROOT_INODE, Chunking

ROOT_MODE = stat.S_IFDIR | 0o755
FIRST_EPOCH = 1
CACHE_KIB = 64 * 1024  # page cache while applying changesets; what does not fit spills to disk

# last id handed out; `epoch` is the current one
COUNTERS = {"epoch": FIRST_EPOCH, "inode": FIRST_FREE_INODE - 1, "dentry": 0, "body": 0, "block": 0, "pack": 0}


def create_image(
    path: Path,
    *,
    uuid: bytes,
    chunking: Chunking,
    now_ns: int,
    uid: int = 0,
    gid: int = 0,
    label: str = "",
) -> None:
    """Make the database of an empty file system at `path`, which must not exist.

    The root directory belongs to `uid` and `gid`. Not durable on return.
    """
    meta = {
        "uuid": uuid,
        "chunking": chunking.value.encode("ascii"),
        "created_ns": str(now_ns).encode("ascii"),
        "label": label.encode("utf-8"),
    }
    with _opened(path, create=True) as connection, connection:
        for statement in schema.statements():
            connection.execute(statement)
        connection.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", meta.items())
        connection.executemany("INSERT INTO counter (name, value) VALUES (?, ?)", COUNTERS.items())
        connection.execute(
            """INSERT INTO inode (id, since, body, mode, uid, gid, nlink, size_bytes, allocated_bytes, rdev,
                   mtime_ns, ctime_ns, btime_ns)
               VALUES (:id, :since, 0, :mode, :uid, :gid, 2, 0, 0, 0, :now, :now, :now)""",
            {
                "id": ROOT_INODE,
                "since": FIRST_EPOCH,
                "mode": ROOT_MODE,
                "uid": uid,
                "gid": gid,
                "now": now_ns,
            },
        )


def apply_changesets(target: Path | apsw.Connection, changesets: Iterable[bytes]) -> None:
    """Apply changesets in order, all in one transaction: after an error none of them is applied.

    `changesets` may be a generator that fetches them one by one: they are not kept. Raises IntegrityError for
    a conflict, a damaged changeset or a table that is not shipped, LocalDiskError when the disk fails, and
    whatever `changesets` raises.
    """
    if isinstance(target, apsw.Connection):
        with _translated("the database"):
            _apply_all(target, changesets)
        return
    with _opened(target) as connection:
        connection.pragma("synchronous", "OFF")  # the caller syncs the finished file, or throws it away
        connection.pragma("cache_size", -CACHE_KIB)
        _apply_all(connection, changesets)


def combine(changesets: Sequence[bytes]) -> bytes:
    """Return one changeset that does what these do one after the other.

    Equal sequences give equal states, not equal bytes. Any thread; holds the GIL while it works.
    """
    if len(changesets) == 1:
        return changesets[0]
    builder = apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]
    with _translated("a changeset"):
        try:
            for changeset in changesets:
                builder.add(changeset)
            return builder.output()
        finally:
            builder.close()


class PinnedImage:
    """The database as it was at one moment, whatever is written to it meanwhile (WAL mode).

    Holds a read transaction: while it is open, a checkpoint cannot shorten the WAL. Close it soon, from any
    thread.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def write(self, target: Path) -> None:
        """Write the pinned state to `target`: vacuumed, local tables empty, one file, no WAL. In a worker.

        `target` is replaced. Not durable on return: it is on its way to the store. A file `<target>.raw`
        exists meanwhile.
        """
        raw = target.with_name(target.name + ".raw")
        _remove(raw)
        _remove(target)
        try:
            with _opened(raw, create=True) as copy:
                with copy.backup("main", self._connection, "main") as backup:
                    backup.step(-1)
                copy.pragma("synchronous", "OFF")
                with copy:
                    for table in schema.LOCAL:
                        copy.execute(f"DELETE FROM {table}")
                copy.execute("VACUUM INTO ?", (str(target),))
        except BaseException:
            _remove(target)
            raise
        finally:
            _remove(raw)

    def close(self) -> None:
        """Let go of the state. May be called twice."""
        self._connection.close()

    def __enter__(self) -> PinnedImage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pin(source: Path) -> PinnedImage:
    """Pin the last committed state of the database at `source`, through a read-only connection of its own.

    Takes well under a millisecond, so the event loop can call it in the stretch that commits a cut; `write`
    then runs in a worker.
    """
    with _translated(str(source)):
        connection = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # the snapshot starts here
        except BaseException:
            connection.close()
            raise
    return PinnedImage(connection)


def take_image(source: Path, target: Path) -> None:
    """Write the last committed state of `source` to `target`. See PinnedImage.write. In a worker."""
    with pin(source) as pinned:
        pinned.write(target)


def check_version(path: Path) -> None:
    """Raise UnsupportedVersionError when the database has another schema version than ours."""
    with _opened(path, read_only=True) as connection:
        version = connection.pragma("user_version")
    if version != schema.SCHEMA_VERSION:
        raise UnsupportedVersionError(
            f"the file system's metadata has schema version {version}, this cubefs knows version "
            f"{schema.SCHEMA_VERSION}: use a newer cubefs"
        )


def check_image(path: Path) -> None:
    """Check version and SQLite integrity of a database that nobody else uses. Reads all of it.

    Raises UnsupportedVersionError or IntegrityError with SQLite's first complaint.
    """
    check_version(path)
    with _opened(path, read_only=True) as connection:
        complaints = [row[0] for row in connection.execute("PRAGMA integrity_check(10)")]
    if complaints != ["ok"]:
        raise IntegrityError(f"the metadata database is damaged: {complaints[0]}")


def _apply_all(connection: apsw.Connection, changesets: Iterable[bytes]) -> None:
    with connection:  # a savepoint, in its own transaction if there is none
        for changeset in changesets:
            _apply(connection, changeset)


def _apply(connection: apsw.Connection, changeset: bytes) -> None:
    refusals: list[str] = []

    def is_ours(table: str) -> bool:
        # SQLite passes over a table that does not exist, and would fill a local one: both are refused
        if table not in schema.SHIPPED:
            refusals.append(f"it changes {table!r}, which is not a shipped table")
        return not refusals

    def refuse(reason: int, change: apsw.TableChange) -> int:
        what = apsw.mapping_session_conflict.get(reason, reason)
        refusals.append(f"{change.op} in {change.name!r}: {what}")
        return apsw.SQLITE_CHANGESET_ABORT

    try:
        apsw.Changeset.apply(
            changeset,
            connection,
            filter=is_ours,
            conflict=refuse,
            flags=apsw.SQLITE_CHANGESETAPPLY_NOSAVEPOINT,  # the caller's is enough
        )
    except apsw.AbortError:
        if not refusals:
            raise
    except apsw.CorruptError as error:
        raise IntegrityError("a changeset, or the database it belongs to, is damaged") from error
    if refusals:
        raise IntegrityError(f"a changeset does not fit the database: {refusals[0]}")


@contextlib.contextmanager
def _opened(path: Path, *, create: bool = False, read_only: bool = False) -> Iterator[apsw.Connection]:
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    if create:
        if path.exists():
            raise LocalDiskError(f"{path} exists already")
        flags |= apsw.SQLITE_OPEN_CREATE
    with _translated(str(path)):
        connection = apsw.Connection(str(path), flags=flags)
        try:
            yield connection
        finally:
            connection.close()


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn SQLite's errors into ours: none leaves this module."""
    try:
        yield
    except apsw.FullError as error:
        raise LocalDiskFullError(f"no room on the disk for {what}") from error
    except (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise LocalDiskError(f"the disk failed on {what}: {error}") from error
    except (apsw.CorruptError, apsw.NotADBError, apsw.SchemaChangeError, apsw.AbortError) as error:
        raise IntegrityError(f"{what} is damaged: {error}") from error
    except apsw.Error as error:
        raise CubefsError(f"SQLite refused {what}: {type(error).__name__}: {error}") from error


def _remove(path: Path) -> None:
    """Remove a database and what a crash may have left beside it, which belongs to no other file."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
