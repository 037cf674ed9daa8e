"""Every named check of the audit fires on a deliberate corruption, and on nothing else than that."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from cubefs.db.audit import CHECKS, Audit
from tests.support import tiny_fs


class Corruption(NamedTuple):
    """SQL that breaks the tiny database, and which checks must notice: `check` and exactly `also`."""

    check: str
    sql: tuple[str, ...]
    also: frozenset[str] = frozenset()


def _case(check: str, *sql: str, also: str = "") -> Corruption:
    return Corruption(check, sql, frozenset(also.split()))


_INODE = "since, body, mode, uid, gid, nlink, size_bytes, allocated_bytes, rdev, mtime_ns, ctime_ns, btime_ns"
_NEXT_EPOCH = "UPDATE counter SET value = 4 WHERE name = 'epoch'"

CORRUPTIONS = (
    # -- the database as a whole
    _case("sqlite-integrity", "UPDATE block SET damaged = 2 WHERE id = 7"),
    _case("schema", "DROP INDEX block_pack"),
    _case("schema", "CREATE TRIGGER t AFTER INSERT ON inode BEGIN SELECT 1; END"),
    _case("schema", "DROP INDEX pack_salt", "CREATE INDEX pack_salt ON pack (name)"),
    _case("schema", "ALTER TABLE pack ADD COLUMN more TEXT"),
    _case("unreadable", "DROP TABLE symlink_history", also="schema"),
    _case("unreadable", "DROP TABLE snapshot", also="schema"),
    _case("meta", "DELETE FROM meta WHERE key = 'uuid'"),
    _case("meta", "UPDATE meta SET value = x'00' WHERE key = 'chunking'"),
    _case("meta", "UPDATE meta SET value = CAST('12x' AS BLOB) WHERE key = 'created_ns'"),
    _case("uuid", "UPDATE meta SET value = zeroblob(16) WHERE key = 'uuid'"),
    _case("counter-missing", "DELETE FROM counter WHERE name = 'dentry'"),
    _case("counter-missing", "DELETE FROM counter WHERE name = 'epoch'"),
    _case("counter-behind", "UPDATE counter SET value = 27 WHERE name = 'inode'"),
    _case("counter-behind", "UPDATE counter SET value = 12 WHERE name = 'dentry'"),
    _case("counter-behind", "UPDATE counter SET value = 7 WHERE name = 'body'"),
    _case("counter-behind", "UPDATE counter SET value = 6 WHERE name = 'block'"),
    _case("counter-behind", "UPDATE counter SET value = 1 WHERE name = 'pack'"),
    _case(
        "inode-number",
        "UPDATE inode SET id = 2 WHERE id = 21",
        "UPDATE dentry SET inode = 2 WHERE inode = 21",
    ),
    _case("snapshot-number", "INSERT INTO snapshot VALUES (3, x'61', 0, 1)"),
    _case("snapshot-number", "INSERT INTO snapshot VALUES (0, x'61', 0, 2)", also="snapshot-deleting"),
    _case("snapshot-name", "UPDATE snapshot SET name = CAST('a/b' AS BLOB) WHERE number = 1"),
    _case("snapshot-name", "UPDATE snapshot SET name = x'' WHERE number = 1"),
    _case("snapshot-name-taken", "UPDATE snapshot SET name = CAST('monday' AS BLOB)"),
    _case("snapshot-deleting", "UPDATE snapshot SET state = 2 WHERE number = 1"),
    _case("local-rows", "INSERT INTO local_outbox VALUES (1, 1, 1, x'00')"),
    # -- history
    _case("inode-since", "UPDATE inode SET since = 4 WHERE id = 23"),
    _case("dentry-since", "UPDATE dentry SET since = 0 WHERE id = 1"),
    _case("extent-since", "UPDATE extent SET since = 0 WHERE body = 7"),
    _case("xattr-since", "UPDATE xattr SET since = 4"),
    _case("symlink-since", "UPDATE symlink SET since = 0"),
    _case("inode-interval", "UPDATE inode_history SET since = 0 WHERE id = 22"),
    _case(
        "inode-interval",
        "UPDATE inode_history SET since = 3 WHERE id = 28",
        also="dentry-inode inode-unseen sqlite-integrity symlink-stray",
    ),
    _case("dentry-interval", "UPDATE dentry_history SET until = 4 WHERE id = 12", also="dentry-inode"),
    _case("extent-interval", "UPDATE extent_history SET since = 0 WHERE body = 3"),
    _case("xattr-interval", "UPDATE xattr_history SET since = 0"),
    _case("symlink-interval", "UPDATE symlink_history SET since = 0"),
    _case("inode-overlap", "UPDATE inode SET since = 2 WHERE id = 17", also="file-nlink inode-allocated"),
    _case(
        "inode-overlap",
        "UPDATE inode_history SET since = 1 WHERE id = 17 AND until = 3",
        also="extent-beyond-size file-nlink inode-allocated",
    ),
    _case("dentry-overlap", "UPDATE dentry SET since = 2 WHERE id = 9", also="directory-entry directory-nlink"),
    _case("extent-overlap", "UPDATE extent SET since = 1 WHERE body = 1", also="extent-crossing inode-allocated"),
    _case("xattr-overlap", "UPDATE xattr SET since = 1"),
    _case("symlink-overlap", "INSERT INTO symlink_history VALUES (28, 2, 1, CAST('docs' AS BLOB))"),
    _case(
        "inode-unseen",
        _NEXT_EPOCH,
        f"INSERT INTO inode_history (id, until, {_INODE}) SELECT 22, 4, 3, {_INODE[7:]} FROM inode WHERE id = 21",
    ),
    _case("dentry-unseen", _NEXT_EPOCH, "INSERT INTO dentry_history VALUES (1, 3, 7, 4, 3, x'61', 22)"),
    _case(
        "extent-unseen",
        _NEXT_EPOCH,
        "INSERT INTO extent_history VALUES (3, 3, 0, 4, 3, 400, 5, 0, 0)",
        "UPDATE block SET refs = 2 WHERE id = 5",
    ),
    _case("xattr-unseen", _NEXT_EPOCH, "INSERT INTO xattr_history VALUES (22, x'61', 4, 3, x'')"),
    _case("symlink-unseen", _NEXT_EPOCH, "INSERT INTO symlink_history VALUES (28, 4, 3, x'61')"),
    _case("inode-unseen", "DELETE FROM snapshot WHERE number = 1", also="dentry-unseen extent-unseen xattr-unseen"),
    _case("dentry-fork", "UPDATE dentry_history SET fork = 1 WHERE id = 8"),
    _case("extent-fork", "UPDATE extent_history SET until = 3 WHERE body = 3", also="extent-body"),
    # -- the tree
    _case("root", "DELETE FROM inode_history WHERE id = 1", also="dentry-parent"),
    _case(
        "root",
        "UPDATE dentry SET inode = 1 WHERE id = 6",
        also="directory-entry directory-nlink file-nlink inode-orphan",
    ),
    _case("inode-kind", "UPDATE inode SET mode = 0 WHERE id = 21"),
    _case("inode-kind", f"UPDATE inode SET mode = {0o140644} WHERE id = 17", also="inode-body inode-size"),
    _case("inode-body", "UPDATE inode SET body = 0 WHERE id = 24"),
    _case("inode-body", "UPDATE inode SET body = 8 WHERE id = 21", also="body-shared"),
    _case("inode-size", "UPDATE inode SET size_bytes = 1 WHERE id = 16"),
    _case("inode-size", "UPDATE inode SET allocated_bytes = 1 WHERE id = 20"),
    _case("inode-orphan", "DELETE FROM orphan"),
    _case("inode-orphan", "DELETE FROM dentry WHERE id = 11", also="file-nlink"),
    _case("orphan-row", "INSERT INTO orphan VALUES (21)"),
    _case("orphan-row", "INSERT INTO orphan VALUES (99)"),
    _case("dentry-name", "UPDATE dentry SET name = CAST('a/b' AS BLOB) WHERE id = 6"),
    _case("dentry-name", "UPDATE dentry SET name = x'6100' WHERE id = 6"),
    _case("dentry-name", "UPDATE dentry SET name = CAST('..' AS BLOB) WHERE id = 6"),
    _case("dentry-name", "UPDATE dentry_history SET name = CAST('snapshots' AS BLOB) WHERE id = 7"),
    _case("dentry-name-taken", "UPDATE dentry SET name = CAST('link' AS BLOB) WHERE id = 6"),
    _case("dentry-name-taken", "UPDATE dentry_history SET name = CAST('link' AS BLOB) WHERE id = 7"),
    _case("dentry-name-taken", "UPDATE dentry_history SET name = CAST('dir1' AS BLOB) WHERE id = 7"),
    _case("dentry-inode", "UPDATE dentry SET inode = 99 WHERE id = 6", also="file-nlink inode-orphan"),
    _case("dentry-inode", "DELETE FROM inode_history WHERE id = 22", also="extent-body"),
    _case("dentry-inode", "UPDATE dentry_history SET inode = 19 WHERE id = 7", also="file-nlink"),
    _case("dentry-parent", "UPDATE dentry SET parent = 21 WHERE id = 6"),
    _case("dentry-parent", "UPDATE dentry SET parent = 19, since = 1 WHERE id = 6"),
    _case(
        "directory-entry",
        "DELETE FROM dentry WHERE id = 4",
        also="directory-nlink directory-unreachable inode-orphan",
    ),
    _case(
        "directory-entry", "INSERT INTO dentry VALUES (12, 2, 25, x'61', 19)", also="dentry-overlap directory-nlink"
    ),
    _case("directory-nlink", "UPDATE inode SET nlink = 3 WHERE id = 25"),
    _case("directory-nlink", "UPDATE inode_history SET nlink = 3 WHERE id = 16"),
    _case(
        "directory-unreachable", "UPDATE dentry SET parent = 19 WHERE id = 1", also="dentry-parent directory-nlink"
    ),
    _case("file-nlink", "UPDATE inode SET nlink = 3 WHERE id = 17"),
    _case("file-nlink", "UPDATE inode_history SET nlink = 2 WHERE id = 17 AND until = 2"),
    _case("symlink-missing", "DELETE FROM symlink"),
    _case("symlink-missing", "UPDATE symlink_history SET until = 2"),
    _case("symlink-stray", "INSERT INTO symlink VALUES (17, 3, x'61')"),
    _case("symlink-stray", "INSERT INTO symlink VALUES (99, 3, x'61')"),
    _case("symlink-size", "UPDATE symlink SET target = x'61'"),
    _case("symlink-size", "UPDATE inode_history SET size_bytes = 5 WHERE id = 28"),
    _case("xattr-inode", "INSERT INTO xattr VALUES (99, x'61', 3, x'')"),
    _case("xattr-inode", "INSERT INTO xattr_history VALUES (19, x'61', 2, 1, x'')"),
    _case("xattr-name", "UPDATE xattr SET name = x'6100'"),
    # -- contents
    _case("body-shared", "UPDATE inode SET body = 6 WHERE id = 23"),
    _case("body-detached", "INSERT INTO detached VALUES (6, 3)"),
    _case("body-detached", "UPDATE detached SET since = 4", also="extent-body"),
    _case("inode-allocated", "UPDATE inode SET allocated_bytes = 600 WHERE id = 17"),
    _case("inode-allocated", "UPDATE inode_history SET allocated_bytes = 1 WHERE id = 22"),
    _case("extent-body", "DELETE FROM detached"),
    _case(
        "extent-body", "UPDATE extent_history SET body = 9 WHERE body = 3", also="counter-behind inode-allocated"
    ),
    _case("extent-crossing", "UPDATE extent SET file_offset = 1000000, spread = 244 WHERE file_offset > 0"),
    _case(
        "extent-crossing",
        "UPDATE extent SET length = 2097153 WHERE body = 2 AND file_offset = 0",
        also="extent-range inode-allocated",
    ),
    _case("extent-beyond-size", "UPDATE inode SET size_bytes = 299 WHERE id = 18"),
    _case("extent-beyond-size", "UPDATE inode_history SET size_bytes = 399 WHERE id = 22"),
    _case("extent-block", "DELETE FROM block WHERE id = 6", also="frame-live-bytes"),
    _case("extent-range", "UPDATE extent SET block_offset = 51 WHERE body = 7"),
    _case("extent-range", "UPDATE extent_history SET block_offset = 1 WHERE body = 3"),
    _case("block-refs", "UPDATE block SET refs = 2 WHERE id = 1"),
    _case("block-refs", "UPDATE block SET refs = 1 WHERE id = 7", also="frame-live-bytes"),
    _case("block-place", "UPDATE block SET frame = 9 WHERE id = 7"),
    _case("block-place", "UPDATE block SET pack = 9 WHERE id = 7"),
    _case("block-place", "UPDATE block SET frame_offset = 251 WHERE id = 7"),
    _case("block-place", "UPDATE frame SET plain_bytes = 500001 WHERE pack = 1 AND number = 2"),
    _case("block-overlap", "UPDATE block SET frame_offset = 249 WHERE id = 7"),
    _case("block-hash-taken", "UPDATE block SET hash = (SELECT hash FROM block WHERE id = 1) WHERE id = 2"),
    _case("block-damaged", "UPDATE block SET damaged = 1 WHERE id = 5"),
    _case("frame-pack", "INSERT INTO frame VALUES (9, 0, 64, 50, 40, 0)"),
    _case("frame-order", "UPDATE frame SET pack_offset = 65 WHERE pack = 2 AND number = 0"),
    _case("frame-order", "INSERT INTO frame VALUES (2, 3, 981, 50, 40, 0)"),
    _case("frame-order", "UPDATE frame SET stored_bytes = 368 WHERE pack = 2 AND number = 1"),
    _case("frame-live-bytes", "UPDATE frame SET live_bytes = 350 WHERE pack = 2 AND number = 1"),
    _case("pack-size", "UPDATE pack SET size_bytes = 1060 WHERE id = 2"),
    _case("pack-size", "UPDATE pack SET size_bytes = 16777217 WHERE id = 2"),
    _case("pack-name", "UPDATE pack SET name = NULL WHERE id = 2"),
    _case("pack-name", "UPDATE pack SET name = x'00' WHERE id = 2"),
    _case("pack-name-taken", "UPDATE pack SET name = zeroblob(32)"),
    _case("pack-salt-taken", "UPDATE pack SET salt = zeroblob(32)"),
    _case("pack-doomed", "UPDATE pack SET doomed_commit = 1 WHERE id = 2"),
)


def _fired(path: Path, *, is_shipped: bool = True) -> set[str]:
    with Audit(path, is_shipped=is_shipped, uuid=tiny_fs.UUID) as audit:
        return {violation.check.name for violation in audit.violations()}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A valid database."""
    path = tmp_path / "db"
    tiny_fs.build(path)
    return path


def test_the_tiny_database_is_valid(database: Path) -> None:
    assert _fired(database) == set()


def test_every_check_has_a_corruption() -> None:
    names = [check.name for check in CHECKS]
    assert len(names) == len(set(names))
    assert {corruption.check for corruption in CORRUPTIONS} == set(names)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda c: f"{c.check}: {c.sql[-1][:70]}")
def test_a_corruption_is_noticed(database: Path, corruption: Corruption) -> None:
    tiny_fs.change(database, *corruption.sql)
    assert _fired(database) == {corruption.check} | corruption.also
