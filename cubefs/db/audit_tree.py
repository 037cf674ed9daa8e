"""Checks of the name space in the present and in every snapshot: inodes, entries, link counts, symlinks, xattrs.

Must never: do anything but build `CHECKS`.
"""

from __future__ import annotations

import stat

from cubefs.db.audit_check import Check, Scope, view_gaps, view_range
from cubefs.db.audit_working import FOREVER
from cubefs.model import NAME_MAX_BYTES, ROOT_INODE

_KINDS = ", ".join(
    str(kind)
    for kind in (
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFIFO,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFSOCK,
    )
)
_VIEWS = "(SELECT count(*) FROM view)"
_BAD_NAME = (
    "name IN (x'2e', x'2e2e') OR instr(name, x'2f') OR instr(name, x'00') "
    f"OR (parent = {ROOT_INODE} AND name = CAST('snapshots' AS BLOB))"
)


def _whole_run(alias: str, *, inode: str, kind: int | None = None) -> str:
    """Return the condition that one run of inode versions covers the range of `alias`: the quick test."""
    of_kind = "" if kind is None else f" AND r.kind = {kind}"
    return (
        f"EXISTS (SELECT 1 FROM inode_run r WHERE r.id = {alias}.{inode} "
        f"AND r.lo <= {alias}.lo AND r.hi >= {alias}.hi{of_kind})"
    )


def _lacking(columns: str, source: str, *, inode: str, kind: int | None = None) -> str:
    """Return the query of rows (alias t) in some of whose views the inode is not there (or of another kind)."""
    of_kind = "" if kind is None else f" AND r.kind = {kind}"
    there = f"EXISTS (SELECT 1 FROM inode_run r WHERE r.id = t.{inode} AND r.lo <= v.id AND r.hi > v.id{of_kind})"
    return (
        f"SELECT * FROM (SELECT {columns}, {view_gaps('t.lo', 't.hi', there)} AS views FROM {source} t "
        f"WHERE NOT {_whole_run('t', inode=inode, kind=kind)}) WHERE views <> '[]'"
    )


def _unbalanced(changes: str, *, columns: str, kind: str) -> str:
    """Return the query of inode versions (alias i) in whose views a count is `surplus` too high."""
    return f"""WITH surpluses AS (
            SELECT inode, at AS lo, lead(at, 1, {_VIEWS}) OVER w AS hi, sum(change) OVER w AS surplus
            FROM {changes} WINDOW w AS (PARTITION BY inode ORDER BY at))
        SELECT s.inode, {columns}, {view_range("max(s.lo, i.lo)", "min(s.hi, i.hi)")} AS views
        FROM surpluses s JOIN inode_version i ON i.id = s.inode AND i.lo < s.hi AND s.lo < i.hi
        WHERE s.surplus <> 0 AND i.kind {kind}"""


