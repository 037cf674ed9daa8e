"""What a mount puts right before anybody uses it: the remains of a process that did not end in order.

    files without a row       deleted: they were never committed
    rows without a file       forgotten when the pack is stored; named as lost otherwise
    packs found open          their live blocks are sealed again into a new pack, under a new key
    orphans                   inodes unlinked but open: deleted

Must never: continue an open pack, or delete its file before the commit that moves its blocks is durable.
"""

from __future__ import annotations

import logging

import trio

from cubefs.db.blocks import BlockRow, Blocks, LocalPack
from cubefs.db.database import Database
from cubefs.engine.committing import Committer
from cubefs.engine.localpacks import LocalPacks
from cubefs.engine.packing import NewBlock
from cubefs.engine.sealing import Sealer
from cubefs.engine.uploading import Uploader
from cubefs.errors import IntegrityError
from cubefs.format.keys import Keyring
from cubefs.format.pack import PackCipher
from cubefs.model import FRAME_MAX_BYTES, PackState

log = logging.getLogger(__name__)


class Recovery:
    """Runs once per mount, before the first operation."""

    def __init__(
        self,
        *,
        database: Database,
        blocks: Blocks,
        local: LocalPacks,
        sealer: Sealer,
        committer: Committer,
        uploader: Uploader,
        keyring: Keyring,
        uuid: bytes,
    ) -> None:
        self._db = database
        self._blocks = blocks
        self._local = local
        self._sealer = sealer
        self._committer = committer
        self._uploader = uploader
        self._keyring = keyring
        self._uuid = uuid

    async def run(self) -> None:
        """Put local packs in order; afterwards none is open and every row has its file."""
        packs = list(self._blocks.local_packs())
        salts = await trio.to_thread.run_sync(self._local.files.salts)
        for salt in salts - {pack.salt for pack in packs}:
            self._local.files.delete(salt)
        for pack in packs:
            if pack.salt not in salts:
                self._forget(pack)
        self._local.load()
        for pack in packs:
            if pack.salt not in salts:
                continue
            if pack.state is PackState.CLOSED and pack.name is not None:
                self._uploader.add(pack.id, pack.salt, pack.name)
            elif pack.state is PackState.OPEN:
                await self._reseal(pack)
        self._uploader.committing()
        self._uploader.committed()

    def _forget(self, pack: LocalPack) -> None:
        if pack.state is not PackState.STORED and self._blocks.in_pack(pack.id):
            log.critical(
                "%s is missing: a pack that was not yet in the store is lost", self._local.files.path(pack.salt)
            )
        with self._db.operation():
            self._blocks.delete_local(pack.salt)

    async def _reseal(self, pack: LocalPack) -> None:
        """Move the live blocks of a pack found open into a new one."""
        rows = self._blocks.in_pack(pack.id)
        frames = self._blocks.frames(pack.id)
        cipher = PackCipher(self._keyring.pack_key, salt=pack.salt, uuid=self._uuid)
        whole = True
        blocks = []

        def read(row: BlockRow) -> bytes:
            parts = []
            number, left = row.frame, row.length
            while left > 0:
                frame = frames[number]
                stored = self._local.files.read(pack.salt, start=frame.pack_offset, length=frame.stored_bytes)
                plain = cipher.open_frame(number, stored or b"", plain_bytes=frame.plain_bytes)
                offset = row.frame_offset if number == row.frame else 0
                parts.append(plain[offset : offset + min(left, FRAME_MAX_BYTES)])
                left -= len(parts[-1])
                number += 1
            return b"".join(parts)

        for row in rows:
            try:
                data = await trio.to_thread.run_sync(read, row)
            except (IntegrityError, KeyError) as error:
                log.critical("block %d in %s is lost: %s", row.id, self._local.files.path(pack.salt), error)
                with self._db.operation():
                    self._blocks.mark_damaged(row.id)
                whole = False
                continue
            blocks.append(NewBlock(row.block_hash, memoryview(data)))
        if blocks:
            await self._sealer.reseal(blocks)
        if whole:
            with self._db.operation():
                self._blocks.delete_pack(pack.id, pack.salt)
            self._local.remove(pack.salt)
            await self._committer.commit()
            self._local.files.delete(pack.salt)
        log.info("resealed %d blocks of a pack that was open at the end of the last mount", len(blocks))
