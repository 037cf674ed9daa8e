"""What a check is: a name, one line of meaning, and the query that returns the rows that break the rule.

Must never: know how queries are run, or what becomes of their rows.

The queries run on a read-only database with the working tables of audit_working.py beside it. A returned row
says where the fault is (its column names are shown to the user) and, by `Scope`, what it affects.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple


class Severity(enum.Enum):
    """Whether a finding is a fault."""

    ERROR = "error"
    NOTE = "note"  # worth knowing, nothing is wrong


class Scope(enum.Enum):
    """Which column of a violating row leads to the files that it affects."""

    NOTHING = ""
    INODE = "inode"
    DENTRY = "dentry"
    BODY = "body"
    BLOCK = "block"
    FRAME = "frame"  # with the column `pack`
    PACK = "pack"


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant of the database.

    A column `views`, a JSON array of view numbers, limits what is affected to these views; it is not shown.
    """

    name: str
    meaning: str  # what is wrong where it fires, in one line
    table: str  # where the violating rows are
    sql: str
    scope: Scope = Scope.NOTHING
    severity: Severity = Severity.ERROR
    shipped_only: bool = False  # holds for what is in the store, not for a database in use


class AffectedPath(NamedTuple):
    """One file or directory, as raw bytes from the root, and the views that are affected."""

    path: bytes
    is_live: bool
    snapshots: tuple[bytes, ...]  # names


class Affected(NamedTuple):
    """What a finding affects, bounded."""

    paths: tuple[AffectedPath, ...]  # the first of them
    more_count: int  # further directory entries
    is_live: bool  # anything in the live tree
    snapshots: tuple[bytes, ...]  # every snapshot in which anything is affected


NOTHING_AFFECTED = Affected((), 0, False, ())


class Violation(NamedTuple):
    """One row that breaks a rule."""

    check: Check
    row: dict[str, object]  # column name → value, without `views`
    affected: Affected
    rest_count: int = 0  # > 0: stands for so many further rows that are not listed


def view_range(start: str, stop: str) -> str:
    """Return the SQL of a `views` column: the views numbered [start, stop)."""
    return f"(SELECT json_group_array(v.id) FROM view v WHERE v.id >= {start} AND v.id < {stop})"


def view_gaps(start: str, stop: str, covered: str) -> str:
    """Return the SQL of a `views` column: the views in [start, stop) for which `covered` (over `v.id`) fails."""
    return f"(SELECT json_group_array(v.id) FROM view v WHERE v.id >= {start} AND v.id < {stop} AND NOT {covered})"
