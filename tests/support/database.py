"""Looks into the local database and the store of a file system, for tests that count rows and bytes.

Only for databases that are closed: SQLite would lose its locks otherwise.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from tests.support.driver import Place


def rows(place: Place, sql: str, *bindings: Any) -> list[Any]:
    """Return the rows of a query on the local database of a file system that is not open."""
    (path,) = place.cache_dir.glob("*.sqlite")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, bindings).fetchall()


def block_count(place: Place) -> int:
    """Return how many blocks are referred to."""
    return int(rows(place, "SELECT count(*) FROM block WHERE refs > 0")[0][0])


def extents_of(place: Place, inode: int) -> list[tuple[int, int]]:
    """Return the (file offset, length) of a live file's extents."""
    sql = "SELECT e.file_offset, e.length FROM extent e JOIN inode i ON i.body = e.body WHERE i.id = ? ORDER BY 1"
    return rows(place, sql, inode)


def packs_bytes(place: Place) -> int:
    """Return the size of all packs in the store."""
    packs = (place.store_dir / "packs").rglob("*")
    return sum(path.stat().st_size for path in packs if path.is_file())
