"""Sealing: unsealed file data becomes blocks in packs and extents in the database.

A job takes one generation of some files, cuts and hashes it in a worker, asks the database on the loop which
blocks are known, packs and appends the others in workers, and applies the outcome in one stretch.
Must never: apply part of a generation that was not written as one stream (a random writer's file would be no
prefix of its writes), or let two jobs append and apply in different orders.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar, TypeVarTuple

import trio

from cubefs.chunking import Chunker
from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.db.extents import Extents, NewExtent, RefDeltas
from cubefs.db.tree import Tree
from cubefs.engine.dirty import Ranges
from cubefs.engine.filestate import FileState
from cubefs.engine.gate import Gate
from cubefs.engine.packing import NewBlock, plan_frames
from cubefs.engine.packs import Appended, PackWriter, Unit
from cubefs.errors import CubefsError
from cubefs.format.keys import Keyring
from cubefs.format.pack import pack_frame
from cubefs.model import BLOCK_MAX_BYTES, MIB, Chunking

log = logging.getLogger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BATCH_BYTES = 4 * MIB  # closed small files are sealed together: full frames and one worker hop for hundreds
BATCH_FILES = 1000  # bounds the stretch that applies a batch
STREAM_BYTES = 16 * MIB  # a growing file is sealed in pieces of this: some ten blocks
RANDOM_RUNS = 2000  # a file with this many dirty runs is sealed: bounds the stretch that applies it
_JOBS = 2  # one computes while the other appends and applies
_WORKERS = 2  # compression is the cost; more than this only takes turns on small machines


class _Chunk(NamedTuple):
    """A block's worth of one file."""

    file_offset: int
    data: memoryview
    block_hash: bytes


class _Item(NamedTuple):
    """One file's part in a job."""

    state: FileState
    chunks: list[_Chunk]
    size_bytes: int  # of the file when the generation was taken
    grows: bool = False  # all of it is one stream, to which more may be appended


def _blocks_of(items: Iterable[_Item], hashes: Iterable[bytes]) -> list[NewBlock]:
    """Return the blocks with these hashes, each once."""
    data = {chunk.block_hash: chunk.data for item in items for chunk in item.chunks}
    return [NewBlock(block_hash, data[block_hash]) for block_hash in hashes]


