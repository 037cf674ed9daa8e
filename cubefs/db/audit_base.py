"""Checks of the database as a whole: SQLite's own, the schema, identity, counters, snapshots.

Must never: do anything but build `CHECKS`.
"""

from __future__ import annotations

from cubefs.db.audit_check import Check, Severity
from cubefs.db.audit_history import EPOCH
from cubefs.db.image import COUNTERS, FIRST_EPOCH
from cubefs.db.schema import LOCAL
from cubefs.model import FIRST_FREE_INODE, NAME_MAX_BYTES, SnapshotState

# What a table or index looks like, whatever the spelling of its CREATE statement. `{0}`: the schema's name.
SHAPES = """SELECT s.type, s.name, s.tbl_name, CASE s.type
        WHEN 'table' THEN (SELECT group_concat(c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || c.pk, ', ')
            FROM pragma_table_info(s.name, '{0}') c)
        WHEN 'index' THEN (SELECT group_concat(i.name, ', ') FROM pragma_index_info(s.name, '{0}') i)
    END AS shape FROM {0}.sqlite_schema s WHERE s.name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"""

_IDS_IN_USE = """
    SELECT 'inode' AS counter, max(id) AS used FROM inode UNION ALL SELECT 'inode', max(id) FROM inode_history
    UNION ALL SELECT 'dentry', max(id) FROM dentry UNION ALL SELECT 'dentry', max(id) FROM dentry_history
    UNION ALL SELECT 'body', max(body) FROM inode UNION ALL SELECT 'body', max(body) FROM inode_history
    UNION ALL SELECT 'body', max(body) FROM extent UNION ALL SELECT 'body', max(body) FROM extent_history
    UNION ALL SELECT 'body', max(body) FROM detached
    UNION ALL SELECT 'block', max(id) FROM block UNION ALL SELECT 'pack', max(id) FROM pack"""

_FIRST_VALUES = ", ".join(f"('{name}', {value})" for name, value in COUNTERS.items())

CHECKS: tuple[Check, ...] = (
    Check(
        "sqlite-integrity",
        "SQLite finds the database file damaged, or a row that its table must not hold",
        "sqlite_schema",
        "SELECT integrity_check AS problem FROM pragma_integrity_check WHERE integrity_check <> 'ok'",
    ),
    Check(
        "schema",
        "a table or index is missing, different, or not ours",
        "sqlite_schema",
        f"""WITH found AS ({SHAPES.format("main")})
        SELECT coalesce(e.name, f.name) AS object, CASE WHEN f.name IS NULL THEN 'missing'
            WHEN e.name IS NULL THEN 'not ours' ELSE 'different' END AS problem
        FROM expected_shape e FULL JOIN found f USING (type, name)
        WHERE e.name IS NULL OR f.name IS NULL OR e.tbl_name <> f.tbl_name OR e.shape IS NOT f.shape""",
    ),
    Check(
        "meta",
        "what identifies the file system is missing or malformed",
        "meta",
        """SELECT k.column1 AS key, CASE WHEN m.key IS NULL THEN 'missing' ELSE 'malformed' END AS problem
        FROM (VALUES ('uuid'), ('chunking'), ('created_ns')) k LEFT JOIN meta m ON m.key = k.column1
        WHERE CASE k.column1 WHEN 'uuid' THEN length(m.value) = 16
            WHEN 'chunking' THEN CAST(m.value AS TEXT) IN ('content', 'fixed')
            ELSE CAST(CAST(CAST(m.value AS TEXT) AS INTEGER) AS TEXT) = CAST(m.value AS TEXT) END IS NOT 1""",
    ),
    Check(
        "uuid",
        "the database is that of another file system",
        "meta",
        """SELECT m.key, hex(m.value) AS value, hex(e.uuid) AS superblock FROM meta m JOIN expected_uuid e
        WHERE m.key = 'uuid' AND m.value <> e.uuid""",
    ),
    Check(
        "counter-missing",
        "a counter is missing or below its first value",
        "counter",
        f"""SELECT f.column1 AS counter, c.value, f.column2 AS first FROM (VALUES {_FIRST_VALUES}) f
        LEFT JOIN counter c ON c.name = f.column1 WHERE c.value IS NULL OR c.value < f.column2""",
    ),
    Check(
        "counter-behind",
        "a counter is below a number in use, which would be given out again",
        "counter",
        f"""SELECT c.name AS counter, c.value, max(u.used) AS used FROM ({_IDS_IN_USE}) u
        JOIN counter c ON c.name = u.counter GROUP BY c.name HAVING max(u.used) > c.value""",
    ),
    Check(
        "inode-number",
        "an inode has a number that is reserved or that the kernel cannot be told",
        "inode",
        f"""SELECT id AS inode FROM (SELECT id FROM inode UNION SELECT id FROM inode_history)
        WHERE id <> 1 AND (id < {FIRST_FREE_INODE} OR id >= 1 << 40)""",
    ),
    Check(
        "snapshot-number",
        "a snapshot has the number of an epoch that is not over",
        "snapshot",
        f"SELECT number, name, {EPOCH} AS epoch FROM snapshot WHERE number < {FIRST_EPOCH} OR number >= {EPOCH}",
    ),
    Check(
        "snapshot-name",
        "a snapshot has a name that no directory can have",
        "snapshot",
        f"""SELECT number, name FROM snapshot WHERE length(name) NOT BETWEEN 1 AND {NAME_MAX_BYTES}
        OR name IN (x'2e', x'2e2e') OR instr(name, x'2f') OR instr(name, x'00')""",
    ),
    Check(
        "snapshot-name-taken",
        "two snapshots have the same name",
        "snapshot",
        f"""SELECT name, min(number) AS number, max(number) AS other FROM snapshot
        WHERE state = {SnapshotState.LIVE:d} GROUP BY name HAVING count(*) > 1""",
    ),
    Check(
        "snapshot-deleting",
        "a snapshot is being deleted, which the next mount goes on with",
        "snapshot",
        f"SELECT number, name FROM snapshot WHERE state = {SnapshotState.DELETING:d}",
        severity=Severity.NOTE,
    ),
    Check(
        "local-rows",
        "what one machine only may know has got into the store",
        "local_*",
        " UNION ALL ".join(
            f"SELECT '{table}' AS local_table, count(*) AS row_count FROM {table} HAVING count(*) > 0"
            for table in LOCAL
        ),
        shipped_only=True,
    ),
)
