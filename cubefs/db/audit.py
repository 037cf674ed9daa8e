"""The audit of a database: runs every named check, and answers what fsck asks about packs and paths.

Must never: change the database (the authorizer sees to that), or give up because one table cannot be read.

Synchronous, one thread. Everything is seen in one read transaction, so a database in use can be audited too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from cubefs.db import audit_base, audit_data, audit_history, audit_overlap, audit_tree, audit_working, schema
from cubefs.db.audit_check import NOTHING_AFFECTED, Affected, Check, Scope, Violation
from cubefs.db.audit_paths import PathFinder
from cubefs.errors import IntegrityError, LocalDiskError, LocalDiskFullError
from cubefs.model import BlockPlace, FrameInfo

ROWS_MAX_COUNT = 100  # violating rows listed per check; the rest is counted
CACHE_KIB = 128 * 1024  # SQLite's page cache and sorter, each; what does not fit spills to the disk

BUSY_MS = 10_000  # only a checkpoint's moments of a database in use can be in the way

UNREADABLE = Check(
    "unreadable",
    "a table cannot be read as it must be, so that checks which need it could not run",
    "sqlite_schema",
    "",
)
CHECKS: tuple[Check, ...] = (
    *audit_base.CHECKS,
    UNREADABLE,
    *audit_history.CHECKS,
    *audit_tree.CHECKS,
    *audit_data.CHECKS,
)

Progress = Callable[[int, int], None]  # steps done, steps in all


class AuditedPack(NamedTuple):
    """One pack as the database knows it."""

    id: int
    salt: bytes
    name: bytes
    size_bytes: int


class AuditedBlock(NamedTuple):
    """One block of a pack as the database knows it."""

    id: int
    place: BlockPlace


class Counts(NamedTuple):
    """How much there is."""

    inodes: int
    dentries: int
    history_rows: int
    extents: int
    blocks: int
    packs: int
    snapshots: int
    pack_bytes: int


class Audit:
    """One audit of the database at `path`. Close it, or use it as a context manager.

    `is_shipped`: the database was rebuilt from the store, where some rules are stricter than in a database in
    use. `uuid`: of the file system it must belong to.
    """

    def __init__(self, path: Path, *, is_shipped: bool = True, uuid: bytes | None = None) -> None:
        """Open the database, never to change it. Raises IntegrityError if it is none, LocalDiskError."""
        self._is_shipped = is_shipped
        self._uuid = uuid
        with _translated(path):
            # not SQLITE_OPEN_READONLY: SQLite does not even parse the CHECKs of a database opened like that
            self._connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        self._paths: PathFinder | None = None
        self._told: set[str] = set()

    def _prepare(self) -> None:
        execute = self._connection.execute
        self._connection.authorizer = _refuse_changes
        self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._connection.set_busy_timeout(BUSY_MS)
        execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        execute(f"PRAGMA temp.cache_size = -{CACHE_KIB}")
        execute("PRAGMA temp_store = FILE")  # in memory, a big file system's working tables would not fit
        execute("BEGIN")
        execute("SELECT count(*) FROM main.sqlite_schema").fetchall()  # the read transaction starts here
        execute("CREATE TEMP TABLE expected_uuid (uuid BLOB NOT NULL)")
        if self._uuid is not None:
            execute("INSERT INTO expected_uuid VALUES (?)", (self._uuid,))
        execute("CREATE TEMP TABLE expected_shape (type TEXT, name TEXT, tbl_name TEXT, shape TEXT)")
        self._connection.executemany("INSERT INTO expected_shape VALUES (?, ?, ?, ?)", _expected_shapes())

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()

    # -- checks ----------

    def violations(self, progress: Progress = lambda done, total: None) -> Iterator[Violation]:
        """Run every check, in the order of `CHECKS`; yield what they find.

        At most ROWS_MAX_COUNT rows per check are listed. Raises LocalDiskError when the disk for temporary
        files fails.
        """
        total = len(audit_working.TABLES) + len(CHECKS)
        done = 0
        with self._unreadable_instead() as problems:
            views = self._look_at_views()
        for check in CHECKS:
            if check is UNREADABLE:
                yield from problems
                for table in () if problems else audit_working.TABLES:
                    yield from self._fill(table, views)
                    done += 1
                    progress(done, total)
            elif self._is_shipped or not check.shipped_only:
                yield from self._run(check)
            done += 1
            progress(done, total)

    def _look_at_views(self) -> audit_working.Views:
        views = audit_working.read_views(self._connection)
        audit_working.register(self._connection, views)
        audit_overlap.register(self._connection)
        self._paths = PathFinder(self._connection, views)
        return views

    def _fill(self, table: audit_working.WorkingTable, views: audit_working.Views) -> Iterator[Violation]:
        with self._unreadable_instead() as problems:
            try:
                audit_working.fill(self._connection, table, views)
            except apsw.Error:
                self._told.add(f"no such table: {table.name}")  # its cause is told: not again for each check
                raise
        yield from problems

    def _run(self, check: Check) -> Iterator[Violation]:
        """Yield the violations of one check. One that lacks a table has been reported as UNREADABLE."""
        found: list[dict[str, object]] = []
        rest_count = 0
        with self._unreadable_instead() as problems:
            cursor = self._connection.execute(check.sql)
            for values in cursor:
                if len(found) < ROWS_MAX_COUNT:
                    names = [column[0] for column in cursor.get_description()]
                    found.append(dict(zip(names, values, strict=True)))
                else:
                    rest_count += 1
        for row in found:
            views = row.pop("views", None)
            yield Violation(check, row, self._affected(check.scope, row, views))
        if rest_count:
            yield Violation(check, {}, NOTHING_AFFECTED, rest_count)
        yield from problems

    def _affected(self, scope: Scope, row: dict[str, object], views: object) -> Affected:
        affected = NOTHING_AFFECTED
        if self._paths is not None:
            with self._unreadable_instead():
                affected = self._paths.of_row(scope, row, views)
        return affected

    @contextlib.contextmanager
    def _unreadable_instead(self) -> Iterator[list[Violation]]:
        """Turn SQLite's complaint about the database into a violation; one about the disk is raised."""
        problems: list[Violation] = []
        try:
            yield problems
        except (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.NoMemError) as error:
            raise _disk_error(error) from error
        except apsw.Error as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                problems.append(Violation(UNREADABLE, {"problem": str(error)}, NOTHING_AFFECTED))

    # -- what fsck asks ----------

    def counts(self) -> Counts:
        """Return how much there is, as far as it can be read."""
        histories = " + ".join(f"(SELECT count(*) FROM {table})" for table in schema.SHIPPED if "history" in table)
        tables = ("inode", "dentry", "extent", "block", "pack", "snapshot")
        inodes, dentries, extents, blocks, packs, snapshots = (
            self._number(f"SELECT count(*) FROM {table}") for table in tables
        )
        history_rows = self._number(f"SELECT {histories}")
        pack_bytes = self._number("SELECT coalesce(sum(size_bytes), 0) FROM pack")
        return Counts(inodes, dentries, history_rows, extents, blocks, packs, snapshots, pack_bytes)

    def _number(self, sql: str) -> int:
        try:
            number: int = self._connection.execute(sql).get
        except apsw.Error:
            return 0
        return number

    def packs(self) -> list[AuditedPack]:
        """Return every named pack in the order of names (that of a listing of the store)."""
        sql = "SELECT id, salt, name, size_bytes FROM pack WHERE length(name) = 32 ORDER BY name, id"
        with _translated(Path(self._connection.filename)):
            return [AuditedPack._make(row) for row in self._connection.execute(sql)]

    def frames(self, pack: int) -> dict[int, FrameInfo]:
        """Return the frames of a pack by number."""
        sql = "SELECT number, pack_offset, stored_bytes, plain_bytes FROM frame WHERE pack = ? ORDER BY number"
        with _translated(Path(self._connection.filename)):
            return {row[0]: FrameInfo._make(row[1:]) for row in self._connection.execute(sql, (pack,))}

    def blocks(self, pack: int) -> list[AuditedBlock]:
        """Return the blocks of a pack in the order of their places, those that nothing refers to as well."""
        columns = "id, hash, length, frame, frame_offset"
        sql = f"SELECT {columns} FROM block WHERE pack = ? ORDER BY frame, frame_offset, id"
        with _translated(Path(self._connection.filename)):
            rows = self._connection.execute(sql, (pack,))
            return [AuditedBlock(row[0], BlockPlace._make(row[1:])) for row in rows]

    def affected_by_blocks(self, blocks: Iterable[int]) -> Affected:
        """Return what cannot be read when these blocks cannot. After `violations` has been run."""
        affected = NOTHING_AFFECTED
        if self._paths is not None:
            with self._unreadable_instead():
                affected = self._paths.of_blocks(blocks)
        return affected


