"""Uploading closed packs: put, read back, compare, and only then call them stored.

Must never: upload a pack before the commit that names it, or give a pack up because the store is down.
"""

from __future__ import annotations

import logging

import trio

from cubefs.engine.localpacks import LocalPacks
from cubefs.errors import CubefsError, IntegrityError
from cubefs.format import names
from cubefs.format.keys import object_hash
from cubefs.model import PackState
from cubefs.store.base import Store
from cubefs.store.verify import Verify, put_verified

log = logging.getLogger(__name__)

_UPLOADERS = 4
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 30.0  # between attempts while the store refuses, beyond the retries of the store itself


class Uploader:
    """Owns the packs that are complete and not yet proven to be in the store."""

    def __init__(self, *, local: LocalPacks, store: Store, policy: Verify) -> None:
        self._local = local
        self._store = store
        self._policy = policy
        self._uncommitted: dict[int, tuple[bytes, bytes]] = {}
        self._committing: dict[int, tuple[bytes, bytes]] = {}  # in a commit that is not durable yet
        self._queue: dict[int, tuple[bytes, bytes]] = {}
        self._busy: dict[int, tuple[bytes, bytes]] = {}
        self._limiter = trio.CapacityLimiter(_UPLOADERS)
        self._wake = trio.Event()
        self._changed = trio.Event()
        self.last_error: str | None = None
        self.uploaded_count = 0
        self.uploaded_bytes = 0

    @property
    def unstored(self) -> frozenset[int]:
        """Ids of the packs that are closed and not stored."""
        return self.unstored_committed | frozenset(self._uncommitted) | frozenset(self._committing)

    @property
    def unstored_committed(self) -> frozenset[int]:
        """Those of them that durable commits name."""
        return frozenset(self._queue) | frozenset(self._busy)

    def add(self, pack: int, salt: bytes, name: bytes) -> None:
        """Note a pack that was closed; it waits for its commit."""
        self._uncommitted[pack] = (salt, name)
        self._local.add(salt, PackState.CLOSED, self._local.files.path(salt).stat().st_size)

    def committing(self) -> None:
        """All packs noted so far are in the commit being made; later ones wait for the next."""
        self._committing.update(self._uncommitted)
        self._uncommitted.clear()

    def committed(self) -> None:
        """The commit is durable: upload its packs."""
        if self._committing:
            self._queue.update(self._committing)
            self._committing.clear()
            self._wake.set()

    async def wait_stored(self, last_pack: int) -> None:
        """Wait until no pack up to `last_pack` is unstored (packs are numbered in the order of their closing)."""
        while any(pack <= last_pack for pack in self.unstored):
            await self._changed.wait()

    async def run(self) -> None:
        """Upload until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._queue:
                    await self._limiter.acquire_on_behalf_of(pack := next(iter(self._queue)))
                    salt, name = self._busy[pack] = self._queue.pop(pack)
                    nursery.start_soon(self._upload, pack, salt, name)

    async def _upload(self, pack: int, salt: bytes, name: bytes) -> None:
        try:
            pause_s = _PAUSE_FIRST_S
            while not await self._try(salt, name):
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            self._local.mark_stored(salt)
            del self._busy[pack]
            self._changed.set()
            self._changed = trio.Event()
            if self._local.total_bytes > self._local.limit_bytes:
                await self._local.evict()
        finally:
            self._limiter.release_on_behalf_of(pack)

    async def _try(self, salt: bytes, name: bytes) -> bool:
        try:
            size_bytes = await trio.to_thread.run_sync(self._put, salt, name, abandon_on_cancel=True)
        except CubefsError as error:
            if self.last_error != str(error):
                log.warning("%s is not stored yet, will try again: %s", names.pack(name), error)
            self.last_error = str(error)
            return False
        if self.last_error is not None:
            log.info("the store takes packs again")
        self.last_error = None
        self.uploaded_count += 1
        self.uploaded_bytes += size_bytes
        return True

    def _put(self, salt: bytes, name: bytes) -> int:
        data = self._local.files.read_all(salt)
        if object_hash(data) != name:  # or the store would keep, and prove, bytes that nobody wrote
            path = self._local.files.path(salt)
            raise IntegrityError(f"{path} is damaged: its bytes are not those of {names.pack(name)}")
        put_verified(self._store, names.pack(name), data, policy=self._policy)
        return len(data)