_INODES: tuple[Check, ...] = (
    Check(
        "root",
        "the root is not there in every snapshot, is no directory, or has an entry",
        "inode",
        f"""SELECT {ROOT_INODE} AS inode, 'not there' AS problem, json_group_array(v.id) AS views FROM view v
        WHERE NOT EXISTS (SELECT 1 FROM inode_run r WHERE r.id = {ROOT_INODE} AND r.kind = {stat.S_IFDIR}
            AND r.lo <= v.id AND r.hi > v.id) HAVING count(*) > 0
        UNION ALL SELECT inode, 'has an entry', {view_range("lo", "hi")} FROM dentry_version
        WHERE inode = {ROOT_INODE}""",
        Scope.INODE,
    ),
    Check(
        "inode-kind",
        "an inode is of no known kind, or turned from one kind into another",
        "inode",
        f"""SELECT id AS inode, printf('%o', min(kind)) AS kind, printf('%o', max(kind)) AS other_kind
        FROM inode_run GROUP BY id HAVING min(kind) <> max(kind) OR min(kind) NOT IN ({_KINDS})""",
        Scope.INODE,
    ),
    Check(
        "inode-body",
        "a file has no body, or something that is no file has one",
        "inode",
        f"""SELECT id AS inode, body, printf('%o', kind) AS kind, {view_range("lo", "hi")} AS views
        FROM inode_version WHERE body < 0 OR (body <> 0) <> (kind = {stat.S_IFREG})""",
        Scope.INODE,
    ),
    Check(
        "inode-size",
        "something that can hold no data claims to have some",
        "inode",
        f"""SELECT id AS inode, printf('%o', kind) AS kind, size_bytes, allocated_bytes,
            {view_range("lo", "hi")} AS views FROM inode_version
        WHERE (kind <> {stat.S_IFREG} AND allocated_bytes <> 0)
        OR (kind NOT IN ({stat.S_IFREG}, {stat.S_IFLNK}) AND size_bytes <> 0)""",
        Scope.INODE,
    ),
    Check(
        "inode-orphan",
        "an inode has no entry and is not listed as unlinked but open: nobody can reach it",
        "inode",
        f"""SELECT i.id AS inode, i.nlink, i.size_bytes FROM inode i WHERE i.id <> {ROOT_INODE}
        AND NOT EXISTS (SELECT 1 FROM dentry_version d WHERE d.inode = i.id AND d.until = {FOREVER})
        AND i.id NOT IN (SELECT inode FROM orphan)""",
        Scope.INODE,
    ),
    Check(
        "orphan-row",
        "listed as unlinked but open, yet not there or with links",
        "orphan",
        """SELECT o.inode, i.nlink FROM orphan o LEFT JOIN inode i ON i.id = o.inode
        WHERE i.id IS NULL OR i.nlink <> 0""",
        Scope.INODE,
    ),
)

_DENTRIES: tuple[Check, ...] = (
    Check(
        "dentry-name",
        "an entry has a name that none can have here",
        "dentry",
        f"""SELECT id AS dentry, parent, name, inode FROM dentry WHERE {_BAD_NAME}
        UNION ALL SELECT id, parent, name, inode FROM dentry_history WHERE {_BAD_NAME}""",
        Scope.DENTRY,
    ),
    Check(
        "dentry-name-taken",
        "a directory has two entries of one name at the same time",
        "dentry",
        f"""SELECT max(id) AS dentry, parent, name, min(id) AS other, NULL AS views
        FROM dentry GROUP BY parent, name HAVING count(*) > 1
        UNION ALL
        SELECT p.dentry, p.parent, p.name, p.other, {view_range("view_at(p.since)", "view_at(p.until)")} FROM (
            SELECT h.id AS dentry, h.parent, h.name, h.since, h.until, lead(h.id) OVER w AS other,
                lead(h.since) OVER w AS next_since
            FROM dentry_history h WINDOW w AS (PARTITION BY h.parent, h.name ORDER BY h.until)) p
        WHERE p.next_since < p.until
        UNION ALL
        SELECT h.id, h.parent, h.name, d.id, {view_range("view_at(h.since)", "view_at(h.until)")}
        FROM dentry_history h JOIN dentry d ON d.parent = h.parent AND d.name = h.name WHERE d.since < h.until""",
        Scope.DENTRY,
    ),
    Check(
        "dentry-inode",
        "an entry names an inode that is not there",
        "dentry",
        _lacking("t.id AS dentry, t.parent, t.name, t.inode", "dentry_version", inode="inode"),
        Scope.DENTRY,
    ),
    Check(
        "dentry-parent",
        "an entry is in something that is not there or no directory",
        "dentry",
        _lacking("t.id AS dentry, t.parent, t.name, t.inode", "dentry_version", inode="parent", kind=stat.S_IFDIR),
        Scope.DENTRY,
    ),
    Check(
        "directory-entry",
        "a directory does not have exactly one entry (none once it is removed)",
        "dentry",
        _unbalanced(
            "link_change",
            columns=f"i.nlink, (i.nlink > 0 AND i.id <> {ROOT_INODE}) + s.surplus AS entries",
            kind=f"= {stat.S_IFDIR}",
        ),
        Scope.INODE,
    ),
    Check(
        "directory-nlink",
        "a directory's link count is not 2 plus its sub-directories",
        "inode",
        _unbalanced(
            "subdirectory_change",
            columns="i.nlink, CASE WHEN i.nlink = 0 THEN 0 ELSE i.nlink - 2 END + s.surplus AS subdirectories",
            kind=f"= {stat.S_IFDIR}",
        ),
        Scope.INODE,
    ),
    Check(
        "directory-unreachable",
        "a directory does not lead to the root, so nobody can reach what is in it",
        "dentry",
        f"""SELECT * FROM (
            SELECT i.id AS inode, {
            view_gaps(
                "i.lo",
                "i.hi",
                "EXISTS (SELECT 1 FROM reached_run q WHERE q.inode = i.id AND q.lo <= v.id AND q.hi > v.id)",
            )
        } AS views FROM inode_version i WHERE i.kind = {stat.S_IFDIR} AND i.nlink > 0
            AND NOT EXISTS (SELECT 1 FROM reached_run q WHERE q.inode = i.id AND q.lo <= i.lo AND q.hi >= i.hi))
        WHERE views <> '[]'""",
        Scope.INODE,
    ),
    Check(
        "file-nlink",
        "a link count is not the number of entries",
        "inode",
        _unbalanced("link_change", columns="i.nlink, i.nlink + s.surplus AS entries", kind=f"<> {stat.S_IFDIR}"),
        Scope.INODE,
    ),
)