class Sealer:
    """Owns the queue of files to seal and the pack that is being written."""

    def __init__(
        self,
        *,
        database: Database,
        tree: Tree,
        extents: Extents,
        blocks: Blocks,
        writer: PackWriter,
        keyring: Keyring,
        chunker: Chunker,
        chunking: Chunking,
        gate: Gate,
        clock_ns: Callable[[], int],
        choose_verification: Callable[[], str],
    ) -> None:
        self._db = database
        self._tree = tree
        self._extents = extents
        self._blocks = blocks
        self._writer = writer
        self._keyring = keyring
        self._chunker = chunker
        self._aligned = chunking is Chunking.FIXED
        self._gate = gate
        self._clock_ns = clock_ns
        self._choose_verification = choose_verification
        self.pack_lock = trio.Lock()  # append and apply happen under it, as one; so does closing a pack
        self._queue: dict[int, FileState] = {}
        self._queue_bytes = 0
        self._urgent: set[int] = set()
        self._wake = trio.Event()
        self._applied = trio.Event()
        self._flights: dict[bytes, trio.Event] = {}  # hashes of new blocks that a job is about to place
        self._slots = trio.Semaphore(_JOBS)
        self._limiter = trio.CapacityLimiter(_WORKERS)
        self._pack_ids: dict[bytes, int] = {}
        self.on_pack_grown: Callable[[bytes, int], None] = lambda salt, size_bytes: None
        self.on_pack_closed: Callable[[int, bytes, bytes], None] = lambda pack, salt, name: None

    # -- asking ----------

    def request(self, state: FileState) -> None:
        """Queue a file whose data should be sealed soon: it was closed, or has grown much. Never blocks."""
        # an inode's earlier state may still be queued: emptied by a truncate, then forgotten
        if state.dirty and self._queue.get(state.inode) is not state:
            self._queue[state.inode] = state
            self._queue_bytes += state.dirty.bytes_held
            if self._queue_bytes >= BATCH_BYTES or len(self._queue) >= BATCH_FILES:
                self._wake.set()

    def request_urgent(self, states: Iterable[FileState]) -> None:
        """Queue files and start on them at once, whatever the size of the batch."""
        for state in states:
            if state.dirty:
                self._urgent.add(state.inode)
                self.request(state)
        self._wake.set()

    async def settle(self, states: Iterable[FileState]) -> None:
        """Wait until all data that these files hold now is in the database (not yet durable).

        Raises the error that has ended sealing.
        """
        waiting = []
        for state in states:
            if state.is_dirty:
                waiting.append((state, state.taken_count + (1 if state.dirty else 0)))
                if state.dirty:
                    state.must_seal = True
        self.request_urgent([state for state, _ in waiting])
        for state, target in waiting:
            while state.applied_count < target and state.is_dirty:
                if self._gate.failure is not None:
                    self._gate.check()
                await self._applied.wait()

    # -- working ----------

    async def run(self) -> None:
        """Serve the queue until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while True:
                    await self._slots.acquire()
                    batch = self._next_batch()
                    if not batch:
                        self._slots.release()
                        break
                    nursery.start_soon(self._guarded_job, batch)

    def _next_batch(self) -> list[FileState]:
        """Take files off the queue: urgent ones, or a full batch; a file whose last job still runs must wait."""
        ready = [state for state in self._queue.values() if state.sealing is None]
        if self._urgent:
            ready.sort(key=lambda state: state.inode not in self._urgent)
        elif sum(state.dirty.bytes_held for state in ready) < BATCH_BYTES and len(ready) < BATCH_FILES:
            return []
        batch: list[FileState] = []
        size = 0
        for state in ready:
            if batch and (size + state.dirty.bytes_held > BATCH_BYTES or len(batch) >= BATCH_FILES):
                break
            del self._queue[state.inode]
            self._urgent.discard(state.inode)
            if state.dirty:
                batch.append(state)
                size += state.dirty.bytes_held
        self._queue_bytes = sum(state.dirty.bytes_held for state in self._queue.values())
        return batch

    async def _guarded_job(self, batch: list[FileState]) -> None:
        try:
            await self._job(batch)
        except Exception as error:
            self._gate.fail(error if isinstance(error, CubefsError) else CubefsError(f"sealing failed: {error!r}"))
        finally:
            self._slots.release()
            self._applied.set()
            self._applied = trio.Event()
            self._wake.set()

    async def _job(self, batch: list[FileState]) -> None:
        items = []
        taken = []
        for state in batch:
            if state.sealing is None:
                state.absorb_tail()
            if self._may_keep_tail(state):
                item = await self._take_stream(state)
                if item is not None:
                    items.append(item)
                    continue
            if state.dirty and state.sealing is None:
                taken.append((state, state.take(), state.size_bytes))
        if taken:
            items += await self._worker(self._cut_all, taken)
        if items:
            await self._store(items)

    def _may_keep_tail(self, state: FileState) -> bool:
        """Whether the file is a growing stream whose last, unfinished block can wait for more data."""
        return (
            state.dirty.is_stream
            and len(state.dirty) == 1
            and state.dirty.bytes_held >= STREAM_BYTES
            and state.open_count > 0
            and not state.must_seal
        )

    async def _take_stream(self, state: FileState) -> _Item | None:
        """Take a stream's finished blocks, or None when it was changed meanwhile other than by appending."""
        run = next(iter(state.dirty))
        start, parts, seen = run.start, list(run.parts), state.rewrite_count
        joined, chunks, rest = await self._worker(self._cut_stream, start, parts)
        length = sum(len(chunk.data) for chunk in chunks)
        if state.rewrite_count != seen or state.sealing is not None or not chunks:
            return None
        state.take_planned(joined, length=length, part_count=len(parts), rest=rest)
        return _Item(state, chunks, start + length)

    # -- in workers ----------

    async def _worker(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        return await trio.to_thread.run_sync(function, *arguments, limiter=self._limiter)

    def _cut_stream(self, start: int, parts: list[bytes | memoryview]) -> tuple[memoryview, list[_Chunk], bytes]:
        joined = memoryview(b"".join(parts))
        chunks = self._cut_run(start, joined, keep_last=True)
        return joined, chunks, bytes(joined[sum(len(chunk.data) for chunk in chunks) :])

    def _cut_all(self, taken: list[tuple[FileState, Ranges, int]]) -> list[_Item]:
        items = []
        for state, ranges, size_bytes in taken:
            chunks: list[_Chunk] = []
            for run in ranges:
                chunks += self._cut_run(run.start, memoryview(run.joined()), keep_last=False)
            grows = state.open_count > 0 and ranges.is_stream and len(ranges) == 1
            items.append(_Item(state, chunks, size_bytes, grows))
        return items

    def _cut_run(self, start: int, data: memoryview, *, keep_last: bool) -> list[_Chunk]:
        """Cut one contiguous run into blocks and hash them; fixed blocks are aligned to file offsets."""
        lengths = []
        head = -start % BLOCK_MAX_BYTES if self._aligned else 0
        if head:
            lengths.append(min(head, len(data)))
        if len(data) > head:
            lengths += self._chunker.cut(data[head:] if head else data)
        if keep_last:
            lengths.pop()
        chunks = []
        offset = 0
        for length in lengths:
            piece = data[offset : offset + length]
            chunks.append(_Chunk(start + offset, piece, self._keyring.block_id(piece)))
            offset += length
        return chunks

    # -- storing and applying ----------

    async def _store(self, items: list[_Item]) -> None:
        """Place the blocks that are new and apply all extents."""
        known: dict[bytes, int] = {}
        new: dict[bytes, NewBlock] = {}
        waiting: dict[bytes, trio.Event] = {}
        for item in items:
            for chunk in item.chunks:
                block_hash = chunk.block_hash
                if block_hash in known or block_hash in new or block_hash in waiting:
                    continue
                block = self._blocks.find_known(block_hash)
                if block is not None:
                    known[block_hash] = block
                elif block_hash in self._flights:
                    waiting[block_hash] = self._flights[block_hash]
                else:
                    new[block_hash] = NewBlock(block_hash, chunk.data)
        landed = trio.Event()
        self._flights.update(dict.fromkeys(new, landed))
        try:
            units = await self._pack(list(new.values()))
            for event in waiting.values():
                await event.wait()
            async with self.pack_lock:
                appended: list[Appended] = []
                elsewhere = known.keys() | waiting.keys()
                while True:
                    if units:
                        appended += await self._worker(self._writer.append, units)
                    self._gate.check()
                    lost = [block_hash for block_hash in elsewhere if self._blocks.find_known(block_hash) is None]
                    if not lost:
                        break
                    elsewhere -= set(lost)  # found damaged since it was looked up: store it once more
                    units = await self._pack(_blocks_of(items, lost))
                self._apply(items, appended)
        finally:
            for block_hash in new:
                del self._flights[block_hash]
            landed.set()

    async def _pack(self, blocks: list[NewBlock]) -> list[Unit]:
        """Compress new blocks into frames, on all workers."""
        plans = plan_frames(blocks)
        units: list[Unit | None] = [None] * len(plans)

        def work(first: int) -> None:
            for index in range(first, len(plans), _WORKERS):
                frames = tuple(pack_frame(plain()) for plain in plans[index].frames)
                units[index] = Unit(frames, plans[index].blocks)

        async with trio.open_nursery() as nursery:
            for first in range(min(_WORKERS, len(plans))):
                nursery.start_soon(self._worker, work, first)
        return [unit for unit in units if unit is not None]

    def _apply(self, items: list[_Item], appended: list[Appended]) -> None:
        """Record what was appended and map it into the files, in one stretch."""
        closed = []
        with self._db.operation():
            for part in appended:
                closed += self._record(part)
            deltas: RefDeltas = defaultdict(int)
            for item in items:
                self._apply_file(item, deltas)
            self._blocks.change_refs(deltas)
        for pack, salt, name in closed:
            self.on_pack_closed(pack, salt, name)

    def _record(self, part: Appended) -> list[tuple[int, bytes, bytes]]:
        """Add the rows of packs, frames and blocks that an append made."""
        if part.opened:
            self._pack_ids[part.salt] = self._blocks.insert_pack(part.salt, now_ns=self._clock_ns())
        pack = self._pack_ids[part.salt]
        for number, frame in part.frames:
            self._blocks.insert_frame(pack, number, frame)
        for block in part.blocks:
            self._blocks.place(
                block.block_hash,
                length=block.length,
                pack=pack,
                frame=block.frame,
                frame_offset=block.frame_offset,
            )
        if part.closed is None:
            last = part.frames[-1][1]
            self.on_pack_grown(part.salt, last.pack_offset + last.stored_bytes)
            return []
        return [self._record_closed(part.salt, part.closed.name, part.closed.size_bytes)]

    def _record_closed(self, salt: bytes, name: bytes, size_bytes: int) -> tuple[int, bytes, bytes]:
        pack = self._pack_ids.pop(salt)
        how = self._choose_verification()
        self._blocks.close_pack(pack, salt=salt, name=name, size_bytes=size_bytes, verified_how=how)
        return pack, salt, name

    async def close_pack(self) -> None:
        """Complete the open pack, if any, so that a commit can be shipped. Call with `pack_lock` held."""
        outcome = await self._worker(self._writer.close_pack)
        if outcome is not None:
            salt, closed = outcome
            with self._db.operation():
                event = self._record_closed(salt, closed.name, closed.size_bytes)
            self.on_pack_closed(*event)

    async def reseal(self, blocks: list[NewBlock]) -> None:
        """Seal known blocks again and let their rows name the new place."""
        units = await self._pack(blocks)
        async with self.pack_lock:
            appended = await self._worker(self._writer.append, units)
            with self._db.operation():
                closed = [event for part in appended for event in self._record(part)]
            for pack, salt, name in closed:
                self.on_pack_closed(pack, salt, name)

    async def sync_packs(self) -> None:
        """Make everything appended so far durable. Raises LocalDiskError."""
        await self._worker(self._writer.sync)

    def _apply_file(self, item: _Item, deltas: RefDeltas) -> None:
        state = item.state
        attr = self._tree.find_attr(state.inode)
        if attr is not None and attr.body == state.body and item.chunks:
            stop = state.sealing_stop
            extents = []
            for chunk in item.chunks:
                length = len(chunk.data)
                if stop is not None:
                    length = min(length, stop - chunk.file_offset)
                if length > 0:
                    block = self._blocks.find_known(chunk.block_hash)
                    assert block is not None
                    extents.append(NewExtent(chunk.file_offset, length, block))
            allocated = self._extents.write(state.body, extents, deltas)
            size_bytes = item.size_bytes if stop is None else min(item.size_bytes, stop)
            self._tree.update_inode(
                attr._replace(
                    size_bytes=max(attr.size_bytes, size_bytes),
                    allocated_bytes=attr.allocated_bytes + allocated,
                    mtime_ns=attr.mtime_ns if state.mtime_ns is None else state.mtime_ns,
                    ctime_ns=attr.ctime_ns if state.ctime_ns is None else state.ctime_ns,
                )
            )
        overtaken = state.sealing_stop is not None
        state.finish_sealing()
        if item.grows and state.open_count and not overtaken:
            self._keep_tail(state, item.chunks)

    def _keep_tail(self, state: FileState, chunks: list[_Chunk]) -> None:
        """Keep what may be cut again when the file grows: the last block, or all that was cut by itself."""
        start = chunks[0].file_offset
        if state.tail is not None and start == state.tail.stop:
            state.keep_tail(start, b"".join(chunk.data for chunk in chunks), continues=True)
        else:
            state.keep_tail(chunks[-1].file_offset, bytes(chunks[-1].data), continues=False)
