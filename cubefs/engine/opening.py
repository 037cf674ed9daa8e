"""Finding the database to mount: the local one when it continues the store's log, otherwise rebuilt from the store.

Must never: write on top of a log that somebody else has continued, or drop local changes that were not shipped.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import trio

from cubefs.db.database import Database
from cubefs.db.outbox import Outbox, StoredHead
from cubefs.engine import logend, metalog
from cubefs.engine.metalog import Head
from cubefs.errors import CacheMismatchError, FencedError, StoreUnavailableError
from cubefs.format.keys import Keyring
from cubefs.format.superblock import Superblock
from cubefs.store.base import Store

log = logging.getLogger(__name__)

WRITER_BYTES = 16
PATIENCE_S = 60.0  # for a store that says nothing: then the database is opened as it is, and checked later
_FORKED = (
    "another machine has written to this file system since, and this cache directory holds changes that "
    "never reached the store: mount with another --cache-dir, and keep this one until its files are rescued"
)


class Opened(NamedTuple):
    """The database, and what could not be asked because the store was down."""

    database: Database
    check_later: Callable[[], Awaitable[None]] | None  # raises as `open_database` does; None: all was checked


async def open_database(
    path: Path,
    *,
    store: Store,
    superblock: Superblock,
    keyring: Keyring,
    read_only: bool,
    random: Callable[[int], bytes],
) -> Opened:
    """Open the local database at `path`, making it from the store where needed.

    Raises FencedError when both this machine and another have changes the other does not know,
    CacheMismatchError when the database is of another file system, IntegrityError for a store set back or forked,
    StoreUnavailableError when there is no database yet and the store is down.
    """
    if path.exists():  # noqa: ASYNC240 - before anything runs
        opened = await _open_existing(path, store=store, superblock=superblock, keyring=keyring)
        if opened is not None:
            return opened
        log.info("rebuilding the database from the store")
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

    def rebuild() -> Head:
        return metalog.rebuild(
            store, keyring=keyring, superblock_bytes=superblock.encode(), uuid=superblock.uuid, target=path
        )

    head = await trio.to_thread.run_sync(rebuild)
    database = Database(path)
    with database.operation():
        Outbox(database).set_head(
            StoredHead(head.seq, head.chain_hash, random(WRITER_BYTES), head.log_bytes, head.base_bytes)
        )
    return Opened(database, None)


async def _open_existing(path: Path, *, store: Store, superblock: Superblock, keyring: Keyring) -> Opened | None:
    """Open the database that is there; None when it is merely old, with nothing of its own."""
    database = Database(path)
    try:
        if database.meta("uuid") != superblock.uuid:
            raise CacheMismatchError(
                f"{path.parent} is the cache of another file system: choose another --cache-dir"
            )
        outbox = Outbox(database)
        if outbox.find_head() is None:
            log.info("the last mount ended before its first commit")
            database.close()
            return None

        async def is_current() -> bool:
            return await _is_current(outbox, store=store, superblock=superblock, keyring=keyring)

        async def check_later() -> None:
            if not await is_current():
                raise FencedError(_FORKED)

        try:
            with trio.fail_after(PATIENCE_S):
                if await is_current():
                    return Opened(database, None)
        except (StoreUnavailableError, trio.TooSlowError) as error:
            log.warning(
                "the store cannot be reached, so whether another machine has written is not checked yet: %s",
                str(error) or f"no answer in {PATIENCE_S:.0f} s",
            )
            return Opened(database, check_later)
    except BaseException:
        database.close()
        raise
    database.close()
    return None


async def _is_current(outbox: Outbox, *, store: Store, superblock: Superblock, keyring: Keyring) -> bool:
    """Whether the local database continues the store's log; False: another machine has, and we have nothing new."""
    stored = outbox.find_head()
    assert stored is not None
    head = Head(stored.seq, stored.chain_hash, stored.log_bytes, stored.base_bytes)
    sealed = outbox.find_sealed()

    def newer() -> bool:
        logend.check_head(store, head)
        behind = metalog.tail(store, head, log_key=keyring.log_key, uuid=superblock.uuid)
        first = next(behind, None)
        if first is not None and sealed is not None and metalog.after(head, sealed.body) == first.head:
            first = next(behind, None)  # ours: it arrived, the answer did not
        return first is not None

    if not await trio.to_thread.run_sync(newer, abandon_on_cancel=True):
        return True
    if outbox.first_waiting_ns() is not None or sealed is not None:
        raise FencedError(_FORKED)
    return False
