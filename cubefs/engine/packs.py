"""The local pack files: appending to the open pack, reading, and the directory that holds them.

They are dirty until proven stored, then a read cache; one format everywhere. Everything here is synchronous and
runs in workers; `PackWriter` by one worker at a time, but for `sync`.
Must never: continue a pack that was found open (its nonce counter would repeat under the same key), or know the
database.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cubefs.errors import LocalDiskError, LocalDiskFullError
from cubefs.format.keys import ObjectHasher
from cubefs.format.pack import PackCipher, PackedFrame
from cubefs.model import PACK_TARGET_BYTES, BlockPlace, FrameInfo

SALT_BYTES = 32
_PACK_FILE = re.compile(r"[0-9a-f]{64}\.pack")
_INDEX_BYTES_PER_BLOCK = 44


class Unit(NamedTuple):
    """Frames that must stand side by side in one pack, and the blocks in them.

    Either one frame with several small blocks or the consecutive frames of one large block. `frame` in a block
    counts from the unit's first frame.
    """

    frames: tuple[PackedFrame, ...]
    blocks: tuple[BlockPlace, ...]


class ClosedPack(NamedTuple):
    """A complete pack."""

    name: bytes
    size_bytes: int


class Appended(NamedTuple):
    """What one `append` did to one pack; in the order of the packs."""

    salt: bytes
    opened: bool  # this call made the pack
    frames: tuple[tuple[int, FrameInfo], ...]
    blocks: tuple[BlockPlace, ...]  # `frame` counts from the pack's first frame
    closed: ClosedPack | None


class PackFiles:
    """The directory of local pack files, named by salt (a pack has no name before it is complete)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, salt: bytes) -> Path:
        """Return where the pack with this salt is or would be."""
        return self.directory / f"{salt.hex()}.pack"

    def read(self, salt: bytes, *, start: int, length: int) -> bytes | None:
        """Return bytes of a local pack (fewer at its end), or None when there is no such file.

        Raises LocalDiskError when the disk fails.
        """
        try:
            descriptor = os.open(self.path(salt), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _translate(error) from error
        try:
            return os.pread(descriptor, length, start)
        except OSError as error:
            raise _translate(error) from error
        finally:
            os.close(descriptor)

    def read_all(self, salt: bytes) -> bytes:
        """Return a whole local pack. Raises LocalDiskError."""
        try:
            return self.path(salt).read_bytes()
        except OSError as error:
            raise _translate(error) from error

    def write_fetched(self, salt: bytes, data: bytes) -> None:
        """Keep a pack that was fetched from the store and verified. Not synced: it can be fetched again."""
        path = self.path(salt)
        temporary = path.with_suffix(f".{os.urandom(4).hex()}.tmp")
        try:
            temporary.write_bytes(data)
            temporary.rename(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _translate(error) from error

    def delete(self, salt: bytes) -> None:
        """Remove a local pack; one that is not there is fine."""
        self.path(salt).unlink(missing_ok=True)

    def salts(self) -> set[bytes]:
        """Return the salts of all local packs; removes what an interrupted fetch has left, passes over the rest."""
        found = set()
        for path in self.directory.iterdir():
            if _PACK_FILE.fullmatch(path.name):
                found.add(bytes.fromhex(path.stem))
            elif path.suffix == ".tmp":
                path.unlink(missing_ok=True)
        return found

    def sync_directory(self) -> None:
        """Make the entries of new packs durable. Raises OSError."""
        sync_directory(self.directory)


class _OpenPack:
    """A pack being written."""

    def __init__(self, path: Path, cipher: PackCipher, salt: bytes, wait_for_space: Callable[[], bool]) -> None:
        self.path = path
        self._wait_for_space = wait_for_space
        self.cipher = cipher
        self.salt = salt
        self.frames: list[FrameInfo] = []
        self.blocks: list[BlockPlace] = []
        self.size_bytes = 0
        self.synced_bytes = 0
        self._hasher = ObjectHasher()
        self._in_use = threading.Lock()  # of the descriptor: a commit syncs while a job appends and may close it
        self._is_closed = False
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.write(cipher.header)

    def write(self, data: bytes) -> None:
        """Append `data`, waiting for space where the disk is full.

        These very bytes must be written in the end: sealing others under the same frame number would repeat a
        nonce.
        """
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.descriptor, data[done:] if done else data, self.size_bytes + done)
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                if not (full and self._wait_for_space()):
                    raise _translate(error) from error
        self._hasher.update(data)
        self.size_bytes += len(data)

    def sync(self) -> None:
        """Make all that was appended durable. An error is final: the kernel marks the pages clean."""
        with self._in_use:
            size_bytes = self.size_bytes
            if self.synced_bytes < size_bytes and not self._is_closed:
                os.fdatasync(self.descriptor)
                self.synced_bytes = size_bytes

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        with self._in_use:
            if not self._is_closed:
                self._is_closed = True
                os.close(self.descriptor)

    def finish(self) -> ClosedPack:
        """Write index and footer and make the pack durable."""
        index_offset = self.size_bytes
        index = self.cipher.seal_index(self.frames, self.blocks)
        footer = self.cipher.seal_footer(
            index_offset=index_offset, index_stored_bytes=len(index), frame_count=len(self.frames)
        )
        self.write(index + footer)
        self.sync()
        self.close()
        return ClosedPack(self._hasher.digest(), self.size_bytes)


class PackWriter:
    """Appends sealed frames to the open pack. Call from one worker at a time; `sync` also beside it."""

    def __init__(
        self,
        files: PackFiles,
        *,
        pack_key: bytes,
        uuid: bytes,
        wait_for_space: Callable[[], bool],
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`wait_for_space` is called in the worker when the disk is full; False gives up."""
        self._files = files
        self._wait_for_space = wait_for_space
        self._pack_key = pack_key
        self._uuid = uuid
        self._random = random
        self._open: _OpenPack | None = None
        self._directory_changed = False

    @property
    def open_salt(self) -> bytes | None:
        """The salt of the pack being written."""
        return self._open.salt if self._open else None

    def append(self, units: Sequence[Unit]) -> list[Appended]:
        """Seal units into the open pack, closing it and opening the next as they fill up.

        Not durable on return (`sync`). Raises LocalDiskFullError or LocalDiskError; then the open pack is
        abandoned as it is, and what this call had appended must not be referred to.
        """
        done: list[Appended] = []
        try:
            for unit in units:
                if self._is_full_for(unit) and done and done[-1].salt == self.open_salt:
                    done[-1] = done[-1]._replace(closed=self._finish())
                elif self._is_full_for(unit):
                    salt = self.open_salt
                    assert salt is not None
                    done.append(Appended(salt, False, (), (), self._finish()))
                opened = self._ensure_open()
                frames, blocks = self._append_unit(unit)
                salt = self.open_salt
                assert salt is not None
                if done and done[-1].salt == salt:
                    last = done[-1]
                    done[-1] = last._replace(frames=last.frames + frames, blocks=last.blocks + blocks)
                else:
                    done.append(Appended(salt, opened, frames, blocks, None))
        except LocalDiskError:
            self.abandon()
            raise
        return done

    def close_pack(self) -> tuple[bytes, ClosedPack] | None:
        """Complete the open pack; return its salt and what it became, or None when none is open. Durable."""
        if self._open is None:
            return None
        salt = self._open.salt
        closed = self._finish()
        self.sync()
        return salt, closed

    def sync(self) -> None:
        """Make everything appended so far durable. Raises LocalDiskError: final, never try again."""
        pack = self._open
        try:
            if pack is not None:
                pack.sync()
            if self._directory_changed:
                self._directory_changed = False
                self._files.sync_directory()
        except OSError as error:
            raise LocalDiskError(f"cannot sync a pack in {self._files.directory}: {error.strerror}") from error

    def abandon(self) -> None:
        """Let go of the open pack without completing it; the next mount reseals what is referred to."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _is_full_for(self, unit: Unit) -> bool:
        if self._open is None or not self._open.frames:
            return False
        payload = sum(len(frame.payload) + 17 for frame in unit.frames)
        index = (len(self._open.blocks) + len(unit.blocks)) * _INDEX_BYTES_PER_BLOCK
        return self._open.size_bytes + payload + index > PACK_TARGET_BYTES

    def _ensure_open(self) -> bool:
        if self._open is not None:
            return False
        salt = self._random(SALT_BYTES)
        cipher = PackCipher(self._pack_key, salt=salt, uuid=self._uuid)
        try:
            self._open = _OpenPack(self._files.path(salt), cipher, salt, self._wait_for_space)
        except OSError as error:
            raise _translate(error) from error
        self._directory_changed = True
        return True

    def _append_unit(self, unit: Unit) -> tuple[tuple[tuple[int, FrameInfo], ...], tuple[BlockPlace, ...]]:
        pack = self._open
        assert pack is not None
        first = len(pack.frames)
        infos = []
        for number, frame in enumerate(unit.frames, first):
            stored = pack.cipher.seal_frame(number, frame)
            info = FrameInfo(pack.size_bytes, len(stored), frame.plain_bytes)
            pack.write(stored)
            pack.frames.append(info)
            infos.append((number, info))
        blocks = tuple(block._replace(frame=first + block.frame) for block in unit.blocks)
        pack.blocks.extend(blocks)
        return tuple(infos), blocks

    def _finish(self) -> ClosedPack:
        assert self._open is not None
        pack, self._open = self._open, None
        try:
            return pack.finish()
        except OSError as error:
            raise LocalDiskError(f"cannot complete pack {pack.path}: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make the entries of a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _translate(error: OSError) -> LocalDiskError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LocalDiskFullError("the disk of the cache directory is full: free some space there")
    return LocalDiskError(f"the disk of the cache directory failed: {error.strerror}")
