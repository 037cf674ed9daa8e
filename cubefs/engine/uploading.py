"""Uploading closed packs: put, read back, compare, and only then call them stored.

    put       from the local file, checked against the pack's name      a few at once, as many as pay
    settle    where the store needs it
    look      read back as the pack's policy says                       beside the next puts, not in their way
    again     a look that finds it missing or different: look later, then put again, a bounded number of times
    stored    recorded; from now on it may be evicted and a commit that names it may be shipped

While the store refuses, everything waits here and is tried for ever. Must never: upload a pack before the commit
that names it, give a pack up, or hold its bytes in memory while it waits to be looked at.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import trio

from cubefs.db.blocks import Blocks
from cubefs.engine.gate import Gate
from cubefs.engine.localpacks import LocalPacks
from cubefs.engine.trouble import Trouble
from cubefs.errors import CubefsError, IntegrityError, StoreError, StoreUnavailableError
from cubefs.format import names
from cubefs.format.keys import object_hash
from cubefs.model import PackState
from cubefs.store.base import Store
from cubefs.store.meter import Meter
from cubefs.store.retry import Backoff
from cubefs.store.tuning import ParallelismTuner
from cubefs.store.verify import Confirmation, Done, GiveUp, How, Look, Outcome, PutAgain, lies, look

log = logging.getLogger(__name__)

UPLOADS_MIN, UPLOADS_START, UPLOADS_MAX = 2, 4, 8  # packs in memory on their way up: at most 8 x 8 MiB
REFUSED_MAX = 16  # packs: what a few of them cannot do does not stop the others, a store that is down does
LOOKS_MAX = 4  # packs in memory on their way back: each is short-lived, and downlinks are wider than uplinks
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 30.0  # between attempts while the store refuses, beyond the retries of the store itself


class _Pack:
    """A pack on its way to the store."""

    __slots__ = ("asked_wait_s", "id", "name", "salt", "size_bytes")

    def __init__(self, id: int, salt: bytes, name: bytes) -> None:
        self.id = id
        self.salt = salt
        self.name = name
        self.size_bytes = 0  # known when it has been put
        self.asked_wait_s: float | None = None  # for how long the store wants to be left alone with it

    @property
    def object_name(self) -> str:
        return names.pack(self.name)


class Uploader:
    """Owns the packs that are complete and not yet proven to be in the store."""

    def __init__(
        self,
        *,
        local: LocalPacks,
        blocks: Blocks,
        store: Store,
        gate: Gate,
        settle_s: float,
        meter: Meter,
        rng: random.Random,
        clock_ns: Callable[[], int],
    ) -> None:
        self._local = local
        self._blocks = blocks
        self._store = store
        self._gate = gate
        self._settle_s = settle_s
        self._meter = meter
        self._rng = rng
        self._uncommitted: dict[int, _Pack] = {}
        self._committing: dict[int, _Pack] = {}  # in a commit that is not durable yet
        self._queue: dict[int, _Pack] = {}
        self._busy: dict[int, _Pack] = {}  # being put, settling, or being looked at
        self._tuner = ParallelismTuner(UPLOADS_MIN, UPLOADS_MAX, UPLOADS_START)
        self._uploads = trio.CapacityLimiter(UPLOADS_START)
        self._looks = trio.CapacityLimiter(LOOKS_MAX)
        # store calls that hang must not take the workers that others need
        self._put_threads = trio.CapacityLimiter(UPLOADS_MAX)
        self._look_threads = trio.CapacityLimiter(LOOKS_MAX)
        self._refused: set[int] = set()  # packs that the store did not take when it was last asked
        self._accepted = trio.Event()
        self._wake = trio.Event()
        self._changed = trio.Event()
        self.trouble = Trouble(log, work="storing packs", clock_ns=clock_ns)
        self.uploaded_count = 0
        self.uploaded_bytes = 0

    @property
    def last_error(self) -> str | None:
        """Why packs are not stored at the moment, None while they are."""
        return self.trouble.last_error

    @property
    def parallel_uploads(self) -> int:
        """How many packs are put at once at most."""
        return int(self._uploads.total_tokens)

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
        self._uncommitted[pack] = _Pack(pack, salt, name)
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
                    await self._wait_until_few_refused()
                    await self._uploads.acquire_on_behalf_of(number := next(iter(self._queue)))
                    pack = self._busy[number] = self._queue.pop(number)
                    nursery.start_soon(self._run_pack, pack)

    async def _wait_until_few_refused(self) -> None:
        """Start nothing more while many packs are refused: a store that is down is not asked about each."""
        while len(self._refused) >= REFUSED_MAX:
            await self._accepted.wait()

    async def _run_pack(self, pack: _Pack) -> None:
        """Bring one pack to the store. What is no trouble of the store ends the mount's changes, not the mount."""
        try:
            await self._store_pack(pack)
        except CubefsError as error:
            self._gate.fail(error)
            self._changed.set()

    async def _store_pack(self, pack: _Pack) -> None:
        """Put and confirm; called with an upload's slot, which is let go as soon as the first attempt is over."""
        try:
            is_put = await self._put_once(pack)
        finally:
            self._uploads.release_on_behalf_of(pack.id)
        if not is_put:
            await self._put(pack)
        backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, self._rng)
        while not await self._is_confirmed(pack):
            self._fail(pack, lies(self._store, pack.object_name))
            await trio.sleep(backoff.next_s())
            await self._put(pack)
        self._local.mark_stored(pack.salt)
        self.uploaded_count += 1
        self.uploaded_bytes += pack.size_bytes
        self._refused.discard(pack.id)
        self.trouble.worked(what=pack.id)
        del self._busy[pack.id]
        self._changed.set()
        self._changed = trio.Event()
        if self._local.total_bytes > self._local.limit_bytes:
            await self._local.evict()

    async def _put(self, pack: _Pack) -> None:
        """Put, until the store has taken it. Who waits holds no slot: one bad pack must not keep others back."""
        backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, self._rng)
        while True:
            await trio.sleep(backoff.next_s(pack.asked_wait_s))
            async with self._uploads:
                if await self._put_once(pack):
                    return

    async def _put_once(self, pack: _Pack) -> bool:
        """Try to put, with a slot; False when that failed."""
        try:
            pack.size_bytes = await trio.to_thread.run_sync(
                self._put_sync, pack, limiter=self._put_threads, abandon_on_cancel=True
            )
        except Exception as error:
            self._fail(pack, error)
            return False
        self._refused.discard(pack.id)
        self._accepted.set()
        self._accepted = trio.Event()
        self._tuner.finished(pack.size_bytes, trio.current_time(), bool(self._queue))
        self._uploads.total_tokens = self._tuner.level
        pack.asked_wait_s = None
        return True

    def _put_sync(self, pack: _Pack) -> int:
        data = self._local.files.read_all(pack.salt)
        if object_hash(data) != pack.name:  # or the store would keep, and prove, bytes that nobody wrote
            path = self._local.files.path(pack.salt)
            raise IntegrityError(f"{path} is damaged: its bytes are not those of {pack.object_name}")
        self._store.put(pack.object_name, data)
        return len(data)

    async def _is_confirmed(self, pack: _Pack) -> bool:
        """Look until the pack is found to be stored; False when the store was wrong too often."""
        how = How(self._blocks.get_pack(pack.id).verified_how)
        confirmation = Confirmation(settle_s=self._settle_s, how=how, rng=self._rng, meter=self._meter)
        await trio.sleep(confirmation.start())
        while True:
            match confirmation.next(await self._look(pack, how)):
                case Done():
                    return True
                case GiveUp():
                    return False
                case Look(wait_s):
                    await trio.sleep(wait_s)
                case PutAgain(wait_s):
                    await trio.sleep(wait_s)
                    await self._put(pack)
                    await trio.sleep(confirmation.start())

    async def _look(self, pack: _Pack, how: How) -> Outcome:
        """Look once, when the store lets us."""
        backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, self._rng)
        while True:
            async with self._looks:
                try:
                    return await trio.to_thread.run_sync(
                        self._look_sync, pack, how, limiter=self._look_threads, abandon_on_cancel=True
                    )
                except Exception as error:
                    self._fail(pack, error)
            await trio.sleep(backoff.next_s(pack.asked_wait_s))

    def _look_sync(self, pack: _Pack, how: How) -> Outcome:
        def is_same(data: bytes) -> bool:
            return object_hash(data) == pack.name

        return look(self._store, pack.object_name, how=how, size_bytes=pack.size_bytes, matches=is_same)

    def _fail(self, pack: _Pack, error: Exception) -> None:
        """Note why a pack is not stored; a mistake of ours is logged whole, and tried again like the rest."""
        if not isinstance(error, CubefsError):
            log.exception("storing %s failed unexpectedly", pack.object_name, exc_info=error)
            error = CubefsError(f"storing {pack.object_name} failed: {error!r}")
        if isinstance(error, StoreError):
            self._refused.add(pack.id)
        pack.asked_wait_s = error.retry_after_s if isinstance(error, StoreUnavailableError) else None
        self.trouble.failed(error, what=pack.id)
