"""The engine: everything between POSIX semantics and the store, put together and kept running.

Must never: hold logic of its own beyond starting, stopping and the two barriers (commit, sync).
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from cubefs.chunking import Chunker
from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.db.extents import Extents
from cubefs.db.outbox import Outbox
from cubefs.db.snapshots import Snapshots
from cubefs.db.tree import Tree
from cubefs.db.xattrs import Xattrs
from cubefs.engine.committing import Committer
from cubefs.engine.dirty import DirtyLimit
from cubefs.engine.filetable import FileTable
from cubefs.engine.gate import Gate
from cubefs.engine.housekeeping import Housekeeper
from cubefs.engine.localdisk import LocalDisk
from cubefs.engine.localpacks import LocalPacks
from cubefs.engine.opening import open_database
from cubefs.engine.packs import PackFiles, PackWriter
from cubefs.engine.reading import BlockReader
from cubefs.engine.recovery import Recovery
from cubefs.engine.sealing import Sealer
from cubefs.engine.shipping import Shipper
from cubefs.engine.uploading import Uploader
from cubefs.format.keys import Keyring
from cubefs.format.superblock import Superblock
from cubefs.model import MIB, Chunking, PackState
from cubefs.store.base import Store
from cubefs.store.meter import Meter
from cubefs.store.retry import Retrying, sleep_in_all
from cubefs.store.verify import Policy

log = logging.getLogger(__name__)

GIB = 1024 * MIB
OPENING_PATIENCE_S = 60.0  # in all, also when the store asks to be left alone for longer
OPENING_ATTEMPTS = 4  # some seconds: a hiccup must not fail a mount, a store that is down must not hold it up
_HOUSEKEEPING_S = 3.0  # a clean unmount waits this long for work that the next mount can do as well


@dataclass(frozen=True)
class EngineOptions:
    """What a mount may choose. Sizes in bytes, times in seconds."""

    cache_limit_bytes: int = 10 * GIB
    dirty_limit_bytes: int = 64 * MIB
    commit_interval_s: float = 5.0
    recovery_point_s: float = 60.0
    read_timeout_s: float = 60.0
    verify: Policy = field(default_factory=Policy)
    settle_s: float = 0.0  # between an upload and the first look at it
    read_only: bool = False


class Engine:
    """The parts, for the layer above. Made by `open_engine`."""

    def __init__(
        self,
        options: EngineOptions,
        *,
        database: Database,
        store: Store,
        superblock: Superblock,
        keyring: Keyring,
        cache_dir: Path,
        nursery: trio.Nursery,
        clock_ns: Callable[[], int],
        meter: Meter,
        check_head: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self.options = options
        self.meter = meter
        self._retrying = Retrying(store, meter=meter)
        self.store: Store = self._retrying
        self._rng = random.Random()
        self.uuid = superblock.uuid
        self.clock_ns = clock_ns
        self.database = database
        self.tree = Tree(database)
        self.xattrs = Xattrs(database)
        self.extents = Extents(database)
        self.blocks = Blocks(database)
        self.snapshots = Snapshots(database)
        self.outbox = Outbox(database)
        self.gate = Gate()
        self.files = FileTable(DirtyLimit(options.dirty_limit_bytes))
        self._keyring = keyring
        self._make_data_path(cache_dir, nursery)
        self._make_log(check_head)
        self.sealer.on_pack_grown = self._pack_grown
        self.sealer.on_pack_closed = self._pack_closed
        self.committer.on_committing = self._committing
        self.committer.on_commit = self._committed

    def _make_data_path(self, cache_dir: Path, nursery: trio.Nursery) -> None:
        """Local packs, sealing and reading."""
        options, keyring, database = self.options, self._keyring, self.database
        pack_files = PackFiles(cache_dir / "packs")
        self.local = LocalPacks(
            pack_files, database, self.blocks, limit_bytes=options.cache_limit_bytes, clock_ns=self.clock_ns
        )
        self.disk = LocalDisk(cache_dir, self.files.limit, self.local)
        chunking = Chunking(database.meta("chunking").decode())
        self.sealer = Sealer(
            database=database,
            tree=self.tree,
            extents=self.extents,
            blocks=self.blocks,
            writer=PackWriter(
                pack_files, pack_key=keyring.pack_key, uuid=self.uuid, wait_for_space=self.disk.wait_in_worker
            ),
            keyring=keyring,
            chunker=Chunker(chunking, keyring.chunk_seed),
            chunking=chunking,
            gate=self.gate,
            clock_ns=self.clock_ns,
            choose_verification=lambda: options.verify.choose(self._rng).value,
        )
        self.reader = BlockReader(
            database=database,
            blocks=self.blocks,
            local=self.local,
            store=self.store,
            keyring=keyring,
            uuid=self.uuid,
            nursery=nursery,
            clock_ns=self.clock_ns,
            timeout_s=options.read_timeout_s,
        )

    def _make_log(self, check_head: Callable[[], Awaitable[None]] | None) -> None:
        """Commits and what brings them to the store."""
        self.committer = Committer(
            database=self.database,
            sealer=self.sealer,
            gate=self.gate,
            dirty_states=self.files.dirty,
            is_pressed=lambda: self.local.is_full_of_dirty,
            clock_ns=self.clock_ns,
            interval_s=self.options.commit_interval_s,
            recovery_point_s=self.options.recovery_point_s,
        )
        self.uploader = Uploader(
            local=self.local,
            blocks=self.blocks,
            store=self.store,
            gate=self.gate,
            settle_s=self.options.settle_s,
            meter=self.meter,
            rng=self._rng,
            clock_ns=self.clock_ns,
        )
        self.shipper = Shipper(
            database=self.database,
            outbox=self.outbox,
            committer=self.committer,
            uploader=self.uploader,
            gate=self.gate,
            store=self.store,
            keyring=self._keyring,
            uuid=self.uuid,
            clock_ns=self.clock_ns,
            rng=self._rng,
            settle_s=self.options.settle_s,
            meter=self.meter,
            check_head=check_head,
        )
        self.housekeeper = Housekeeper(
            database=self.database,
            extents=self.extents,
            blocks=self.blocks,
            snapshots=self.snapshots,
            gate=self.gate,
        )

    @property
    def store_error(self) -> str | None:
        """What is wrong with the store at the moment: why something failed, or is being tried again; else None."""
        troubles = (self.uploader.trouble, self.shipper.trouble, self.reader.trouble)
        failed = next((trouble.last_error for trouble in troubles if trouble.last_error), None)
        return failed or self._retrying.problem

    def _pack_grown(self, salt: bytes, size_bytes: int) -> None:
        self.local.add(salt, PackState.OPEN, size_bytes)

    def _pack_closed(self, pack: int, salt: bytes, name: bytes) -> None:
        self.uploader.add(pack, salt, name)
        self.committer.packs_waiting_count += 1

    def _committing(self) -> None:
        self.uploader.committing()
        self.local.committing()

    def _committed(self, number: int, cut: bool) -> None:
        self.local.committed()
        self.uploader.committed()
        self.shipper.committed(cut)

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the background tasks and put right what the last mount left."""
        if self.options.read_only:
            self.local.load()
            return
        nursery.start_soon(self.sealer.run)
        nursery.start_soon(self.committer.run)
        recovery = Recovery(
            database=self.database,
            blocks=self.blocks,
            local=self.local,
            sealer=self.sealer,
            committer=self.committer,
            uploader=self.uploader,
            keyring=self._keyring,
            uuid=self.uuid,
        )
        await recovery.run()
        nursery.start_soon(self.uploader.run)
        nursery.start_soon(self.shipper.run)
        nursery.start_soon(self.housekeeper.run)
        nursery.start_soon(self.disk.run)

    async def commit(self) -> None:
        """Return when everything accepted so far is on the local disk."""
        await self.committer.commit(everything=True)

    async def sync(self) -> None:
        """Return when everything accepted so far is in the store and the commit has been shipped."""
        if self.options.read_only:
            return
        number = await self.committer.commit(everything=True, cut=True)
        await self.shipper.wait_shipped(number)


