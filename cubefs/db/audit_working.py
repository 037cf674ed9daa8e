"""The audit's working tables: live and history rows as versions with the range of views that see them.

Must never: write to the database under audit; everything here is in SQLite's temporary database.

A view is what a snapshot that can be seen shows, or, as the last one, the present. Views are numbered from 0 in
the order of their epochs, so a row valid in the epochs [since, until) is seen by a contiguous range of views
[lo, hi). This makes checks on all views set-based: "exists in each of these views" is "one run covers [lo, hi)",
and "sums agree in each view" is "the changes at each boundary add up to zero".
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from cubefs.db import schema
from cubefs.model import SnapshotState

FOREVER = 2**63 - 1  # `until` of a live row


@dataclass(frozen=True, slots=True)
class Views:
    """The epochs of all views in order, and of all snapshots including those being deleted."""

    epoch: int
    numbers: list[int]  # of the visible snapshots, then the epoch
    names: list[bytes]  # of the visible snapshots
    snapshots: list[int]  # visible or being deleted

    @property
    def count(self) -> int:
        """Number of views, the present included."""
        return len(self.numbers)


class WorkingTable(NamedTuple):
    """One working table: how it is made and filled."""

    name: str
    columns: str
    fill: str


def read_views(connection: apsw.Connection) -> Views:
    """Return the views of the database; a missing epoch counter does not keep us from looking."""
    rows: list[Any] = connection.execute("SELECT number, name, state FROM snapshot ORDER BY number").fetchall()
    found: Any = connection.execute("SELECT value FROM counter WHERE name = 'epoch'").fetchone()
    epoch = found[0] if found else max([row[0] + 1 for row in rows], default=1)
    visible = [row for row in rows if row[2] == SnapshotState.LIVE and row[0] < epoch]
    numbers = [row[0] for row in visible]
    return Views(epoch, [*numbers, epoch], [bytes(row[1]) for row in visible], [row[0] for row in rows])


def register(connection: apsw.Connection, views: Views) -> None:
    """Make the functions known that working tables and checks call, and the table `view`."""
    numbers, snapshots = views.numbers, views.snapshots

    def view_at(*epoch: Any) -> int:
        return bisect_left(numbers, epoch[0])

    def snapshots_below(*epoch: Any) -> int:
        return bisect_left(snapshots, epoch[0])

    def fork(*interval: Any) -> int | None:
        since, until = interval
        return schema.fork(since, until) if 0 < since < until else None

    connection.create_scalar_function("view_at", view_at, 1, deterministic=True)
    connection.create_scalar_function("snapshots_below", snapshots_below, 1, deterministic=True)
    connection.create_scalar_function("fork", fork, 2, deterministic=True)
    connection.execute("CREATE TEMP TABLE view (id INTEGER PRIMARY KEY, number INTEGER NOT NULL)")
    connection.executemany("INSERT INTO view VALUES (?, ?)", enumerate(numbers))


_INODE_VERSION = "body, mode & 61440 AS kind, nlink, size_bytes, allocated_bytes"  # 61440: S_IFMT
_DIRECTORY = 0o040000

# In order: a table is filled from those before it. `:count` is the number of views, `:forever` ends a live row.
TABLES: tuple[WorkingTable, ...] = (
    WorkingTable(
        "inode_version",
        "id INTEGER, until INTEGER, lo INTEGER, hi INTEGER, body INTEGER, kind INTEGER, nlink INTEGER, "
        "size_bytes INTEGER, allocated_bytes INTEGER, PRIMARY KEY (id, until)",
        f"""SELECT * FROM (
            SELECT id, :forever AS until, view_at(since) AS lo, :count AS hi, {_INODE_VERSION} FROM inode
            UNION ALL SELECT id, until, view_at(since), view_at(until), {_INODE_VERSION} FROM inode_history
            ORDER BY id, until) WHERE lo < hi""",
    ),
    # the longest ranges of views in which an inode is there and of one kind
    WorkingTable(
        "inode_run",
        "id INTEGER, lo INTEGER, hi INTEGER, kind INTEGER, PRIMARY KEY (id, lo, hi, kind)",
        """SELECT DISTINCT id, min(lo), max(hi), kind FROM (
            SELECT id, lo, hi, kind, sum(fresh) OVER (PARTITION BY id ORDER BY until) AS run FROM (
                SELECT id, until, lo, hi, kind, (kind IS NOT lag(kind) OVER w OR lo > lag(hi) OVER w) AS fresh
                FROM inode_version WINDOW w AS (PARTITION BY id ORDER BY until)))
        GROUP BY id, run""",
    ),
    WorkingTable(
        "body_run",
        "body INTEGER, lo INTEGER, hi INTEGER, PRIMARY KEY (body, lo, hi)",
        """SELECT DISTINCT body, min(lo), max(hi) FROM (
            SELECT body, lo, hi, sum(fresh) OVER (PARTITION BY body ORDER BY lo, hi) AS run FROM (
                SELECT body, lo, hi, coalesce(lo > max(hi) OVER w, 1) AS fresh FROM inode_version WHERE body <> 0
                WINDOW w AS (PARTITION BY body ORDER BY lo, hi
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)))
        GROUP BY body, run""",
    ),
    WorkingTable(
        "dentry_version",
        "inode INTEGER, id INTEGER, until INTEGER, lo INTEGER, hi INTEGER, parent INTEGER, name BLOB, "
        "PRIMARY KEY (inode, id, until)",
        """SELECT * FROM (
            SELECT inode, id, :forever AS until, view_at(since) AS lo, :count AS hi, parent, name FROM dentry
            UNION ALL SELECT inode, id, until, view_at(since), view_at(until), parent, name FROM dentry_history
            ORDER BY inode, id, until) WHERE lo < hi""",
    ),
    # entries that name directories: the skeleton of the tree
    WorkingTable(
        "directory_edge",
        "parent INTEGER, inode INTEGER, lo INTEGER, hi INTEGER, id INTEGER, "
        "PRIMARY KEY (parent, inode, lo, hi, id)",
        f"""SELECT DISTINCT d.parent, d.inode, max(d.lo, r.lo), min(d.hi, r.hi), d.id
        FROM inode_run r JOIN dentry_version d ON d.inode = r.id AND d.lo < r.hi AND r.lo < d.hi
        WHERE r.kind = {_DIRECTORY} ORDER BY 1, 2, 3, 4, 5""",
    ),
    # a body that was cut off is seen, with the extents it still has, by the snapshots before that
    WorkingTable(
        "extent_version",
        "body INTEGER, file_offset INTEGER, until INTEGER, length INTEGER, lo INTEGER, hi INTEGER, block INTEGER, "
        "PRIMARY KEY (body, file_offset, until)",
        """SELECT * FROM (
            SELECT e.body, e.file_offset, :forever AS until, e.length, view_at(e.since) AS lo,
                coalesce((SELECT view_at(d.since) FROM detached d WHERE d.body = e.body), :count) AS hi, e.block
            FROM extent e
            UNION ALL SELECT body, file_offset, until, length, view_at(since), view_at(until), block
            FROM extent_history
            ORDER BY 1, 2, 3) WHERE lo < hi""",
    ),
    WorkingTable(
        "symlink_version",
        "inode INTEGER, until INTEGER, lo INTEGER, hi INTEGER, length INTEGER, PRIMARY KEY (inode, until)",
        """SELECT * FROM (
            SELECT inode, :forever AS until, view_at(since) AS lo, :count AS hi, length(target) FROM symlink
            UNION ALL SELECT inode, until, view_at(since), view_at(until), length(target) FROM symlink_history
            ORDER BY 1, 2) WHERE lo < hi""",
    ),
    WorkingTable(
        "xattr_version",
        "inode INTEGER, name BLOB, until INTEGER, lo INTEGER, hi INTEGER, PRIMARY KEY (inode, name, until)",
        """SELECT * FROM (
            SELECT inode, name, :forever AS until, view_at(since) AS lo, :count AS hi FROM xattr
            UNION ALL SELECT inode, name, until, view_at(since), view_at(until) FROM xattr_history
            ORDER BY 1, 2, 3) WHERE lo < hi""",
    ),
    # changes of (entries found - entries expected) that do not add up to zero at a view
    WorkingTable(
        "link_change",
        "inode INTEGER, at INTEGER, change INTEGER, PRIMARY KEY (inode, at)",
        f"""WITH expected AS (
            SELECT id, lo, hi, CASE WHEN kind <> {_DIRECTORY} THEN nlink WHEN id = 1 THEN 0
                ELSE nlink > 0 END AS links FROM inode_version)
        SELECT inode, at, sum(change) FROM (
            SELECT inode, lo AS at, 1 AS change FROM dentry_version
            UNION ALL SELECT inode, hi, -1 FROM dentry_version WHERE hi < :count
            UNION ALL SELECT id, lo, -links FROM expected
            UNION ALL SELECT id, hi, links FROM expected WHERE hi < :count)
        GROUP BY inode, at HAVING sum(change) <> 0""",
    ),
    WorkingTable(
        "subdirectory_change",
        "inode INTEGER, at INTEGER, change INTEGER, PRIMARY KEY (inode, at)",
        f"""WITH expected AS (
            SELECT id, lo, hi, CASE WHEN nlink = 0 THEN 0 ELSE nlink - 2 END AS children
            FROM inode_version WHERE kind = {_DIRECTORY})
        SELECT inode, at, sum(change) FROM (
            SELECT parent AS inode, lo AS at, 1 AS change FROM directory_edge
            UNION ALL SELECT parent, hi, -1 FROM directory_edge WHERE hi < :count
            UNION ALL SELECT id, lo, -children FROM expected
            UNION ALL SELECT id, hi, children FROM expected WHERE hi < :count)
        GROUP BY inode, at HAVING sum(change) <> 0""",
    ),
    # directories that lead to the root, with the views in which they do
    WorkingTable(
        "reached",
        "inode INTEGER, lo INTEGER, hi INTEGER, PRIMARY KEY (inode, lo, hi)",
        """WITH RECURSIVE walk (inode, lo, hi) AS (
            SELECT 1, 0, :count UNION
            SELECT e.inode, max(e.lo, w.lo), min(e.hi, w.hi) FROM walk w
            JOIN directory_edge e ON e.parent = w.inode AND e.lo < w.hi AND w.lo < e.hi)
        SELECT inode, lo, hi FROM walk ORDER BY 1, 2, 3""",
    ),
    WorkingTable(
        "reached_run",
        "inode INTEGER, lo INTEGER, hi INTEGER, PRIMARY KEY (inode, lo, hi)",
        """SELECT DISTINCT inode, min(lo), max(hi) FROM (
            SELECT inode, lo, hi, sum(fresh) OVER (PARTITION BY inode ORDER BY lo, hi) AS run FROM (
                SELECT inode, lo, hi, coalesce(lo > max(hi) OVER w, 1) AS fresh FROM reached
                WINDOW w AS (PARTITION BY inode ORDER BY lo, hi
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)))
        GROUP BY inode, run""",
    ),
    WorkingTable(
        "block_use",
        "block INTEGER, refs INTEGER, PRIMARY KEY (block)",
        """SELECT block, count(*) FROM (
            SELECT block FROM extent UNION ALL SELECT block FROM extent_history) GROUP BY block""",
    ),
    # frames and blocks as ranges of their pack's plaintext
    WorkingTable(
        "frame_span",
        "pack INTEGER, number INTEGER, start INTEGER, stop INTEGER, PRIMARY KEY (pack, number)",
        """SELECT pack, number, sum(plain_bytes) OVER w - plain_bytes, sum(plain_bytes) OVER w FROM frame
        WINDOW w AS (PARTITION BY pack ORDER BY number)""",
    ),
    WorkingTable(
        "block_span",
        "pack INTEGER, start INTEGER, stop INTEGER, block INTEGER, frame INTEGER, refs INTEGER, "
        "PRIMARY KEY (pack, start, stop, block)",
        """SELECT b.pack, f.start + b.frame_offset, f.start + b.frame_offset + b.length, b.id, b.frame, b.refs
        FROM block b JOIN frame_span f ON f.pack = b.pack AND f.number = b.frame ORDER BY 1, 2, 3, 4""",
    ),
)


def fill(connection: apsw.Connection, table: WorkingTable, views: Views) -> None:
    """Make and fill one working table. Raises apsw.Error; then the table is not there."""
    bindings = {"count": views.count, "forever": FOREVER}
    used = {name: value for name, value in bindings.items() if f":{name}" in table.fill}
    connection.execute(f"CREATE TEMP TABLE {table.name} ({table.columns}) WITHOUT ROWID")
    try:
        connection.execute(f"INSERT INTO {table.name} {table.fill}", used)
    except apsw.Error:
        connection.execute(f"DROP TABLE temp.{table.name}")
        raise


# Only needed to tell what a finding affects, hence made when there is one.
FINDING_INDEXES = (
    "CREATE INDEX IF NOT EXISTS temp.extent_version_block ON extent_version (block)",
    "CREATE INDEX IF NOT EXISTS temp.inode_version_body ON inode_version (body)",
    "CREATE INDEX IF NOT EXISTS temp.dentry_version_id ON dentry_version (id)",
)
