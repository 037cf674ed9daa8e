"""Counts over whole tables, through a connection of their own: for reports, in a worker, as of the last commit.

Must never: run on the event loop's connection; a count over a million rows takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from cubefs.db.database import reader, translate
from cubefs.model import MIB


class Contents(NamedTuple):
    """How much a file system holds."""

    inodes: int
    logical_bytes: int  # sizes of all live files, holes included
    stored_bytes: int  # size of all packs
    plain_bytes: int  # plaintext in all packs
    live_bytes: int  # of that, what the live tree or a snapshot refers to


def count_contents(path: Path) -> Contents:
    """Count what the database at `path` holds. Raises LocalDiskError or IntegrityError."""
    try:
        with reader(path) as connection:
            # in two parts: the sizes of a few sparse files exceed 63 bits
            execute: Callable[..., Any] = connection.execute
            inodes, logical_mib, logical_rest = execute(
                "SELECT count(*), coalesce(sum(size_bytes >> 20), 0), coalesce(sum(size_bytes & 1048575), 0) "
                "FROM inode"
            ).fetchall()[0]
            stored = execute("SELECT coalesce(sum(size_bytes), 0) FROM pack").get
            plain, live = execute(
                "SELECT coalesce(sum(plain_bytes), 0), coalesce(sum(live_bytes), 0) FROM frame"
            ).fetchall()[0]
            return Contents._make((inodes, logical_mib * MIB + logical_rest, stored, plain, live))
    except apsw.Error as error:
        raise translate(error) from error
