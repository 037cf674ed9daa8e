"""What a mount puts right before anybody uses it: the remains of a process that did not end in order.

    files without a row       deleted: they were never committed
    rows without a file       forgotten when the pack is stored; named as lost otherwise
    packs found open          their live blocks are sealed again into a new pack, under a new key
    orphans                   inodes unlinked but open: deleted

Must never: continue an open pack, or delete its file before the commit that moves its blocks is durable.
"""

from __future__ import annotations

import logging
from collections import deque

import trio

from cubefs.db.blocks import BlockRow, Blocks, LocalPack
from cubefs.db.database import Database
from cubefs.engine.committing import Committer
from cubefs.engine.localpacks import LocalPacks
from cubefs.engine.packing import NewBlock
from cubefs.engine.packs import PackFiles
from cubefs.engine.sealing import Sealer
from cubefs.engine.uploading import Uploader
from cubefs.errors import IntegrityError, LocalDiskError
from cubefs.format.keys import Keyring
from cubefs.format.pack import PackCipher
from cubefs.model import FRAME_MAX_BYTES, MIB, FrameInfo, PackState

log = logging.getLogger(__name__)

BATCH_BYTES = 32 * MIB  # of plaintext sealed again at a time: a pack may hold gigabytes that compress well


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
        present = [pack for pack in packs if pack.salt in salts]
        for pack in present:
            if pack.state is PackState.CLOSED and pack.name is not None:
                self._uploader.add(pack.id, pack.salt, pack.name)
        self._uploader.committing()  # by the last mount
        self._uploader.committed()
        for pack in present:
            if pack.state is PackState.OPEN:
                await self._reseal(pack)

    def _forget(self, pack: LocalPack) -> None:
        with self._db.operation():
            if pack.state is not PackState.STORED:
                if self._blocks.in_pack(pack.id):
                    path = self._local.files.path(pack.salt)
                    log.critical("%s is missing: a pack that was not yet in the store is lost", path)
                elif pack.name is None:
                    self._blocks.delete_pack(pack.id, pack.salt)
                self._blocks.lose_pack(pack.id)
            self._blocks.delete_local(pack.salt)

    async def _reseal(self, pack: LocalPack) -> None:
        """Move the live blocks of a pack found open into a new one."""
        rows = deque(self._blocks.in_pack(pack.id))
        cipher = PackCipher(self._keyring.pack_key, salt=pack.salt, uuid=self._uuid)
        reader = _PackReader(self._local.files, pack.salt, cipher, self._blocks.frames(pack.id))
        count = lost_count = 0
        while rows:
            blocks, lost = await trio.to_thread.run_sync(reader.read_batch, rows)
            for problem in lost:
                log.critical("%s: %s", self._local.files.path(pack.salt), problem)
            if blocks:
                await self._sealer.reseal(blocks)
            count += len(blocks)
            lost_count += len(lost)
        with self._db.operation():
            if lost_count:
                self._blocks.lose_pack(pack.id)  # the file stays: the next mount tries again
            else:
                self._blocks.delete_pack(pack.id, pack.salt)
                self._local.remove(pack.salt)
        await self._committer.commit()
        if not lost_count:
            self._local.files.delete(pack.salt)
        log.info("resealed %d blocks of a pack that was open at the end of the last mount", count)


class _PackReader:
    """Reads blocks from a pack that has no index yet. In workers, one at a time."""

    def __init__(self, files: PackFiles, salt: bytes, cipher: PackCipher, frames: dict[int, FrameInfo]) -> None:
        self._files = files
        self._salt = salt
        self._cipher = cipher
        self._frames = frames
        self._number = -1  # of the frame decoded last: it may hold thousands of blocks
        self._plain = b""

    def read_batch(self, rows: deque[BlockRow]) -> tuple[list[NewBlock], list[str]]:
        """Take rows off `rows` until they make BATCH_BYTES; return the blocks, and what is wrong with others."""
        blocks: list[NewBlock] = []
        lost: list[str] = []
        size = 0
        while rows and size < BATCH_BYTES:
            row = rows.popleft()
            try:
                data = self._read(row)
            except (IntegrityError, LocalDiskError) as error:
                lost.append(f"block {row.id} is lost: {error}")
            else:
                blocks.append(NewBlock(row.block_hash, memoryview(data)))
                size += len(data)
        return blocks, lost

    def _read(self, row: BlockRow) -> bytes:
        parts = []
        number, left, offset = row.frame, row.length, row.frame_offset
        while left > 0:
            part = self._frame(number)[offset : offset + min(left, FRAME_MAX_BYTES)]
            if not part:
                raise IntegrityError(f"frame {number} is too short")
            parts.append(part)
            left -= len(part)
            number, offset = number + 1, 0
        return b"".join(parts)

    def _frame(self, number: int) -> bytes:
        if number != self._number:
            frame = self._frames.get(number)
            if frame is None:
                raise IntegrityError(f"frame {number} is not recorded")
            stored = self._files.read(self._salt, start=frame.pack_offset, length=frame.stored_bytes)
            self._plain = self._cipher.open_frame(number, stored or b"", plain_bytes=frame.plain_bytes)
            self._number = number
        return self._plain
