"""A small valid database with two snapshots, written row by row without any code that changes databases.

    number  name       seen by                  what happened
    1       (root)     all
    16      docs       all                      got the sub-directory `sub` in epoch 2
    17      a.txt      all                      rewritten in epoch 2; hard link `hard` since epoch 3
    18      b.bin      all                      one block longer than a frame and a short one, a hole between
    19      sub        tuesday, present
    20      link       all                      symlink
    21      pipe       all
    22      gone.txt   monday                   deleted in epoch 2
    23      -          present                  unlinked but open
    24      new        all                      called `old` until epoch 3
    25      dir2       all                      called `dir1` until epoch 3
    26      caf\\xe9  all                      in dir2; its name is not UTF-8
    27      cut.txt    all                      truncated in epoch 3: its body 5 waits to be retired
    28      oldlink    monday, tuesday          symlink deleted in epoch 3

Epoch 1 ended with snapshot 1 `monday`, epoch 2 with snapshot 2 `tuesday`; the present epoch is 3.
"""

from __future__ import annotations

from pathlib import Path

import apsw

from cubefs.db import schema
from cubefs.db.schema import fork, spread

UUID = bytes(range(16))
FRAME = 1024 * 1024
LONG = FRAME + 500_000  # length of block 3, which spans two frames

_DIR, _FILE, _LINK, _FIFO = 0o040755, 0o100644, 0o120777, 0o010600

# id: (since, body, mode, nlink, size, allocated)
_INODES = {
    1: (3, 0, _DIR, 4, 0, 0),
    16: (2, 0, _DIR, 3, 0, 0),
    17: (3, 1, _FILE, 2, 500, 500),
    18: (1, 2, _FILE, 1, 2 * FRAME + 300, LONG + 300),
    19: (2, 0, _DIR, 2, 0, 0),
    20: (1, 0, _LINK, 1, 10, 0),
    21: (1, 0, _FIFO, 1, 0, 0),
    23: (3, 4, _FILE, 0, 0, 0),
    24: (1, 6, _FILE, 1, 0, 0),
    25: (1, 0, _DIR, 2, 0, 0),
    26: (1, 7, _FILE, 1, 200, 200),
    27: (3, 8, _FILE, 1, 0, 0),
}
# id, until: as above
_OLD_INODES = {
    (1, 3): (1, 0, _DIR, 4, 0, 0),
    (16, 2): (1, 0, _DIR, 2, 0, 0),
    (17, 2): (1, 1, _FILE, 1, 1000, 1000),
    (17, 3): (2, 1, _FILE, 1, 500, 500),
    (22, 2): (1, 3, _FILE, 1, 400, 400),
    (27, 3): (1, 5, _FILE, 1, 300, 300),
    (28, 3): (1, 0, _LINK, 1, 4, 0),
}
# id: (since, parent, name, inode)
_DENTRIES = {
    1: (1, 1, b"docs", 16),
    2: (1, 16, b"a.txt", 17),
    3: (1, 16, b"b.bin", 18),
    4: (2, 16, b"sub", 19),
    5: (1, 1, b"link", 20),
    6: (1, 1, b"pipe", 21),
    8: (3, 16, b"new", 24),
    9: (3, 1, b"dir2", 25),
    10: (1, 25, b"caf\xe9", 26),
    11: (1, 1, b"cut.txt", 27),
    13: (3, 1, b"hard", 17),
}
# id, until: as above
_OLD_DENTRIES = {
    (7, 2): (1, 1, b"gone.txt", 22),
    (8, 3): (1, 16, b"old", 24),
    (9, 3): (1, 1, b"dir1", 25),
    (12, 3): (1, 1, b"oldlink", 28),
}
# body, file_offset: (since, length, block, block_offset)
_EXTENTS = {
    (1, 0): (2, 500, 2, 0),
    (2, 0): (1, LONG, 3, 0),
    (2, 2 * FRAME): (1, 300, 4, 0),
    (5, 0): (1, 300, 4, 0),
    (7, 0): (1, 200, 6, 50),
}
# body, file_offset, until: as above
_OLD_EXTENTS = {
    (1, 0, 2): (1, 1000, 1, 0),
    (3, 0, 2): (1, 400, 5, 0),
}
# id: (length, refs, pack, frame, frame_offset)
_BLOCKS = {
    1: (1000, 1, 1, 0, 0),
    2: (500, 1, 1, 0, 1000),
    3: (LONG, 1, 1, 1, 0),
    4: (300, 2, 2, 0, 0),
    5: (400, 1, 2, 0, 300),
    6: (250, 1, 2, 1, 0),
    7: (100, 0, 2, 1, 250),
}
# pack, number: (pack_offset, stored_bytes, plain_bytes, live_bytes)
_FRAMES = {
    (1, 0): (64, 700, 1500, 1500),
    (1, 1): (764, 600_000, FRAME, FRAME),
    (1, 2): (600_764, 300_000, 500_000, 500_000),
    (2, 0): (64, 717, 700, 700),
    (2, 1): (781, 200, 350, 250),
}
PACK_BYTES = {1: 901_200, 2: 1_400}
_COUNTERS = {"epoch": 3, "inode": 28, "dentry": 13, "body": 8, "block": 7, "pack": 2}


