"""What a machine's local database says about the store: what is not shipped yet, and the end of the log it knows.

Must never: change the database, keep it open, or make files beside it.

Reads through SQLite alone, which also works while the file system is mounted: closing another descriptor of the
file would silently drop the locks of a mount in this process.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import apsw

from cubefs.errors import IntegrityError
from cubefs.model import PackState

BUSY_MS = 5_000


class LocalState(NamedTuple):
    """What one machine has, and knows of the store."""

    uuid: bytes | None
    unshipped_commits: int
    unshipped_bytes: int  # of their changesets
    first_unshipped_ns: int | None  # when the oldest of them was made
    unstored_packs: int
    unstored_bytes: int
    head_seq: int | None  # the last log object that it knows to be in the store
    head_hash: bytes | None


def read_local_state(path: Path) -> LocalState:
    """Read the local database at `path`, which must exist. Raises IntegrityError when it cannot be read."""
    # without a WAL the file is complete, and opening it as usual would leave an empty WAL behind
    how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    try:
        connection = apsw.Connection(f"file:{quote(str(path))}?{how}", flags=flags)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.set_busy_timeout(BUSY_MS)
            return _read(connection)
        finally:
            connection.close()
    except apsw.Error as error:
        raise IntegrityError(f"the local database {path} cannot be read: {error}") from error


def _read(connection: apsw.Connection) -> LocalState:
    with connection:
        execute = connection.execute
        uuid = execute("SELECT value FROM meta WHERE key = 'uuid'").get
        commits, changeset_bytes, first_ns = execute(
            "SELECT count(*), coalesce(sum(length(changeset)), 0), min(time_ns) FROM local_outbox"
        ).get
        packs, pack_bytes = execute(
            "SELECT count(*), coalesce(sum(size_bytes), 0) FROM local_pack WHERE state <> ?",
            (int(PackState.STORED),),
        ).get
        head = execute("SELECT seq, chain_hash FROM local_head").get or (None, None)
    return LocalState(uuid, commits, changeset_bytes, first_ns, packs, pack_bytes, head[0], head[1])
