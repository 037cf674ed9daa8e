"""Tells which paths a fault affects, in the present and in which snapshots.

Must never: return more than a bounded number of paths, or loop in a damaged tree.

Sets of views are integers used as bit sets: bit n stands for the view numbered n.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import apsw

from cubefs.db.audit_check import NOTHING_AFFECTED, Affected, AffectedPath, Scope
from cubefs.db.audit_working import FINDING_INDEXES, Views
from cubefs.model import ROOT_INODE

PATHS_MAX_COUNT = 10  # listed per finding; the rest is counted
VERSIONS_MAX_COUNT = 10_000  # of one directory's entry: more than anybody has snapshots

_DIRECTORY = 0o040000

_BY_INODE = "SELECT id, parent, name, inode, lo, hi FROM dentry_version WHERE inode = ?"
_BY_DENTRY = "SELECT id, parent, name, inode, lo, hi FROM dentry_version WHERE id = ?"
# an entry is affected in the views that see it, the inode version that has the body, and the extent
_BY_BODIES = """SELECT DISTINCT d.id, d.parent, d.name, d.inode, max(d.lo, i.lo), min(d.hi, i.hi)
    FROM temp.affected a JOIN inode_version i ON i.body = a.id
    JOIN dentry_version d ON d.inode = i.id AND d.lo < i.hi AND i.lo < d.hi"""
_BY_BLOCKS = """SELECT DISTINCT d.id, d.parent, d.name, d.inode, max(d.lo, i.lo, x.lo), min(d.hi, i.hi, x.hi)
    FROM temp.affected a CROSS JOIN extent_version x ON x.block = a.id
    CROSS JOIN inode_version i ON i.body = x.body AND i.lo < x.hi AND x.lo < i.hi
    CROSS JOIN dentry_version d ON d.inode = i.id AND d.lo < min(x.hi, i.hi) AND max(x.lo, i.lo) < d.hi"""
_IN_FRAME = """SELECT b.block FROM block_span b JOIN frame_span n ON n.pack = b.pack AND n.start < b.stop
    AND b.start < n.stop WHERE n.pack = ? AND n.number = ?"""


class _Entry(NamedTuple):
    id: int
    parent: int
    name: bytes
    inode: int


class PathFinder:
    """Resolves what is affected. On the audit's connection, working tables filled."""

    def __init__(self, connection: apsw.Connection, views: Views) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._views = views
        self._all = (1 << views.count) - 1
        self._indexed = False
        self._parents: dict[int, list[tuple[_Entry, int]]] = {}
        self._names: dict[int, tuple[bytes, ...]] = {}

    def of_row(self, scope: Scope, row: dict[str, object], views: object) -> Affected:
        """Return what the row of a check affects. `views`: its JSON array of view numbers, None for all."""
        value = row.get(scope.value)
        if scope is Scope.NOTHING or not isinstance(value, int):
            return NOTHING_AFFECTED
        mask = self._all if not isinstance(views, str) else sum(1 << number for number in json.loads(views))
        self._index()
        match scope:
            case Scope.INODE if value == ROOT_INODE:
                return self._root(mask)
            case Scope.INODE:
                return self._affected(self._execute(_BY_INODE, (value,)), mask)
            case Scope.DENTRY:
                return self._affected(self._execute(_BY_DENTRY, (value,)), mask)
            case Scope.BODY:
                return self._affected(self._of_ids(_BY_BODIES, [value]), mask)
            case Scope.BLOCK:
                blocks = [value]
            case Scope.FRAME:
                frame = (row["pack"], value)
                blocks = [block for (block,) in self._execute(_IN_FRAME, frame)]
            case Scope.PACK:
                blocks = [block for (block,) in self._execute("SELECT id FROM block WHERE pack = ?", (value,))]
        return self._affected(self._of_ids(_BY_BLOCKS, blocks), mask)

    def of_blocks(self, blocks: Iterable[int]) -> Affected:
        """Return what is affected when these blocks cannot be read."""
        self._index()
        return self._affected(self._of_ids(_BY_BLOCKS, blocks), self._all)

    def _root(self, mask: int) -> Affected:
        is_live, snapshots = bool(mask >> (self._views.count - 1)), self._snapshot_names(mask)
        return Affected((AffectedPath(b"/", is_live, snapshots),), 0, is_live, snapshots)

    def _of_ids(self, sql: str, ids: Iterable[int]) -> Iterable[tuple[int, int, bytes, int, int, int]]:
        self._execute("CREATE TEMP TABLE IF NOT EXISTS affected (id INTEGER PRIMARY KEY NOT NULL)")
        self._execute("DELETE FROM temp.affected")
        self._executemany("INSERT OR IGNORE INTO temp.affected VALUES (?)", ((number,) for number in ids))
        return self._execute(sql)

    def _index(self) -> None:
        if not self._indexed:
            for statement in FINDING_INDEXES:
                self._execute(statement)
            self._indexed = True

    def _affected(self, rows: Iterable[tuple[int, int, bytes, int, int, int]], mask: int) -> Affected:
        """Fold entry versions (id, parent, name, inode, lo, hi) into a bounded answer.

        Entries are counted once however many versions they have, unless they were moved or renamed in between.
        """
        found: dict[_Entry, int] = {}
        for *key, lo, hi in rows:
            seen = _bits(lo, hi) & mask
            if seen:
                entry = _Entry._make(key)
                found[entry] = found.get(entry, 0) | seen
        affected_views = 0
        for seen in found.values():
            affected_views |= seen
        live = 1 << (self._views.count - 1)
        # those in the newest views first: what is in the present matters most
        order = sorted(found, key=lambda entry: (-found[entry].bit_length(), entry))
        paths = [path for entry in order[:PATHS_MAX_COUNT] for path in self._paths(entry, found[entry])]
        return Affected(
            tuple(sorted(paths)[:PATHS_MAX_COUNT]),
            max(len(order) - PATHS_MAX_COUNT, 0) + max(len(paths) - PATHS_MAX_COUNT, 0),
            bool(affected_views & live),
            self._snapshot_names(affected_views),
        )

    def _paths(self, entry: _Entry, seen: int) -> Iterator[AffectedPath]:
        """Yield the paths of one entry: several when a directory above it was moved or renamed in between."""
        live = 1 << (self._views.count - 1)
        kinds = self._execute("SELECT kind FROM inode_run WHERE id = ?", (entry.inode,)).fetchall()
        slash = b"/" if (_DIRECTORY,) in kinds else b""
        ends = [(entry.parent, entry.name + slash, seen, frozenset[int]())]
        while ends:
            inode, path, rest, below = ends.pop()
            if inode != ROOT_INODE and inode not in below:  # in a damaged tree, directories may form a circle
                for above, views in self._entries(inode):
                    if views & rest:
                        ends.append((above.parent, above.name + b"/" + path, views & rest, below | {inode}))
                        rest &= ~views
            if rest:
                start = b"" if inode == ROOT_INODE else b"(unreachable directory %d)/" % inode
                yield AffectedPath(start + path, bool(rest & live), self._snapshot_names(rest))

    def _entries(self, inode: int) -> list[tuple[_Entry, int]]:
        if inode not in self._parents:
            rows = self._execute(_BY_INODE + " ORDER BY until DESC LIMIT ?", (inode, VERSIONS_MAX_COUNT))
            self._parents[inode] = [(_Entry._make(key), _bits(lo, hi)) for *key, lo, hi in rows]
        return self._parents[inode]

    def _snapshot_names(self, views: int) -> tuple[bytes, ...]:
        if views not in self._names:  # a damaged store may make thousands of findings with the same few sets
            self._names[views] = tuple(name for number, name in enumerate(self._views.names) if views >> number & 1)
        return self._names[views]


def _bits(lo: int, hi: int) -> int:
    return (1 << hi) - (1 << lo)