_CHANGES = frozenset(
    getattr(apsw, f"SQLITE_{verb}")
    for verb in (
        "INSERT",
        "UPDATE",
        "DELETE",
        "CREATE_TABLE",
        "CREATE_INDEX",
        "DROP_TABLE",
        "DROP_INDEX",
        "ALTER_TABLE",
    )
)


def _refuse_changes(
    operation: int, _first: str | None, _second: str | None, database: str | None, _trigger: str | None
) -> int:
    return apsw.SQLITE_DENY if operation in _CHANGES and database == "main" else apsw.SQLITE_OK


def _expected_shapes() -> list[Any]:
    connection = apsw.Connection(":memory:")
    try:
        for statement in schema.statements():
            connection.execute(statement)
        return connection.execute(audit_base.SHAPES.format("main")).fetchall()
    finally:
        connection.close()


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (apsw.FullError, apsw.IOError, apsw.CantOpenError, apsw.NoMemError) as error:
        raise _disk_error(error) from error
    except apsw.Error as error:
        raise IntegrityError(f"the database {path} cannot be read: {error}") from error


def _disk_error(error: apsw.Error) -> LocalDiskError:
    if isinstance(error, apsw.FullError):
        return LocalDiskFullError("no room for the audit's temporary files: set TMPDIR to a larger disk")
    return LocalDiskError(f"the disk failed during the audit: {error}")
