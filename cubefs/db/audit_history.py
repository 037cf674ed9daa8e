"""Checks of the history: intervals of each key, the snapshots that see them, and where they are filed.

One set of checks per kind of row, made from the table below: they differ in their key only.
Must never: do anything but build `CHECKS`.
"""

from __future__ import annotations

from typing import NamedTuple

from cubefs.db.audit_check import Check, Scope, view_range
from cubefs.db.audit_working import FOREVER

EPOCH = "(SELECT max(number) FROM view)"


class _Kind(NamedTuple):
    table: str
    noun: str
    key: tuple[str, ...]
    shown: str  # the key as shown to the user, with the column that `scope` needs
    scope: Scope
    is_filed_by_fork: bool = False


_KINDS = (
    _Kind("inode", "an inode", ("id",), "{0}.id AS inode", Scope.INODE),
    _Kind("dentry", "an entry", ("id",), "{0}.id AS dentry, {0}.parent, {0}.name", Scope.DENTRY, True),
    _Kind("extent", "an extent", ("body", "file_offset"), "{0}.body, {0}.file_offset", Scope.BODY, True),
    _Kind("xattr", "an extended attribute", ("inode", "name"), "{0}.inode, {0}.name", Scope.INODE),
    _Kind("symlink", "a symlink's target", ("inode",), "{0}.inode", Scope.INODE),
)


def _seen(alias: str) -> str:
    return view_range(f"view_at({alias}.since)", f"view_at({alias}.until)") + " AS views"


def _since(kind: _Kind) -> Check:
    return Check(
        f"{kind.table}-since",
        f"{kind.noun} claims to be as it is since an epoch that has not come",
        kind.table,
        f"SELECT {kind.shown.format('t')}, t.since, {EPOCH} AS epoch FROM {kind.table} t "
        f"WHERE t.since < 1 OR t.since > {EPOCH}",
        kind.scope,
    )


def _interval(kind: _Kind) -> Check:
    return Check(
        f"{kind.table}-interval",
        f"an old version of {kind.noun} was valid in no epoch, or in one that has not come",
        f"{kind.table}_history",
        f"SELECT {kind.shown.format('h')}, h.since, h.until, {EPOCH} AS epoch FROM {kind.table}_history h "
        f"WHERE NOT (1 <= h.since AND h.since < h.until AND h.until <= {EPOCH})",
        kind.scope,
    )


def _overlap(kind: _Kind) -> Check:
    """Two versions of one key: next to each other in history, or the live one against any old one."""
    key = ", ".join(f"h.{column}" for column in kind.key)
    same = " AND ".join(f"t.{column} = h.{column}" for column in kind.key)
    shown = kind.shown.format("h")
    return Check(
        f"{kind.table}-overlap",
        f"two versions of {kind.noun} are valid in one epoch",
        f"{kind.table}_history",
        f"""SELECT p.*, {_seen("p")} FROM (
            SELECT {shown}, h.since, h.until,
                lead(h.since, 1, {FOREVER}) OVER (PARTITION BY {key} ORDER BY h.until) AS next_since
            FROM {kind.table}_history h) p
        WHERE p.next_since < p.until
        UNION ALL
        SELECT {shown}, h.since, h.until, t.since AS next_since, {_seen("h")}
        FROM {kind.table}_history h JOIN {kind.table} t ON {same} WHERE t.since < h.until""",
        kind.scope,
    )


def _unseen(kind: _Kind) -> Check:
    return Check(
        f"{kind.table}-unseen",
        f"an old version of {kind.noun} is kept for no snapshot",
        f"{kind.table}_history",
        f"SELECT {kind.shown.format('h')}, h.since, h.until FROM {kind.table}_history h "
        "WHERE snapshots_below(h.since) = snapshots_below(h.until)",
    )


def _fork(kind: _Kind) -> Check:
    return Check(
        f"{kind.table}-fork",
        f"an old version of {kind.noun} is filed under the wrong fork, so that snapshots do not find it",
        f"{kind.table}_history",
        f"SELECT {kind.shown.format('h')}, h.since, h.until, h.fork, fork(h.since, h.until) AS right_fork, "
        f"{_seen('h')} FROM {kind.table}_history h "
        "WHERE 1 <= h.since AND h.since < h.until AND h.fork IS NOT fork(h.since, h.until)",
        kind.scope,
    )


CHECKS: tuple[Check, ...] = (
    *(make(kind) for make in (_since, _interval, _overlap, _unseen) for kind in _KINDS),
    *(_fork(kind) for kind in _KINDS if kind.is_filed_by_fork),
)
