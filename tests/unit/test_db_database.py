"""The database: batches, operations, what an error that ends the transaction leaves behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from cubefs.db import image
from cubefs.db.database import Database, DatabaseLostError
from cubefs.db.outbox import Outbox
from cubefs.errors import IntegrityError, LocalDiskError, PosixError, UnsupportedVersionError
from cubefs.model import Chunking

NOW_NS = 1_700_000_000 * 10**9


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    path = tmp_path / "db.sqlite"
    image.create_image(path, uuid=b"u" * 16, chunking=Chunking.CONTENT, now_ns=NOW_NS)
    database = Database(path)
    yield database
    database.close()


def put(database: Database, key: str, value: bytes = b"v") -> None:
    with database.operation():
        database.execute("INSERT INTO meta VALUES (?, ?)", (key, value))


def commit(database: Database, *, cut: bool = False) -> int:
    return database.commit(cut=cut, time_ns=NOW_NS).number


def test_an_operation_is_undone_as_a_whole(database: Database) -> None:
    put(database, "before")
    with pytest.raises(PosixError), database.operation():
        database.execute("INSERT INTO meta VALUES ('half', x'00')")
        raise PosixError(2)
    commit(database)
    assert database.meta("before") == b"v"
    with pytest.raises(IntegrityError, match="half"):
        database.meta("half")


def test_a_constraint_undoes_the_operation_and_not_the_batch(database: Database) -> None:
    put(database, "before")
    with pytest.raises(LocalDiskError), database.operation():
        database.execute("INSERT INTO meta VALUES ('before', x'00')")
    put(database, "after")
    commit(database)
    assert (database.meta("before"), database.meta("after")) == (b"v", b"v")


def test_after_the_batch_is_lost_nothing_is_accepted(database: Database) -> None:
    """Otherwise later operations would commit on their own, on top of rows that are gone."""
    commit(database)
    put(database, "lost")
    pages = database.execute("PRAGMA page_count").get
    database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DatabaseLostError), database.operation():
        for number in range(100):
            database.execute("INSERT INTO meta VALUES (?, ?)", (f"big {number}", bytes(4000)))
    database.execute("PRAGMA max_page_count = 1000000")
    with pytest.raises(DatabaseLostError):
        put(database, "later")
    with pytest.raises(DatabaseLostError):
        commit(database)
    database.close()
    with apsw.Connection(str(database.path)) as connection:
        keys = {row[0] for row in connection.execute("SELECT key FROM meta")}
        assert not keys & {"lost", "later", "big 0"}
        assert connection.execute("SELECT count(*) FROM local_outbox").get == 0


def test_commits_are_numbered_and_empty_ones_are_not(database: Database) -> None:
    assert commit(database) == 0
    put(database, "a")
    assert commit(database) == 1
    assert commit(database) == 0
    with database.operation():  # local rows are never shipped
        database.execute("INSERT INTO local_pack VALUES (zeroblob(32), 1, 0, 0)")
    assert database.changed_rows == 1
    assert commit(database, cut=True) == 0
    put(database, "b")
    assert commit(database, cut=True) == 2
    assert Outbox(database).next_cut(1000, durable_number=9) == 2
    assert database.last_number == 2


def test_numbering_goes_on_after_reopening(database: Database) -> None:
    for key in ("a", "b", "c"):
        put(database, key)
        commit(database, cut=key == "b")
    put(database, "never committed")
    database.close()
    again = Database(database.path)
    try:
        assert again.last_number == 3
        with pytest.raises(IntegrityError):
            again.meta("never committed")
        put(again, "d")
        assert commit(again) == 4
    finally:
        again.close()


def test_an_earlier_commit_becomes_a_cut(database: Database) -> None:
    put(database, "a")
    commit(database)
    outbox = Outbox(database)
    assert outbox.next_cut(1000, durable_number=9) == 0
    assert commit(database, cut=True) == 0
    assert database.mark_cut() == 1
    assert outbox.next_cut(1000, durable_number=0) == 0  # committed, but not on the disk yet
    assert outbox.next_cut(1000, durable_number=1) == 1


def test_ids_survive_and_are_not_reused(database: Database) -> None:
    first = database.new_id("inode")
    commit(database)
    second = database.new_id("inode")
    assert second == first + 1
    commit(database)
    database.close()
    again = Database(database.path)
    try:
        assert again.new_id("inode") == second + 1
    finally:
        again.close()


def test_emptying_the_wal_does_not_wait_for_a_reader(database: Database) -> None:
    """A base being written pins the WAL for as long as its upload takes: the loop must not stand still."""
    put(database, "a")
    commit(database)
    with image.pin(database.path):
        put(database, "b")
        start = time.monotonic()
        database.commit(cut=False, time_ns=NOW_NS, truncate_wal=True)
        assert time.monotonic() - start < 1.0
    put(database, "c")
    database.commit(cut=False, time_ns=NOW_NS, truncate_wal=True)
    wal = database.path.with_name(database.path.name + "-wal")
    assert wal.stat().st_size == 0
    assert database.meta("b") == b"v"


def test_a_newer_schema_is_refused(database: Database) -> None:
    database.close()
    with apsw.Connection(str(database.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(UnsupportedVersionError, match="99"):
        Database(database.path)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(IntegrityError, match=r"db\.sqlite"):
        Database(path)
