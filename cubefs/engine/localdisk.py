"""Room on the disk of the cache directory: who may still write, and what happens when it runs out.

Must never: let a write be accepted that could not be kept. The ballast is a file given up when the disk is full
all the same (somebody else filled it), so that what was accepted can still be committed.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import trio

from cubefs.engine.dirty import DirtyLimit
from cubefs.engine.localpacks import LocalPacks
from cubefs.errors import LocalDiskFullError
from cubefs.model import MIB

log = logging.getLogger(__name__)

BALLAST_BYTES = 32 * MIB
_MARGIN_BYTES = 48 * MIB  # for the WAL, the database, a pack's index
_TRUST_BYTES = 4 * MIB  # accepted after one look at the disk before the next look
_LOOK_S = 1.0
_WAIT_S = 0.5


class LocalDisk:
    """The free space of one directory's disk."""

    def __init__(self, directory: Path, dirty: DirtyLimit, local: LocalPacks) -> None:
        self._directory = directory
        self._ballast = directory / "ballast"
        self._dirty = dirty
        self._local = local
        self._unchecked_bytes = _TRUST_BYTES
        self._stopping = threading.Event()
        self._worker_waits = threading.Event()
        self.is_full = False

    def free_bytes(self) -> int:
        """Free space for us, without the ballast."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    def _look(self) -> None:
        free = self.free_bytes()
        evictable = self._local.total_bytes - self._local.dirty_bytes
        short = free + evictable < self._dirty.used_bytes + _MARGIN_BYTES
        if short != self.is_full:
            log.warning("the disk of the cache directory %s", "is full: writes get ENOSPC" if short else "has room")
        self.is_full = short
        self._unchecked_bytes = 0

    def reserve(self, length: int) -> None:
        """Make sure that `length` more bytes can be kept. Raises LocalDiskFullError. Never yields."""
        self._unchecked_bytes += length
        if self._unchecked_bytes >= _TRUST_BYTES or self.is_full:
            self._look()
        if self.is_full:
            raise LocalDiskFullError("the disk of the cache directory is full: free some space there")

    def check_metadata(self) -> None:
        """Make sure that there is room for a change of metadata. Raises LocalDiskFullError."""
        if self.is_full:
            self.reserve(0)

    def wait_in_worker(self) -> bool:
        """A pack could not grow: give up the ballast, wait a little; False when we are being stopped."""
        if not self._worker_waits.is_set():
            log.error("the disk of the cache directory is full: waiting for space in %s", self._directory)
        self._worker_waits.set()
        self._ballast.unlink(missing_ok=True)
        return not self._stopping.wait(_WAIT_S)

    def stop(self) -> None:
        """Let no worker wait any longer."""
        self._stopping.set()

    async def run(self) -> None:
        """Look at the disk now and then: make room by eviction, keep the ballast, until cancelled."""
        while True:
            self._look()
            free = self.free_bytes()
            if free < _MARGIN_BYTES * 2 or self._worker_waits.is_set():
                wanted = max(_MARGIN_BYTES * 4 - free, 16 * MIB)
                freed = await self._local.evict(target_bytes=max(0, self._local.total_bytes - wanted))
                if freed:
                    log.info("evicted %d bytes of stored packs: the disk is nearly full", freed)
                self._worker_waits.clear()
            elif self._local.total_bytes > self._local.limit_bytes:
                await self._local.evict()  # what an upload could not evict before its commit
            elif not self._ballast.exists() and free > _MARGIN_BYTES * 2 + BALLAST_BYTES:
                await trio.to_thread.run_sync(self._make_ballast)
            await trio.sleep(_LOOK_S)

    def _make_ballast(self) -> None:
        try:
            descriptor = os.open(self._ballast, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            self._ballast.unlink(missing_ok=True)
