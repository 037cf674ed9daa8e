"""A disk that forgets: copies of a cache directory as a power cut at this moment would leave it.

What was not synced is gone: bytes behind the last fdatasync of a pack or of the WAL, and files whose directory
was not synced since they were made. The database file itself is changed by SQLite's checkpoints only, which sync.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.driver import Place
from tests.support.engines import copy_store


class PowerCut:
    """Watches the syncs of this process, from its making on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lock = threading.Lock()
        self._synced_bytes: dict[int, int] = {}  # by inode number of the host's file system
        self._entries: set[tuple[int, str]] = set()  # (inode number of the directory, name)
        self.sync_count = 0
        monkeypatch.setattr(os, "fdatasync", self._watched(os.fdatasync))
        monkeypatch.setattr(os, "fsync", self._watched(os.fsync))

    def _watched(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(descriptor: int) -> None:
            status = os.fstat(descriptor)  # before: what is written meanwhile may be missing
            names = os.listdir(descriptor) if stat.S_ISDIR(status.st_mode) else []
            real(descriptor)
            with self._lock:
                self.sync_count += 1
                self._synced_bytes[status.st_ino] = status.st_size
                self._entries.update((status.st_ino, name) for name in names)

        return sync

    def copy(self, place: Place, target: Path) -> Place:
        """Copy the store as it is and what of the cache survives. Call it in the loop."""
        copied = replace(place, store_dir=target / "store", cache_dir=target / "cache")
        copy_store(place.store_dir, copied.store_dir)
        self._copy_directory(place.cache_dir, copied.cache_dir)
        return copied

    def _copy_directory(self, source: Path, target: Path) -> None:
        target.mkdir()
        parent = source.stat().st_ino
        for path in sorted(source.iterdir()):  # the database before its WAL
            if (parent, path.name) not in self._entries:
                continue
            if path.is_dir():
                self._copy_directory(path, target / path.name)
            elif path.name.endswith("-shm"):
                continue
            else:
                with contextlib.suppress(FileNotFoundError):  # evicted by a worker meanwhile
                    shutil.copyfile(path, target / path.name)
                    if not path.name.endswith(".sqlite"):
                        self._cut(path, target / path.name)

    def _cut(self, path: Path, copy: Path) -> None:
        with self._lock:
            synced_bytes = self._synced_bytes.get(path.stat().st_ino, 0)
        if copy.stat().st_size > synced_bytes:
            os.truncate(copy, synced_bytes)
