"""The audit around its checks: what it lists, what it bounds, what it leaves alone, and whom a fault affects."""

from __future__ import annotations

import hashlib
from pathlib import Path

import apsw
import apsw.ext
import pytest

from cubefs.db.audit import CHECKS, ROWS_MAX_COUNT, UNREADABLE, Audit
from cubefs.db.audit_check import Affected, AffectedPath, Check, Severity, Violation
from cubefs.db.audit_overlap import FirstOverlap
from cubefs.db.audit_paths import PATHS_MAX_COUNT
from cubefs.errors import IntegrityError
from tests.support import tiny_fs

MONDAY, TUESDAY = b"monday", b"tuesday"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A valid database."""
    path = tmp_path / "db"
    tiny_fs.build(path)
    return path


def _violations(path: Path, *, is_shipped: bool = True) -> list[Violation]:
    with Audit(path, is_shipped=is_shipped, uuid=tiny_fs.UUID) as audit:
        return list(audit.violations())


def _affected_by(path: Path, *blocks: int) -> Affected:
    with Audit(path) as audit:
        assert list(audit.violations()) == []
        return audit.affected_by_blocks(blocks)


# -- the database is left alone ------------------------------------------------------------------------------


def test_the_database_is_not_changed(database: Path) -> None:
    tiny_fs.change(database, "UPDATE block SET refs = 9", "DELETE FROM symlink")
    before = hashlib.sha256(database.read_bytes()).digest()
    assert _violations(database)
    assert hashlib.sha256(database.read_bytes()).digest() == before
    assert [path.name for path in database.parent.iterdir()] == [database.name]


def test_writing_to_the_database_is_refused(database: Path) -> None:
    with Audit(database) as audit, pytest.raises(apsw.AuthError):
        audit._connection.execute("DELETE FROM main.orphan")


def test_a_database_in_use_is_seen_at_its_last_commit(database: Path) -> None:
    writer = apsw.Connection(str(database))
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("UPDATE counter SET value = value + 1 WHERE name = 'pack'")
    writer.execute("INSERT INTO pack VALUES (3, ?, NULL, 0, NULL, NULL)", (bytes(32),))
    writer.execute("INSERT INTO local_pack VALUES (?, 1, 0, 0)", (bytes(32),))
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM inode")
    assert _violations(database, is_shipped=False) == []
    shipped = [violation.check.name for violation in _violations(database)]
    assert shipped == ["local-rows", "pack-name"]
    writer.execute("ROLLBACK")
    writer.close()


# -- what cannot be read -------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(IntegrityError, match="not a database"):
        Audit(path)


def test_a_damaged_page_is_found_by_sqlite(database: Path) -> None:
    connection = apsw.Connection(str(database))
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'dentry_name'").get
    page_bytes = connection.execute("PRAGMA page_size").get
    connection.close()
    data = bytearray(database.read_bytes())
    start = (page - 1) * page_bytes
    data[start + page_bytes - 20 : start + page_bytes] = bytes(20)  # an entry of the index
    database.write_bytes(data)
    assert "sqlite-integrity" in [violation.check.name for violation in _violations(database)]


def test_the_other_checks_run_when_a_table_is_gone(database: Path) -> None:
    tiny_fs.change(database, "DROP TABLE xattr_history", "UPDATE block SET refs = 5 WHERE id = 1")
    found = _violations(database)
    assert {"schema", "unreadable", "block-refs"} == {violation.check.name for violation in found}
    told = [violation.row["problem"] for violation in found if violation.check is UNREADABLE]
    assert len(told) == len(set(told)) <= 2


# -- what is listed ------------------------------------------------------------------------------------------


def test_rows_are_listed_up_to_a_bound_and_counted_beyond(database: Path) -> None:
    numbers = range(100, 100 + ROWS_MAX_COUNT + 7)
    tiny_fs.change(database, *(f"INSERT INTO orphan VALUES ({number})" for number in numbers))
    found = [violation for violation in _violations(database) if violation.check.name == "orphan-row"]
    assert len(found) == ROWS_MAX_COUNT + 1
    assert [violation.row["inode"] for violation in found[:-1]] == list(numbers)[:ROWS_MAX_COUNT]
    assert (found[-1].row, found[-1].rest_count) == ({}, 7)


def test_a_row_says_where(database: Path) -> None:
    tiny_fs.change(database, "UPDATE block SET refs = 3 WHERE id = 4")
    [violation] = _violations(database)
    assert violation.row == {"block": 4, "refs": 3, "extents": 2}
    assert violation.check.severity is Severity.ERROR


def test_progress_reaches_its_end(database: Path) -> None:
    steps: list[tuple[int, int]] = []
    with Audit(database) as audit:
        list(audit.violations(lambda done, total: steps.append((done, total))))
    assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_is_described(check: Check) -> None:
    assert check.name.replace("-", "").isalpha()
    assert check.name == check.name.lower()
    assert check.meaning == check.meaning.strip().rstrip(".")
    assert "\n" not in check.meaning


@pytest.mark.parametrize("check", [check for check in CHECKS if check.sql], ids=lambda check: check.name)
def test_a_check_has_the_column_of_its_scope(database: Path, check: Check) -> None:
    with Audit(database) as audit:
        list(audit.violations())
        columns = [column[0] for column in apsw.ext.query_info(audit._connection, check.sql).description]
    assert check.scope.value == "" or check.scope.value in columns
    assert len(columns) == len(set(columns))


def test_counts(database: Path) -> None:
    with Audit(database) as audit:
        counts = audit.counts()
    assert (counts.inodes, counts.dentries, counts.blocks, counts.packs, counts.snapshots) == (12, 11, 7, 2, 2)
    assert counts.history_rows == 7 + 4 + 2 + 1 + 1
    assert counts.pack_bytes == sum(tiny_fs.PACK_BYTES.values())


def test_packs_frames_and_blocks_as_the_database_knows_them(database: Path) -> None:
    with Audit(database) as audit:
        assert [(pack.id, pack.size_bytes) for pack in audit.packs()] == list(tiny_fs.PACK_BYTES.items())
        assert audit.frames(2)[1] == (781, 200, 350)
        assert [(block.id, block.place.frame_offset) for block in audit.blocks(2)] == [
            (4, 0),
            (5, 300),
            (6, 0),
            (7, 250),
        ]


# -- what is affected ----------------------------------------------------------------------------------------


def test_each_view_that_sees_the_block_is_named(database: Path) -> None:
    affected = _affected_by(database, 2)
    assert affected.paths == (
        AffectedPath(b"docs/a.txt", True, (TUESDAY,)),
        AffectedPath(b"hard", True, ()),
    )
    assert (affected.more_count, affected.is_live, affected.snapshots) == (0, True, (TUESDAY,))


def test_a_block_that_only_a_snapshot_needs(database: Path) -> None:
    assert _affected_by(database, 1).paths == (AffectedPath(b"docs/a.txt", False, (MONDAY,)),)
    assert _affected_by(database, 5) == Affected(
        (AffectedPath(b"gone.txt", False, (MONDAY,)),), 0, False, (MONDAY,)
    )


def test_extents_that_wait_to_be_retired_belong_to_the_snapshots(database: Path) -> None:
    paths = _affected_by(database, 4).paths
    assert paths == (
        AffectedPath(b"cut.txt", False, (MONDAY, TUESDAY)),
        AffectedPath(b"docs/b.bin", True, (MONDAY, TUESDAY)),
    )


def test_a_renamed_directory_gives_a_path_per_name(database: Path) -> None:
    assert _affected_by(database, 6).paths == (
        AffectedPath(b"dir1/caf\xe9", False, (MONDAY, TUESDAY)),
        AffectedPath(b"dir2/caf\xe9", True, ()),
    )


def test_a_block_that_nobody_needs_affects_nothing(database: Path) -> None:
    assert _affected_by(database, 7).paths == ()


@pytest.mark.parametrize(
    ("sql", "check", "path"),
    [
        ("UPDATE inode SET allocated_bytes = 1 WHERE id = 27", "inode-allocated", b"cut.txt"),
        ("UPDATE dentry SET inode = 99 WHERE id = 6", "dentry-inode", b"pipe"),
        ("UPDATE inode SET size_bytes = 2097400 WHERE id = 18", "extent-beyond-size", b"docs/b.bin"),
        ("UPDATE block SET refs = 7 WHERE id = 3", "block-refs", b"docs/b.bin"),
        ("UPDATE frame SET live_bytes = 0 WHERE pack = 1 AND number = 2", "frame-live-bytes", b"docs/b.bin"),
        ("UPDATE pack SET size_bytes = 99 WHERE id = 1", "pack-size", b"docs/a.txt"),
        ("UPDATE inode SET nlink = 5 WHERE id = 19", "directory-nlink", b"docs/sub/"),
        ("UPDATE inode SET nlink = 5 WHERE id = 1", "directory-nlink", b"/"),
    ],
)
def test_a_violation_leads_to_the_path(database: Path, sql: str, check: str, path: bytes) -> None:
    tiny_fs.change(database, sql)
    [affected] = [violation.affected for violation in _violations(database) if violation.check.name == check]
    assert path in [found.path for found in affected.paths]


def test_only_the_views_with_the_fault_are_affected(database: Path) -> None:
    tiny_fs.change(database, "UPDATE inode_history SET nlink = 2 WHERE id = 17 AND until = 3")
    [violation] = _violations(database)
    assert violation.affected == Affected((AffectedPath(b"docs/a.txt", False, (TUESDAY,)),), 0, False, (TUESDAY,))


def test_a_directory_that_does_not_lead_to_the_root_is_still_named(database: Path) -> None:
    tiny_fs.change(database, "UPDATE dentry SET parent = 19, since = 3 WHERE id = 1")
    unreachable = [v.affected for v in _violations(database) if v.check.name == "directory-unreachable"]
    paths = [found.path for affected in unreachable for found in affected.paths if found.is_live]
    # docs is in sub, and sub in docs: once around
    assert paths == [b"(unreachable directory 19)/docs/sub/docs/", b"(unreachable directory 16)/sub/docs/sub/"]


def test_many_paths_are_counted_not_listed(database: Path) -> None:
    statements = [
        "UPDATE inode SET nlink = 32 WHERE id = 17",
        "UPDATE counter SET value = 50 WHERE name = 'dentry'",
    ]
    statements += [f"INSERT INTO dentry VALUES ({20 + n}, 3, 19, CAST('n{n:02}' AS BLOB), 17)" for n in range(30)]
    tiny_fs.change(database, *statements)
    affected = _affected_by(database, 2)
    assert len(affected.paths) == PATHS_MAX_COUNT
    assert len(affected.paths) + affected.more_count == 32


def test_a_deep_path(database: Path) -> None:
    statements = ["UPDATE counter SET value = 5000", "UPDATE counter SET value = 3 WHERE name = 'epoch'"]
    columns = "since, body, mode, uid, gid, size_bytes, allocated_bytes, rdev, mtime_ns, ctime_ns, btime_ns"
    for number in range(100, 1700):
        nlink = 2 if number == 1699 else 3
        statements += [
            f"INSERT INTO inode (id, nlink, {columns}) VALUES ({number}, {nlink}, 3, 0, 16877, 0,0,0,0,0,1,1,1)",
            f"INSERT INTO dentry VALUES ({number}, 3, {number - 1 if number > 100 else 1}, x'64', {number})",
        ]
    statements += [
        "UPDATE inode SET nlink = 5 WHERE id = 1",
        "UPDATE dentry SET parent = 1699, since = 3 WHERE id = 3",
        "INSERT INTO dentry_history VALUES (16, 2, 3, 3, 1, CAST('b.bin' AS BLOB), 18)",
    ]
    tiny_fs.change(database, *statements)
    assert _affected_by(database, 3).paths == (
        AffectedPath(b"d/" * 1600 + b"b.bin", True, ()),
        AffectedPath(b"docs/b.bin", False, (MONDAY, TUESDAY)),
    )


# -- the sweep -----------------------------------------------------------------------------------------------


def _first_overlap(*versions: tuple[int, int, int, int]) -> str | None:
    sweep = FirstOverlap()
    for version in versions:
        sweep.step(*version)
    return sweep.final()


def test_versions_that_follow_each_other_in_file_or_time_do_not_overlap() -> None:
    assert _first_overlap((0, 10, 0, 2), (0, 5, 2, 3), (5, 5, 2, 3), (10, 10, 0, 3)) is None


def test_an_overlap_with_one_that_began_long_before_is_found() -> None:
    versions = [(0, 100, 0, 1), *((start, 10, 1, 9) for start in range(0, 90, 10)), (90, 10, 0, 2)]
    assert _first_overlap(*versions) == "[0, 90, 0, 1]"


@pytest.mark.parametrize("seed", range(40))
def test_the_sweep_agrees_with_comparing_all_pairs(seed: int) -> None:
    state = seed * 7919 + 1
    versions = []
    for _ in range(12):
        numbers = []
        for bound in (30, 6, 8, 3):
            state = state * 6364136223846793005 % 2**64 + 1442695040888963407
            numbers.append((state >> 33) % bound)
        start, length, lo, views = numbers
        versions.append((start, length + 1, lo, lo + views + 1))
    versions.sort(key=lambda version: version[0])
    meet = any(
        a[0] < b[0] + b[1] and b[0] < a[0] + a[1] and a[2] < b[3] and b[2] < a[3]
        for number, a in enumerate(versions)
        for b in versions[:number]
    )
    assert (_first_overlap(*versions) is not None) == meet