@asynccontextmanager
async def open_engine(
    options: EngineOptions,
    *,
    store: Store,
    superblock: Superblock,
    keyring: Keyring,
    cache_dir: Path,
    clock_ns: Callable[[], int] = time.time_ns,
    meter: Meter | None = None,
) -> AsyncIterator[Engine]:
    """Open the database (from the store when the cache directory has none), start everything, drain at the end.

    On a clean exit everything is in the store. After an exception nothing is waited for: it equals a crash.
    """
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # noqa: ASYNC240 - before anything runs
    meter = meter or Meter()
    database, check_head = await open_database(
        cache_dir / "db.sqlite",
        store=Retrying(store, meter=meter, attempts=OPENING_ATTEMPTS, sleep=sleep_in_all(OPENING_PATIENCE_S)),
        superblock=superblock,
        keyring=keyring,
        read_only=options.read_only,
        random=os.urandom,
    )
    try:
        async with trio.open_nursery() as nursery:
            engine = Engine(
                options,
                database=database,
                store=store,
                superblock=superblock,
                keyring=keyring,
                cache_dir=cache_dir,
                nursery=nursery,
                clock_ns=clock_ns,
                meter=meter,
                check_head=check_head,
            )
            try:
                await engine.start(nursery)
                yield engine
                if engine.gate.failure is None and not options.read_only:
                    await engine.housekeeper.finish(_HOUSEKEEPING_S)  # it must not change rows behind the last cut
                    await engine.sync()
                    await engine.shipper.wait_base()
                    await engine.committer.commit()  # the head has moved: make that durable as well
            finally:
                engine.disk.stop()
                engine.shipper.close()
                nursery.cancel_scope.cancel()
    finally:
        database.close()
