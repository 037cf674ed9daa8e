"""Shipping commits: once every pack that a cut needs is stored, its changesets become the next log object.

    seal      combine the changesets up to the cut, seal them as meta/<seq>
    keep      the sealed bytes are committed locally: a retry sends exactly these
    look      is the object before it still ours
    put       create meta/<seq> exclusively, read it back
    confirm   the head moves, the outbox is emptied
    base      when the log has grown too long, a new base of exactly this state

Must never: ship a commit before its packs are stored, or send other bytes under a number already tried.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Awaitable, Callable

import trio

from cubefs.db.database import Database
from cubefs.db.image import combine
from cubefs.db.outbox import Outbox, Sealed, StoredHead
from cubefs.engine import logend, metalog
from cubefs.engine.committing import Committer
from cubefs.engine.gate import Gate
from cubefs.engine.metalog import Head
from cubefs.engine.rebasing import Rebaser
from cubefs.engine.trouble import Trouble
from cubefs.engine.uploading import Uploader
from cubefs.errors import CubefsError, StoreError, StoreUnavailableError
from cubefs.format import log as record_format
from cubefs.format.envelope import HEADER_BYTES
from cubefs.format.keys import Keyring
from cubefs.model import MIB
from cubefs.store.base import Store
from cubefs.store.meter import Meter
from cubefs.store.retry import Backoff

log = logging.getLogger(__name__)

OBJECT_CHANGES_BYTES = 64 * MIB  # of changesets in one object, where cuts allow: a reader holds it in memory
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 30.0


class Shipper:
    """Owns the end of the metadata log. The only writer of log objects while mounted."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        committer: Committer,
        uploader: Uploader,
        gate: Gate,
        store: Store,
        keyring: Keyring,
        uuid: bytes,
        clock_ns: Callable[[], int],
        rng: random.Random,
        settle_s: float,
        meter: Meter,
        check_head: Callable[[], Awaitable[None]] | None,
    ) -> None:
        """check_head: what could not be checked when the file system was opened, because the store was down."""
        self._db = database
        self._outbox = outbox
        self._committer = committer
        self._uploader = uploader
        self._gate = gate
        self._store = store
        self._keyring = keyring
        self._uuid = uuid
        self._clock_ns = clock_ns
        self._rng = rng
        self._settle_s = settle_s
        self._meter = meter
        self._check_head = check_head
        stored = outbox.find_head()
        assert stored is not None
        self._stored = stored
        self._durable_number = database.last_number  # what the last mount committed is on the disk
        self._needs: dict[int, int] = {}  # cut → packs up to this one must be stored before it is shipped
        self._wake = trio.Event()
        self._moved = trio.Event()
        self._rebaser = Rebaser(database_path=database.path, store=store, keyring=keyring, uuid=uuid)
        self._has_announced = False
        self._last_header: bytes | None = None  # of the log object shipped last; at the start opening.py has looked
        self.shipped_number = database.last_number if outbox.first_waiting_ns() is None else 0
        self.trouble = Trouble(log, work="storing metadata", clock_ns=clock_ns)

    @property
    def last_error(self) -> str | None:
        """Why the metadata is not stored at the moment, None while it is."""
        return self.trouble.last_error

    @property
    def is_unchecked(self) -> bool:
        """Whether it is still open if another machine has written since this one did."""
        return self._check_head is not None

    @property
    def seq(self) -> int:
        """The number of the last log object known to be in the store."""
        return self._stored.seq

    def committed(self, cut: bool) -> None:
        """A commit has happened and is durable; when it was a cut, everything up to it may be shipped."""
        if cut:
            number = self._durable_number = self._db.last_number
            self._needs[number] = max(self._uploader.unstored_committed, default=0)
            is_store_up = self.last_error is None and self._uploader.last_error is None
            if Rebaser.is_due(self._head()) and number > self.shipped_number and is_store_up:
                self._rebaser.pin(number)
            else:
                self._rebaser.drop()  # a pinned state keeps the WAL from being emptied
            self._wake.set()

    async def wait_shipped(self, number: int) -> None:
        """Wait until the commit `number` and all before it are in the store. Raises what has ended shipping."""
        while self.shipped_number < number:
            self._gate.check()
            await self._gate.wait_unless_failed(self._moved.wait)
        self._gate.check()

    async def wait_base(self) -> None:
        """Wait for the base that is being written, if any: a mount that ends each night must get one done, too."""
        await self._rebaser.wait_idle()

    def close(self) -> None:
        """Let go of what is held of the database."""
        self._rebaser.drop()

    async def run(self) -> None:
        """Ship cuts as they come, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            try:
                while await self._ship_next():
                    pass
            except Exception as error:
                self._gate.fail(
                    error if isinstance(error, CubefsError) else CubefsError(f"shipping failed: {error!r}")
                )
                self._notify()
                return

    def _notify(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def _ship_next(self) -> bool:
        """Ship what can be shipped next; return whether there was anything."""
        if self._check_head is not None and self._outbox.first_waiting_ns() is not None:
            await self._until_stored(self._check_head)
            self._check_head = None
            log.info("the store is there again, and no other machine has written to it")
        sealed = self._outbox.find_sealed()
        if sealed is None:
            number = self._outbox.next_cut(OBJECT_CHANGES_BYTES, durable_number=self._durable_number)
            if number == 0:
                self._notify()
                return False
            last_pack = self._needs.pop(number, max(self._uploader.unstored_committed, default=0))
            await self._uploader.wait_stored(last_pack)
            sealed = await self._seal(number)
        await self._put(sealed)
        head = metalog.after(self._head(), sealed.body)
        self._set_head(head)
        with self._db.operation():
            self._outbox.shipped(sealed, self._stored)
        self.shipped_number = max(self.shipped_number, sealed.last_number)
        self._needs = {cut: pack for cut, pack in self._needs.items() if cut > sealed.last_number}
        self._notify()  # whoever waits for the commit does not wait for a base
        based = await self._rebaser.write(sealed.last_number, head)
        if based is not head:
            self._set_head(based)
            with self._db.operation():
                self._outbox.set_head(self._stored)
        return True

    def _set_head(self, head: Head) -> None:
        self._stored = StoredHead(head.seq, head.chain_hash, self._stored.writer, head.log_bytes, head.base_bytes)

    def _head(self) -> Head:
        stored = self._stored
        return Head(stored.seq, stored.chain_hash, stored.log_bytes, stored.base_bytes)

    async def _seal(self, number: int) -> Sealed:
        cut = self._outbox.take(number)
        records: list[record_format.Record] = []
        if not self._has_announced:
            host = socket.gethostname()
            records.append(record_format.WriterOpened(self._clock_ns(), self._stored.writer, host))
            self._has_announced = True
        body = await trio.to_thread.run_sync(self._make_body, cut.changesets, cut.time_ns, records)
        sealed = Sealed(self._stored.seq + 1, number, body)
        with self._db.operation():
            self._outbox.put_sealed(sealed)
        await self._committer.commit()
        return sealed

    def _make_body(self, changesets: list[bytes], time_ns: int, records: list[record_format.Record]) -> bytes:
        changeset = combine(changesets)
        records.append(record_format.Changes(time_ns, changeset))
        return metalog.seal_next(self._head(), records, log_key=self._keyring.log_key, uuid=self._uuid)

    async def _put(self, sealed: Sealed) -> None:
        async def put() -> None:
            await trio.to_thread.run_sync(self._put_sync, sealed, abandon_on_cancel=True)

        await self._until_stored(put)

    async def _until_stored(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try until the store lets us; what is no trouble of the store is raised."""
        backoff = Backoff(_PAUSE_FIRST_S, _PAUSE_MAX_S, self._rng)
        while True:
            try:
                await attempt()
            except Exception as error:
                if isinstance(error, CubefsError) and not isinstance(error, StoreError):
                    raise
                if not isinstance(error, StoreError):  # a mistake of ours must not end a mount that can go on
                    log.exception("storing metadata failed unexpectedly")
                    error = StoreError(f"storing metadata failed: {error!r}")
                self.trouble.failed(error)
                self._notify()
                await trio.sleep(
                    backoff.next_s(error.retry_after_s if isinstance(error, StoreUnavailableError) else None)
                )
            else:
                self.trouble.worked()
                return

    def _put_sync(self, sealed: Sealed) -> None:
        log_key, uuid = self._keyring.log_key, self._uuid
        if self._last_header is not None:
            logend.check_last(self._store, seq=sealed.seq - 1, header=self._last_header, log_key=log_key, uuid=uuid)
        logend.ship(
            self._store,
            seq=sealed.seq,
            body=sealed.body,
            log_key=log_key,
            uuid=uuid,
            settle_s=self._settle_s,
            meter=self._meter,
        )
        self._last_header = sealed.body[:HEADER_BYTES]
