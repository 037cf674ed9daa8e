"""Fills an empty cubefs database by plain SQL: a file system of any size with a past of 30 snapshots.

Knows the schema and nothing of the code that uses it. What it writes is valid: fsck's database audit finds
nothing. The packs that it names exist nowhere, so names and attributes can be read, contents cannot.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from cubefs.db.schema import fork
from cubefs.model import FIRST_FREE_INODE, ROOT_INODE

SNAPSHOTS = 30
EPOCH = SNAPSHOTS + 1
DIRECTORY_FILES = 50  # in each directory but the big one
BLOCK_BYTES = 4096
FRAME_BLOCKS = 256  # one frame of 1 MiB
PACK_FRAMES = 24  # 8 MiB at a third of the plaintext
FRAME_STORED_BYTES = 350_000
TIME_NS = 1_700_000_000_000_000_000
VERSIONS_MAX = 14  # of one inode's attributes, so that all fit between 30 snapshots
BIG_DIRECTORY = FIRST_FREE_INODE
BIG_FILE_NAME = b"file of many extents"


class Shape(NamedTuple):
    """How many of what. Inodes count the root, directories and files that are live."""

    inodes: int
    big_directory: int  # entries of one directory
    deleted: int  # files that only snapshots see: a row in each of three histories
    versions: int  # history rows of attributes that changed

    @property
    def history_rows(self) -> int:
        """All rows of history tables."""
        return 3 * self.deleted + self.versions

    @property
    def directories(self) -> int:
        """Directories in the root, the big one not counted."""
        return max(1, (self.inodes - self.big_directory) // (DIRECTORY_FILES + 1))

    @property
    def files(self) -> int:
        """Live files."""
        return self.inodes - self.directories - 2

    @property
    def first_file(self) -> int:
        """The lowest inode number of a file; files follow without a gap, deleted ones behind the live ones."""
        return FIRST_FREE_INODE + 1 + self.directories


def shape_of(inodes: int) -> Shape:
    """Return the shape for a number of inodes: a million history rows and 100,000 entries where they fit."""
    history_rows = min(1_000_000, 20 * inodes)
    deleted = history_rows // 5
    return Shape(
        inodes=inodes,
        big_directory=min(100_000, inodes // 2),
        deleted=deleted,
        versions=history_rows - 3 * deleted,
    )


def file_name(number: int) -> bytes:
    """Return the name of the file with this number, counted from 0."""
    return b"file %07d.dat" % number


def parent_of(shape: Shape, number: int) -> int:
    """Return the inode of the directory that holds file `number`; the SQL below says the same."""
    if number < shape.big_directory:
        return BIG_DIRECTORY
    return BIG_DIRECTORY + 1 + (number - shape.big_directory) // DIRECTORY_FILES % shape.directories


def fill(database: Path, shape: Shape, *, big_file_extents: int = 0) -> None:
    """Add to the empty database of a file system that nobody has mounted."""
    connection = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -1000000")
        connection.create_scalar_function("fork", _fork_of, 2, deterministic=True)
        with connection:
            _Filler(connection, shape).fill(big_file_extents)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def _fork_of(*interval: Any) -> int:
    since, until = interval
    return fork(since, until)


class _Filler:
    """One filling. Each statement draws its rows from a counting sequence n.i."""

    def __init__(self, connection: apsw.Connection, shape: Shape) -> None:
        self._connection = connection
        self._shape = shape
        self._values = {
            "files": shape.files,
            "big": shape.big_directory,
            "first": shape.first_file,
            "directories": shape.directories,
            "big_dir": BIG_DIRECTORY,
            "per_dir": DIRECTORY_FILES,
            "root": ROOT_INODE,
            "bytes": BLOCK_BYTES,
            "mode": stat.S_IFREG | 0o644,
            "dir_mode": stat.S_IFDIR | 0o755,
            "time": TIME_NS,
            "frame_blocks": FRAME_BLOCKS,
            "pack_frames": PACK_FRAMES,
            "frame_stored": FRAME_STORED_BYTES,
            "epoch": EPOCH,
            "versions": shape.versions,
        }

    def fill(self, big_file_extents: int) -> None:
        """Write all rows."""
        shape = self._shape
        blocks = shape.files + shape.deleted + big_file_extents
        self._insert(
            "snapshot", SNAPSHOTS, "i + 1, CAST(printf('day-%02d', i + 1) AS BLOB), :time + i * 86400000000000, 1"
        )
        self._directories()
        self._files()
        self._deleted_files()
        self._versions()
        if big_file_extents:
            self._big_file(big_file_extents)
        self._space(blocks)
        last_inode = shape.first_file + shape.files + shape.deleted
        counters = {
            "epoch": EPOCH,
            "inode": last_inode,
            "body": last_inode,
            "dentry": last_inode,
            "block": blocks,
            "pack": blocks // (FRAME_BLOCKS * PACK_FRAMES) + 1,
        }
        for name, value in counters.items():
            self._connection.execute("UPDATE counter SET value = ? WHERE name = ?", (value, name))

    def _directories(self) -> None:
        """The big directory and the others, all in the root. An entry's id is its inode's."""
        count = self._shape.directories + 1
        self._insert(
            "inode",
            count,
            ":big_dir + i, 1, 0, :dir_mode, 0, 0, 2, 0, 0, 0, :time + i, :time + i, :time + i",
        )
        self._insert(
            "dentry",
            count,
            ":big_dir + i, 1, :root, CAST(iif(i, printf('directory %05d', i), 'big') AS BLOB), :big_dir + i",
        )
        self._connection.execute("UPDATE inode SET nlink = 2 + ? WHERE id = ?", (count, ROOT_INODE))

    def _files(self) -> None:
        """Live files of one extent and one block each; a body has its inode's number."""
        files = self._shape.files
        self._insert(
            "inode",
            files,
            ":first + i, 1, :first + i, :mode, 1000, 1000, 1, :bytes, :bytes, 0, :time + i, :time + i, :time + i",
        )
        self._insert("dentry", files, f":first + i, 1, {self._parent()}, {self._name()}, :first + i")
        self._insert("extent", files, ":first + i, 0, 1, :bytes, i + 1, 0, 0")

    def _deleted_files(self) -> None:
        """Files that were there from the first snapshot until one of the others; every second in the big one."""
        count = self._shape.deleted
        gone = ":first + :files + i"
        until = f"(2 + i % {SNAPSHOTS})"
        parent = "iif(i % 2, :big_dir, :big_dir + 1 + i % :directories)"
        name = "CAST(printf('deleted %07d.dat', i) AS BLOB)"
        self._insert(
            "inode_history",
            count,
            f"{gone}, {until}, 1, {gone}, :mode, 1000, 1000, 1, :bytes, :bytes, 0, :time, :time, :time",
        )
        self._insert("dentry_history", count, f"{parent}, fork(1, {until}), {gone}, {until}, 1, {name}, {gone}")
        self._insert(
            "extent_history",
            count,
            f"{gone}, fork(1, {until}), 0, {until}, 1, :bytes, :files + i + 1, 0, 0",
        )

    def _versions(self) -> None:
        """Older attributes of live files: the boundaries between versions are 1, 3 + s, 5 + s ... live."""
        if not self._shape.versions:
            return
        each = min(VERSIONS_MAX, -(-self._shape.versions // self._shape.files))
        changed = min(self._shape.files, self._shape.versions // each)
        spread = f"((:first + i / {each}) % {SNAPSHOTS - 2 * each})"
        since = f"iif(i % {each}, 1 + 2 * (i % {each}) + {spread}, 1)"
        until = f"(3 + 2 * (i % {each}) + {spread})"
        inode = f":first + i / {each}"
        self._insert(
            "inode_history",
            changed * each,
            f"{inode}, {until}, {since}, {inode}, :mode, 1000, 1000, 1, :bytes, :bytes, 0, :time - i, :time, :time",
        )
        self._connection.execute(
            "UPDATE inode SET since = (SELECT max(until) FROM inode_history h WHERE h.id = inode.id) "
            "WHERE id >= :first AND id < :first + :changed",
            {"first": self._shape.first_file, "changed": changed},
        )

    def _big_file(self, extents: int) -> None:
        """One file in the root, seen by the newest snapshot, each extent a block of its own."""
        shape = self._shape
        inode = shape.first_file + shape.files + shape.deleted
        size_bytes = extents * BLOCK_BYTES
        self._insert(
            "inode",
            1,
            f"{inode}, 1, {inode}, :mode, 0, 0, 1, {size_bytes}, {size_bytes}, 0, :time, :time, :time",
        )
        row = (inode, 1, ROOT_INODE, BIG_FILE_NAME, inode)
        self._connection.execute("INSERT INTO dentry VALUES (?, ?, ?, ?, ?)", row)
        first_block = shape.files + shape.deleted + 1
        spread = "((i * :bytes >> 12) + (i * :bytes >> 20)) & 65535"
        self._insert("extent", extents, f"{inode}, i * :bytes, 1, :bytes, {first_block} + i, 0, {spread}")

    def _space(self, blocks: int) -> None:
        """Blocks, each referred to once, in full frames in full packs; only the last of each is shorter."""
        frame = "i / :frame_blocks % :pack_frames"
        pack = "i / :frame_blocks / :pack_frames + 1"
        self._insert(
            "block",
            blocks,
            f"i + 1, randomblob(32), :bytes, 1, {pack}, {frame}, i % :frame_blocks * :bytes, 0",
        )
        frames = -(-blocks // FRAME_BLOCKS)
        packs = -(-frames // PACK_FRAMES)
        plain = f"min(:frame_blocks, {blocks} - i * :frame_blocks) * :bytes"
        self._insert(
            "frame",
            frames,
            "i / :pack_frames + 1, i % :pack_frames, 64 + i % :pack_frames * :frame_stored, :frame_stored, "
            f"{plain}, {plain}",
        )
        size = ":pack_frames * :frame_stored + 2000"
        self._insert("pack", packs, f"i + 1, randomblob(32), randomblob(32), {size}, NULL, 'full'")

    def _parent(self) -> str:
        return "iif(i < :big, :big_dir, :big_dir + 1 + (i - :big) / :per_dir % :directories)"

    def _name(self) -> str:
        return "CAST(printf('file %07d.dat', i) AS BLOB)"

    def _insert(self, table: str, count: int, columns: str) -> None:
        """Insert `count` rows of these expressions, i counting from 0."""
        self._connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 0 WHERE :count > 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :count) "
            f"INSERT INTO {table} SELECT {columns} FROM n",
            {**self._values, "count": count},
        )
