"""Open files: reading, writing, fsync and release, live and in snapshots.

Must never: let a reader see bytes that were overwritten, or accept a write that could not be kept.
"""

from __future__ import annotations

import errno
import os
import stat

from cubefs.db.extents import Piece
from cubefs.engine.engine import Engine
from cubefs.engine.filestate import FileState
from cubefs.engine.sealing import RANDOM_RUNS, STREAM_BYTES
from cubefs.errors import PosixError
from cubefs.fs.attributes import Attributes
from cubefs.fs.namespace import Namespace
from cubefs.fs.views import Views, is_virtual
from cubefs.model import FILE_MAX_BYTES, Attr, Caller

_WRITES = os.O_WRONLY | os.O_RDWR


class _Handle:
    """One open file description."""

    __slots__ = ("attr", "epoch", "is_synchronous", "state")

    def __init__(self, attr: Attr, *, epoch: int, state: FileState | None, flags: int) -> None:
        self.attr = attr
        self.epoch = epoch
        self.state = state  # None: a file of a snapshot
        self.is_synchronous = bool(flags & (os.O_SYNC | os.O_DSYNC))


class Files:
    """The open files. Handles are small integers, never reused while the mount lives."""

    def __init__(self, engine: Engine, views: Views, namespace: Namespace, attributes: Attributes) -> None:
        self._engine = engine
        self._views = views
        self._namespace = namespace
        self._attributes = attributes
        self._gate = engine.gate
        self._limit = engine.files.limit
        self._sealer = engine.sealer
        self._handles: dict[int, _Handle] = {}
        self._next_handle = 1

    # -- opening and closing ----------

    async def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[int, Attr]:
        """Make a regular file and open it."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        attr = self._namespace.make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), caller)
        return self._add(attr, epoch=0, flags=flags), attr

    async def open(self, ino: int, flags: int) -> int:
        """Open a regular file. EROFS for writing to a snapshot, EISDIR, ESTALE."""
        if is_virtual(ino):
            epoch = self._views.epoch(ino)
            if flags & _WRITES or flags & os.O_TRUNC:
                raise PosixError(errno.EROFS)
            return self._add(self._openable(self._views.attr(ino)), epoch=epoch, flags=flags)
        attr = self._openable(self._engine.tree.find_attr(ino))
        if self._engine.options.read_only and (flags & _WRITES or flags & os.O_TRUNC):
            raise PosixError(errno.EROFS)
        fh = self._add(attr, epoch=0, flags=flags)
        if flags & os.O_TRUNC:
            try:
                await self._gate.wait_open()
                await self._attributes.truncate(ino, 0)
            except BaseException:
                self.release(fh)
                raise
        return fh

    def _openable(self, attr: Attr | None) -> Attr:
        if attr is None:
            raise PosixError(errno.ESTALE)  # unlinked or replaced since the look-up: makes the kernel look again
        if stat.S_ISDIR(attr.mode):
            raise PosixError(errno.EISDIR)
        if not stat.S_ISREG(attr.mode):
            raise PosixError(errno.EINVAL)
        return attr

    def _add(self, attr: Attr, *, epoch: int, flags: int) -> int:
        state = None
        if not epoch:
            state = self._engine.files.get(attr)
            state.open_count += 1
        fh = self._next_handle
        self._next_handle += 1
        self._handles[fh] = _Handle(attr, epoch=epoch, state=state, flags=flags)
        return fh

    def release(self, fh: int) -> None:
        """Close a handle. Never waits; what it leaves behind is sealed or deleted."""
        handle = self._handles.pop(fh)
        state = handle.state
        if state is None:
            return
        state.open_count -= 1
        if state.open_count:
            return
        state.merge_tail()
        if state.is_unlinked:
            self._delete(state)
        elif state.is_dirty:
            state.must_seal = True
            self._sealer.request(state)

    def _delete(self, state: FileState) -> None:
        """Delete a file whose last name went while it was open."""
        if self._gate.failure is not None:
            return  # it is in `orphan`: the next mount does this
        with self._engine.database.operation():
            attr = self._engine.tree.find_attr(state.inode)
            if attr is not None:
                self._namespace.destroy(attr)
                self._engine.tree.delete_orphan(state.inode)

    def delete_orphans(self) -> None:
        """Delete the files that were unlinked but open when the last mount ended."""
        for inode in self._engine.tree.orphans():
            with self._engine.database.operation():
                attr = self._engine.tree.find_attr(inode)
                if attr is not None:
                    self._namespace.destroy(attr)
                self._engine.tree.delete_orphan(inode)

    # -- writing ----------

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        """Accept data; durable later (see the durability ladder). ENOSPC, EFBIG; waits at the dirty limit."""
        handle = self._get(fh)
        state = handle.state
        if state is None:
            raise PosixError(errno.EROFS)
        if not data:
            return 0
        if offset + len(data) > FILE_MAX_BYTES:
            raise PosixError(errno.EFBIG)
        if self._limit.is_full:
            await self._wait_for_memory()
        if self._engine.local.is_full_of_dirty:
            await self._gate.wait_unless_failed(self._engine.local.wait_not_full)
        if self._gate.is_shut:
            await self._gate.wait_open()
        self._engine.disk.reserve(len(data))
        state.write(offset, data, now_ns=self._engine.clock_ns())
        dirty = state.dirty
        if dirty.bytes_held >= STREAM_BYTES:
            self._sealer.request(state)
        if len(dirty) >= RANDOM_RUNS:
            self._sealer.request_urgent([state])
        if handle.is_synchronous:
            await self.fsync(fh)
        return len(data)

    async def _wait_for_memory(self) -> None:
        while self._limit.is_full:  # each time round: what others wrote meanwhile has not been asked for
            self._engine.files.drop_tails()
            if not self._limit.is_full:
                return
            self._sealer.request_urgent(self._engine.files.dirty())
            await self._gate.wait_unless_failed(self._limit.wait_less)

    async def fsync(self, fh: int, datasync: bool = False) -> None:
        """Return when the file's data and metadata are on the local disk."""
        state = self._get(fh).state
        if state is not None:
            if state.is_dirty:
                state.must_seal = True
            await self._engine.committer.commit()

    # -- reading ----------

    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Return up to `size` bytes; fewer only at the end. EIO for a range whose block cannot be had."""
        handle = self._get(fh)
        state = handle.state
        size_bytes = handle.attr.size_bytes if state is None else state.size_bytes
        stop = min(offset + size, size_bytes)
        if offset >= stop:
            return b""
        unsealed: list[tuple[int, memoryview]] = []
        if state is not None and state.is_dirty:
            unsealed = list(state.overlay(offset, stop))
            if len(unsealed) == 1 and len(unsealed[0][1]) == stop - offset:
                return unsealed[0][1]
        if state is not None:
            pieces = self._engine.extents.pieces(state.body, start=offset, stop=stop)
        else:
            self._views.check(handle.epoch)
            pieces = self._engine.extents.pieces_at(handle.attr.body, handle.epoch, start=offset, stop=stop)
        if len(pieces) == 1 and not unsealed:
            data = await self._read_one(pieces[0], offset, stop)
            if data is not None:
                return data
        result = bytearray(stop - offset)
        for piece in pieces:
            await self._fill(result, piece, offset, stop)
        for start, view in unsealed:
            result[start - offset : start - offset + len(view)] = view
        return result

    async def _read_one(self, piece: Piece, start: int, stop: int) -> memoryview | None:
        """Return [start, stop) without copying, when one frame holds all of it."""
        if piece.file_offset > start or piece.file_offset + piece.length < stop:
            return None
        shift = piece.block_offset - piece.file_offset
        spans = self._engine.reader.spans(piece, start=start + shift, stop=stop + shift)
        if len(spans) != 1:
            return None
        frame, first, last = spans[0]
        reader = self._engine.reader
        data = reader.find_frame(piece.pack, frame)
        if data is None:
            data = await reader.get_frame(piece.pack, frame, block=piece.block)
        return memoryview(data)[first:last]

    async def _fill(self, result: bytearray, piece: Piece, start: int, stop: int) -> None:
        """Copy what a piece has of [start, stop) into `result`."""
        first = max(piece.file_offset, start)
        last = min(piece.file_offset + piece.length, stop)
        shift = piece.block_offset - piece.file_offset
        position = first - start
        for frame, frame_first, frame_last in self._engine.reader.spans(
            piece, start=first + shift, stop=last + shift
        ):
            data = await self._engine.reader.get_frame(piece.pack, frame, block=piece.block)
            length = frame_last - frame_first
            result[position : position + length] = memoryview(data)[frame_first:frame_last]
            position += length

    def _get(self, fh: int) -> _Handle:
        handle = self._handles.get(fh)
        if handle is None:
            raise PosixError(errno.EBADF)
        return handle