_ATTACHED: tuple[Check, ...] = (
    Check(
        "symlink-missing",
        "a symlink has no target",
        "symlink",
        f"""SELECT * FROM (
            SELECT r.id AS inode, {
            view_gaps(
                "r.lo",
                "r.hi",
                "EXISTS (SELECT 1 FROM symlink_version s WHERE s.inode = r.id AND s.lo <= v.id AND s.hi > v.id)",
            )
        } AS views FROM inode_run r WHERE r.kind = {stat.S_IFLNK} AND NOT EXISTS (
                SELECT 1 FROM symlink_version s WHERE s.inode = r.id AND s.lo <= r.lo AND s.hi >= r.hi))
        WHERE views <> '[]'""",
        Scope.INODE,
    ),
    Check(
        "symlink-stray",
        "a target belongs to something that is not there or no symlink",
        "symlink",
        _lacking("t.inode", "symlink_version", inode="inode", kind=stat.S_IFLNK),
        Scope.INODE,
    ),
    Check(
        "symlink-size",
        "a symlink's size is not the length of its target",
        "symlink",
        f"""SELECT s.inode, i.size_bytes, s.length, {view_range("max(s.lo, i.lo)", "min(s.hi, i.hi)")} AS views
        FROM symlink_version s JOIN inode_version i ON i.id = s.inode AND i.lo < s.hi AND s.lo < i.hi
        WHERE i.kind = {stat.S_IFLNK} AND i.size_bytes <> s.length""",
        Scope.INODE,
    ),
    Check(
        "xattr-inode",
        "an extended attribute belongs to an inode that is not there",
        "xattr",
        _lacking("t.inode, t.name", "xattr_version", inode="inode"),
        Scope.INODE,
    ),
    Check(
        "xattr-name",
        "an extended attribute has a name that none can have",
        "xattr",
        f"""SELECT inode, name FROM (SELECT inode, name FROM xattr UNION SELECT inode, name FROM xattr_history)
        WHERE length(name) NOT BETWEEN 1 AND {NAME_MAX_BYTES} OR instr(name, x'00')""",
        Scope.INODE,
    ),
)

CHECKS: tuple[Check, ...] = (*_INODES, *_DENTRIES, *_ATTACHED)
