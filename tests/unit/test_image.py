"""The database as a file: made, copied, changed by changesets, checked."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubefs.db import image, schema
from cubefs.errors import IntegrityError, LocalDiskError, UnsupportedVersionError
from cubefs.model import Chunking
from tests.support.log_machine import dump, record_changes

UUID = bytes(range(16))
NOW_NS = 1_700_000_000_123_456_789


def create(path: Path, chunking: Chunking = Chunking.CONTENT) -> Path:
    image.create_image(path, uuid=UUID, chunking=chunking, now_ns=NOW_NS, uid=1000, gid=100, label="é")
    return path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(path))
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return create(tmp_path / "database")


# -- making ---------------------------------------------------------------------------------------------------


def test_an_empty_file_system(path: Path) -> None:
    rows = dump(path)
    assert dict(rows["meta"]) == {
        "uuid": UUID,
        "chunking": b"content",
        "created_ns": b"1700000000123456789",
        "label": "é".encode(),
    }
    assert dict(rows["counter"]) == {"epoch": 1, "inode": 15, "dentry": 0, "body": 0, "block": 0, "pack": 0}
    assert rows["inode"] == [(1, 1, 0, 0o40755, 1000, 100, 2, 0, 0, 0, NOW_NS, NOW_NS, NOW_NS)]
    assert all(not rows[table] for table in schema.SHIPPED if table not in ("meta", "counter", "inode"))
    image.check_image(path)


def test_it_is_plain_sqlite_in_one_file(path: Path, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == [path]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA_VERSION,)


def test_an_existing_file_is_not_touched(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(LocalDiskError, match="exists already"):
        create(path)
    assert path.read_bytes() == before


# -- copying --------------------------------------------------------------------------------------------------

SECRET = b"only-this-machine-knows"


def fill(connection: apsw.Connection) -> None:
    connection.pragma("journal_mode", "WAL")
    rows = [(number, 1, 1, b"name %d" % number, 16) for number in range(1, 500)]
    connection.executemany("INSERT INTO dentry VALUES (?, ?, ?, ?, ?)", rows)
    connection.execute("INSERT INTO local_pack VALUES (?, 1, 5, 5)", (SECRET,))
    connection.execute("INSERT INTO local_outbox VALUES (1, 0, 5, ?)", (SECRET * 1000,))
    connection.execute("INSERT INTO local_log VALUES (1, 1, ?)", (SECRET,))
    connection.execute("INSERT INTO local_head VALUES (1, 5, ?, ?, 0, 0)", (SECRET, SECRET))


def test_an_image_has_everything_but_the_local_rows(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "image"
    target.write_bytes(b"an old one")
    with opened(path) as connection:
        fill(connection)
        image.take_image(path, target)
        assert dump(target) == dump(path)
        assert connection.execute("SELECT count(*) FROM local_pack").fetchall() == [(1,)]
    rows = dump(target, tuple(schema.LOCAL))
    assert set(rows) == set(schema.LOCAL)
    assert not any(rows.values())
    assert SECRET not in target.read_bytes()  # not in free pages either
    assert {found.name for found in tmp_path.iterdir()} == {"database", "image"}
    image.check_image(target)
    assert target.read_bytes()[18:20] == b"\1\1"  # the file format's version bytes: no WAL
    with opened(target) as connection:
        assert connection.pragma("freelist_count") == 0
        schemas = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema ORDER BY name")]
    with opened(path) as connection:
        assert schemas == [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_schema ORDER BY name")]


def test_a_pinned_image_is_of_its_moment(path: Path, tmp_path: Path) -> None:
    with opened(path) as connection:
        fill(connection)
        before = dump(path)
        with image.pin(path) as pinned:
            connection.execute("DELETE FROM dentry WHERE id % 2")
            connection.execute("UPDATE counter SET value = 7")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            pinned.write(tmp_path / "image")
        assert dump(tmp_path / "image") == before != dump(path)
        image.take_image(path, tmp_path / "image")
        assert dump(tmp_path / "image") == dump(path)
        # let go of: the WAL can be emptied again
        assert connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE) == (0, 0)


def test_an_uncommitted_change_is_in_no_image(path: Path, tmp_path: Path) -> None:
    with opened(path) as connection:
        fill(connection)
        before = dump(path)
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM dentry")
        image.take_image(path, tmp_path / "image")
        connection.execute("ROLLBACK")
    assert dump(tmp_path / "image") == before


def test_what_a_crash_left_does_not_get_into_the_next_copy(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "image"
    with opened(create(tmp_path / "image.raw")) as connection:
        connection.pragma("journal_mode", "WAL")
        connection.execute("INSERT INTO dentry VALUES (77, 1, 1, x'61', 16)")
        left = {suffix: (tmp_path / f"image.raw{suffix}").read_bytes() for suffix in ("", "-wal")}
    for suffix, data in left.items():
        (tmp_path / f"image.raw{suffix}").write_bytes(data)
        (tmp_path / f"image{suffix}").write_bytes(data)
    image.take_image(path, target)
    assert dump(target) == dump(path)
    assert {found.name for found in tmp_path.iterdir()} == {"database", "image"}


def test_a_failed_copy_leaves_nothing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError):
        image.take_image(tmp_path / "none", tmp_path / "image")
    with pytest.raises(LocalDiskError):
        image.take_image(path, tmp_path / "none" / "image")
    assert {found.name for found in tmp_path.iterdir()} == {"database"}


# -- changesets -----------------------------------------------------------------------------------------------

H32 = bytes(32)
A_ROW_OF_EACH: dict[str, tuple[object, ...]] = {
    "meta": ("k", b"v"),
    "counter": ("k", 1),
    "snapshot": (1, b"s", 5, 1),
    "commit_point": (1, 5),
    "inode": (16, 1, 1, 0o100644, 0, 0, 1, 5, 5, 0, 1, 2, 3),
    "inode_history": (16, 2, 1, 1, 0o100644, 0, 0, 1, 5, 5, 0, 1, 2, 3),
    "dentry": (1, 1, 1, b"n", 16),
    "dentry_history": (1, 1, 1, 2, 1, b"n", 16),
    "extent": (1, 0, 1, 5, 1, 0, 0),
    "extent_history": (1, 1, 0, 2, 1, 5, 1, 0, 0),
    "xattr": (16, b"user.x", 1, b"v"),
    "xattr_history": (16, b"user.x", 2, 1, b"v"),
    "symlink": (17, 1, b"target"),
    "symlink_history": (17, 2, 1, b"target"),
    "detached": (5, 1),
    "orphan": (18,),
    "block": (1, H32, 5, 1, 1, 0, 0, 0),
    "pack": (1, H32, None, 5, None, None),
    "frame": (1, 0, 64, 10, 5, 5),
}


def test_a_change_of_every_shipped_table_arrives(path: Path, tmp_path: Path) -> None:
    assert set(A_ROW_OF_EACH) == set(schema.SHIPPED)

    def edit(connection: apsw.Connection) -> None:
        for table, row in A_ROW_OF_EACH.items():
            connection.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)

    other = create(tmp_path / "other")
    with opened(path) as connection:
        changeset = record_changes(connection, edit)
    image.apply_changesets(other, [changeset])
    assert dump(other) == dump(path)
    image.check_image(other)


def insert(number: int) -> str:
    return f"INSERT INTO dentry VALUES ({number}, 1, 1, x'61', 16)"


@pytest.fixture
def changes(path: Path) -> list[bytes]:
    """Three changesets that follow each other."""
    statements = [insert(1), insert(2), "UPDATE dentry SET name = x'62' WHERE id = 1"]
    with opened(path) as connection:
        return [record_changes(connection, lambda c, sql=sql: c.execute(sql)) for sql in statements]  # type: ignore[misc]


CONFLICTS = {
    "an insert of a row that is there": [0, 0],
    "an update of a row that is not there": [2],
    "an update of a row that has other values": [0, 2, 2],
    "one of many": [0, 1, 2, 1],
}


@pytest.mark.parametrize("order", CONFLICTS.values(), ids=CONFLICTS)
def test_a_conflict_is_corruption_and_applies_nothing(
    changes: list[bytes], tmp_path: Path, order: list[int]
) -> None:
    other = create(tmp_path / "other")
    before = dump(other)
    with pytest.raises(IntegrityError, match=r"does not fit the database.*'dentry'"):
        image.apply_changesets(other, [changes[number] for number in order])
    assert dump(other) == before


def test_a_delete_of_a_row_that_is_not_there_is_a_conflict(path: Path, tmp_path: Path) -> None:
    other = create(tmp_path / "other")
    with opened(path) as connection:
        connection.execute(insert(1))
        changeset = record_changes(connection, lambda c: c.execute("DELETE FROM dentry"))
    with pytest.raises(IntegrityError, match="DELETE in 'dentry'"):
        image.apply_changesets(other, [changeset])


def test_a_table_that_is_not_shipped_is_refused(changes: list[bytes], path: Path, tmp_path: Path) -> None:
    """SQLite by itself would fill the local table, and silently pass over one it does not have."""
    with opened(path) as connection:
        connection.execute("CREATE TABLE newer (id INTEGER PRIMARY KEY NOT NULL)")
        session = apsw.Session(connection, "main")
        session.attach()
        connection.execute("INSERT INTO local_pack VALUES (x'00', 1, 5, 5)")
        local = session.changeset()
        connection.execute("DELETE FROM local_pack")
        connection.execute("INSERT INTO newer VALUES (1)")
        newer = session.changeset()
        session.close()
    other = create(tmp_path / "other")
    for changeset, table in ((local, "local_pack"), (newer, "newer")):
        with pytest.raises(IntegrityError, match=f"'{table}', which is not a shipped table"):
            image.apply_changesets(other, [changes[0], changeset])
    assert dump(other)["dentry"] == []


@pytest.mark.parametrize("spoilt", [b"junk", b"T", bytes(100)])
def test_a_malformed_changeset_is_refused(changes: list[bytes], tmp_path: Path, spoilt: bytes) -> None:
    other = create(tmp_path / "other")
    for bad in (spoilt, changes[0][:-2]):
        with pytest.raises(IntegrityError):
            image.apply_changesets(other, [changes[0], bad])
        with pytest.raises(IntegrityError):
            image.combine([changes[0], bad])
    assert dump(other)["dentry"] == []


def test_a_source_that_fails_applies_nothing(changes: list[bytes], tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield changes[0]
        raise IntegrityError("the next one is damaged")

    other = create(tmp_path / "other")
    with pytest.raises(IntegrityError, match="the next one is damaged"):
        image.apply_changesets(other, source())
    assert dump(other)["dentry"] == []


def test_a_connection_inside_its_transaction(changes: list[bytes], tmp_path: Path) -> None:
    other = create(tmp_path / "other")
    with opened(other) as connection:
        connection.execute("BEGIN")
        image.apply_changesets(connection, changes[:1])
        with pytest.raises(IntegrityError):
            image.apply_changesets(connection, [changes[1], changes[0]])
        assert connection.in_transaction
        assert connection.execute("SELECT id FROM dentry").fetchall() == [(1,)]
        connection.execute("ROLLBACK")
    assert dump(other)["dentry"] == []


def test_nothing_is_applied_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError):
        image.apply_changesets(tmp_path / "none", [])
    assert list(tmp_path.iterdir()) == []


def test_swapped_names_apply(path: Path, tmp_path: Path) -> None:
    """Why the schema has no UNIQUE index beside its primary keys."""
    other = create(tmp_path / "other")
    with opened(path) as connection:
        first = record_changes(connection, lambda c: c.execute(insert(1)) and c.execute(insert(2)))
        swap = "UPDATE dentry SET name = CASE id WHEN 1 THEN x'62' ELSE x'61' END"
        second = record_changes(connection, lambda c: c.execute(swap))
    image.apply_changesets(other, [first, second])
    assert dump(other) == dump(path)


# Edits by (verb, table, key, value): whatever the rows are, the statement succeeds.
EDITS = {
    ("put", "dentry"): "INSERT OR REPLACE INTO dentry VALUES (:key, 1, 1, CAST(:value AS BLOB), :value)",
    ("change", "dentry"): "UPDATE dentry SET inode = :value WHERE id = :key",
    ("drop", "dentry"): "DELETE FROM dentry WHERE id = :key",
    ("move", "dentry"): "UPDATE OR REPLACE dentry SET id = :value + 1 WHERE id = :key",
    ("put", "extent"): "INSERT OR REPLACE INTO extent VALUES (:key % 2, :key, 1, 1 + :value, :value, 0, 0)",
    ("change", "extent"): "UPDATE extent SET length = 1 + :value WHERE file_offset = :key",
    ("drop", "extent"): "DELETE FROM extent WHERE file_offset = :key",
    ("move", "extent"): "UPDATE OR REPLACE extent SET file_offset = :value WHERE file_offset = :key",
    ("put", "counter"): "INSERT OR REPLACE INTO counter VALUES ('c' || :key, :value)",
    ("drop", "counter"): "DELETE FROM counter WHERE name = 'c' || :key",
    ("change", "counter"): "UPDATE counter SET value = value + :value",
    ("put", "pack"): "INSERT OR REPLACE INTO pack VALUES (:key, zeroblob(32), NULL, :value, NULL, NULL)",
    ("change", "pack"): "UPDATE pack SET name = CASE :value % 2 WHEN 1 THEN NULL ELSE x'00' END WHERE id = :key",
}
edit = st.tuples(st.sampled_from(sorted(EDITS)), st.integers(0, 4), st.integers(0, 4))
batches = st.lists(st.lists(edit, max_size=8), max_size=6)


@settings(max_examples=120, deadline=None)
@given(batches=batches)
def test_combined_is_the_same_as_one_after_the_other(
    batches: list[list[tuple[tuple[str, str], int, int]]],
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        first, second, third = (create(Path(directory) / name) for name in ("first", "second", "third"))

        def run(connection: apsw.Connection, batch: list[tuple[tuple[str, str], int, int]]) -> None:
            for what, key, value in batch:
                connection.execute(EDITS[what], {"key": key, "value": value})

        with opened(first) as connection:
            connection.pragma("synchronous", "OFF")
            changesets = [record_changes(connection, lambda c, b=batch: run(c, b)) for batch in batches]  # type: ignore[misc]
        image.apply_changesets(second, changesets)
        half = len(changesets) // 2
        image.apply_changesets(third, [image.combine(changesets[:half]), image.combine(changesets[half:])])
        assert dump(first) == dump(second) == dump(third)


def test_combining_nothing(changes: list[bytes], tmp_path: Path) -> None:
    assert image.combine([]) == b""
    assert image.combine([b"", b""]) == b""
    assert image.combine([changes[0]]) == changes[0]
    other = create(tmp_path / "other")
    image.apply_changesets(other, [b"", image.combine([b"", changes[0], b""])])
    assert len(dump(other)["dentry"]) == 1


# -- checking -------------------------------------------------------------------------------------------------


def test_another_schema_version_is_refused(path: Path) -> None:
    with opened(path) as connection:
        connection.pragma("user_version", schema.SCHEMA_VERSION + 1)
    for check in (image.check_version, image.check_image):
        with pytest.raises(UnsupportedVersionError, match="version 2, this cubefs knows version 1"):
            check(path)


def test_damage_is_found(path: Path) -> None:
    with opened(path) as connection:
        fill(connection)
        connection.pragma("journal_mode", "DELETE")
    whole = path.read_bytes()
    image.check_image(path)
    # an index that lost its rows: the root page of dentry_name becomes an empty leaf
    with opened(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'dentry_name'").fetchall()[0]
    start = (page - 1) * 4096
    for spoilt in (
        whole[:start] + b"\x0a" + bytes(4) + b"\x10\0\0" + bytes(4088) + whole[start + 4096 :],
        whole[: len(whole) // 2 // 4096 * 4096],
        b"not a database at all" * 1000,
    ):
        path.write_bytes(spoilt)
        with pytest.raises(IntegrityError, match=r"damaged|not a database"):
            image.check_image(path)


def test_errors_say_which_file(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match=os.fspath(tmp_path)):
        image.check_image(tmp_path / "none")