def build(path: Path) -> None:
    """Write the database at `path`, which must not exist."""
    connection = apsw.Connection(str(path))
    with connection:
        for statement in schema.statements():
            connection.execute(statement)
        _fill_tree(connection)
        _fill_data(connection)
    connection.close()


def change(path: Path, *statements: str) -> None:
    """Execute SQL on a database, whatever its CHECKs say."""
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA ignore_check_constraints = ON")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def _fill_tree(connection: apsw.Connection) -> None:
    many = connection.executemany
    meta = {"uuid": UUID, "chunking": b"content", "created_ns": b"1700000000000000000", "label": b""}
    many("INSERT INTO meta VALUES (?, ?)", meta.items())
    many("INSERT INTO counter VALUES (?, ?)", _COUNTERS.items())
    many("INSERT INTO snapshot VALUES (?, ?, 0, 1)", [(1, b"monday"), (2, b"tuesday")])
    columns = "since, body, mode, nlink, size_bytes, allocated_bytes, uid, gid, rdev, mtime_ns, ctime_ns, btime_ns"
    rest = "0, 0, 0, 7, 7, 7"
    many(
        f"INSERT INTO inode (id, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?, {rest})",
        [(key, *row) for key, row in _INODES.items()],
    )
    many(
        f"INSERT INTO inode_history (id, until, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, {rest})",
        [(*key, *row) for key, row in _OLD_INODES.items()],
    )
    many("INSERT INTO dentry VALUES (?, ?, ?, ?, ?)", [(key, *row) for key, row in _DENTRIES.items()])
    many(
        "INSERT INTO dentry_history VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (parent, fork(since, until), key, until, since, name, inode)
            for (key, until), (since, parent, name, inode) in _OLD_DENTRIES.items()
        ],
    )
    connection.execute("INSERT INTO orphan VALUES (23)")
    connection.execute("INSERT INTO symlink VALUES (20, 1, ?)", (b"docs/a.txt",))
    connection.execute("INSERT INTO symlink_history VALUES (28, 3, 1, ?)", (b"docs",))
    connection.execute("INSERT INTO xattr VALUES (17, ?, 2, ?)", (b"user.colour", b"red"))
    connection.execute("INSERT INTO xattr_history VALUES (17, ?, 2, 1, ?)", (b"user.colour", b"blue"))


def _fill_data(connection: apsw.Connection) -> None:
    many = connection.executemany
    many(
        "INSERT INTO extent VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(*key, *row, spread(key[1])) for key, row in _EXTENTS.items()],
    )
    many(
        "INSERT INTO extent_history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (body, fork(row[0], until), file_offset, until, *row, spread(file_offset))
            for (body, file_offset, until), row in _OLD_EXTENTS.items()
        ],
    )
    connection.execute("INSERT INTO detached VALUES (5, 3)")
    many(
        "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
        [(key, bytes([key]) * 32, *row) for key, row in _BLOCKS.items()],
    )
    many("INSERT INTO frame VALUES (?, ?, ?, ?, ?, ?)", [(*key, *row) for key, row in _FRAMES.items()])
    many(
        "INSERT INTO pack VALUES (?, ?, ?, ?, NULL, 'full')",
        [(key, bytes([key]) * 32, bytes([key]) * 32, size) for key, size in PACK_BYTES.items()],
    )
