"""Shipping commits: once every pack that a cut needs is stored, its changesets become the next log object.

    seal      combine the changesets up to the cut, seal them as meta/<seq>
    keep      the sealed bytes are committed locally: a retry sends exactly these
    put       create meta/<seq> exclusively, read it back
    confirm   the head moves, the outbox is emptied
    base      when the log has grown too long, a new base of exactly this state

Must never: ship a commit before its packs are stored, or send other bytes under a number already tried.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable

import trio

from cubefs.db.database import Database
from cubefs.db.image import combine
from cubefs.db.outbox import Outbox, Sealed, StoredHead
from cubefs.engine import metalog
from cubefs.engine.committing import Committer
from cubefs.engine.gate import Gate
from cubefs.engine.metalog import Head
from cubefs.engine.rebasing import Rebaser
from cubefs.engine.uploading import Uploader
from cubefs.errors import CubefsError, FencedError, StoreError
from cubefs.format import log as record_format
from cubefs.format.keys import Keyring
from cubefs.model import MIB
from cubefs.store.base import Store

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
    ) -> None:
        self._db = database
        self._outbox = outbox
        self._committer = committer
        self._uploader = uploader
        self._gate = gate
        self._store = store
        self._keyring = keyring
        self._uuid = uuid
        self._clock_ns = clock_ns
        stored = outbox.find_head()
        assert stored is not None
        self._stored = stored
        self._needs: dict[int, int] = {}  # cut → packs up to this one must be stored before it is shipped
        self._wake = trio.Event()
        self._moved = trio.Event()
        self._rebaser = Rebaser(database_path=database.path, store=store, keyring=keyring, uuid=uuid)
        self._has_announced = False
        self.shipped_number = database.last_number if outbox.first_waiting_ns() is None else 0
        self.last_error: str | None = None

    @property
    def seq(self) -> int:
        """The number of the last log object known to be in the store."""
        return self._stored.seq

    def committed(self, cut: bool) -> None:
        """A commit has happened; when it was a cut, everything up to it may be shipped."""
        if cut:
            number = self._db.last_number
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
            await self._moved.wait()
        self._gate.check()

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
        sealed = self._outbox.find_sealed()
        if sealed is None:
            number = self._outbox.next_cut(OBJECT_CHANGES_BYTES)
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
        based = await self._rebaser.write(sealed.last_number, head)
        if based is not head:
            self._set_head(based)
            with self._db.operation():
                self._outbox.set_head(self._stored)
        self.shipped_number = max(self.shipped_number, sealed.last_number)
        self._needs = {cut: pack for cut, pack in self._needs.items() if cut > sealed.last_number}
        self._notify()
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
        pause_s = _PAUSE_FIRST_S
        while True:
            try:
                await trio.to_thread.run_sync(self._put_sync, sealed, abandon_on_cancel=True)
            except FencedError:
                raise
            except StoreError as error:
                if self.last_error != str(error):
                    log.warning("the metadata is not stored yet, will try again: %s", error)
                self.last_error = str(error)
                self._notify()
                await trio.sleep(pause_s)
                pause_s = min(pause_s * 2, _PAUSE_MAX_S)
            else:
                self.last_error = None
                return

    def _put_sync(self, sealed: Sealed) -> None:
        metalog.ship(self._store, seq=sealed.seq, body=sealed.body)
