"""The file system as the FUSE layer, the commands and the tests see it.

Must never: hold logic that belongs to one of its parts.
"""

from __future__ import annotations

import errno
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cubefs.engine.engine import Engine, EngineOptions, open_engine
from cubefs.errors import PosixError
from cubefs.format.keys import Keyring
from cubefs.format.superblock import Superblock
from cubefs.fs.attributes import Attributes
from cubefs.fs.files import Files
from cubefs.fs.namespace import Namespace
from cubefs.fs.reports import Reports
from cubefs.fs.views import Views
from cubefs.model import NAME_MAX_BYTES, SNAPDIR_INODE, Attr, Caller, Snapshot
from cubefs.store.base import Store
from cubefs.store.meter import Meter


@dataclass(frozen=True)
class FsOptions(EngineOptions):
    """What a mount may choose."""

    snapdir_hidden: bool = False  # `snapshots` can be entered, but is not listed in the root


class FileSystem:
    """An open file system: its parts' methods under one roof, and what needs several parts."""

    def __init__(self, engine: Engine, *, snapdir_hidden: bool) -> None:
        self.engine = engine
        self._views = Views(engine.tree, engine.snapshots, hidden=snapdir_hidden)
        self._namespace = Namespace(engine, self._views)
        self._attributes = Attributes(engine, self._views, self._namespace)
        self._files = Files(engine, self._views, self._namespace, self._attributes)
        self._reports = Reports(engine, self._views)
        # The kernel may hold stores through mmap: the mount sets this to have them written first.
        self.before_snapshot: Callable[[], Awaitable[None]] | None = None

        self.lookup = self._namespace.lookup
        self.find_child = self._namespace.find_child
        self.getattr = self._namespace.getattr
        self.readlink = self._namespace.readlink
        self.readdir = self._namespace.readdir
        self.mknod = self._namespace.mknod
        self.symlink = self._namespace.symlink
        self.link = self._namespace.link
        self.unlink = self._namespace.unlink
        self.rmdir = self._namespace.rmdir
        self.rename = self._namespace.rename
        self.setattr = self._attributes.setattr
        self.getxattr = self._attributes.getxattr
        self.listxattr = self._attributes.listxattr
        self.setxattr = self._attributes.setxattr
        self.removexattr = self._attributes.removexattr
        self.create = self._files.create
        self.open = self._files.open
        self.read = self._files.read
        self.write = self._files.write
        self.fsync = self._files.fsync
        self.release = self._files.release
        self.commit = engine.commit
        self.sync = engine.sync
        self.statfs = self._reports.statfs
        self.status = self._reports.status
        self.counters = self._reports.counters
        self.snapshot_list = self._views.all

    @property
    def virtual_xattrs(self) -> dict[bytes, bytes]:
        """Extended attributes of the root that are answered but not stored or listed."""
        return self._attributes.virtual_xattrs

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attr:
        """Make a directory; in `snapshots`, take a snapshot of that name (committed locally on return)."""
        if parent != SNAPDIR_INODE:
            return await self._namespace.mkdir(parent, name, mode, caller)
        snapshot = await self.snapshot_create(name)
        return self._namespace.lookup(SNAPDIR_INODE, snapshot.name)

    async def snapshot_create(self, name: bytes | None = None) -> Snapshot:
        """Take a snapshot; durable on the local disk on return. Default name: the UTC time.

        EEXIST for a taken name, EINVAL and ENAMETOOLONG for an impossible one.
        """
        if self.engine.options.read_only:
            raise PosixError(errno.EROFS)
        if name is not None:
            if len(name) > NAME_MAX_BYTES:
                raise PosixError(errno.ENAMETOOLONG)
            if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
                raise PosixError(errno.EINVAL)
            if self._views.find(name) is not None:
                raise PosixError(errno.EEXIST)
        if self.before_snapshot is not None:
            await self.before_snapshot()
        taken: list[Snapshot] = []

        def take() -> None:
            now_ns = self.engine.clock_ns()
            chosen = self._free_name(now_ns) if name is None else name
            if self.engine.snapshots.find(chosen) is not None:
                raise PosixError(errno.EEXIST)
            taken.append(self.engine.snapshots.create(chosen, now_ns=now_ns))
            self._views.refresh()

        await self.engine.committer.commit(everything=True, action=take)
        return taken[0]

    def _free_name(self, now_ns: int) -> bytes:
        base = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(now_ns // 10**9))
        name, count = base, 1
        while self._views.find(name.encode()) is not None:
            count += 1
            name = f"{base}-{count}"
        return name.encode()

    async def snapshot_remove(self, name: bytes) -> None:
        """Delete a snapshot: gone for everybody on return, durable on the local disk; its space is found later.

        ENOENT.
        """
        await self.engine.gate.wait_open()
        with self.engine.database.operation():
            snapshot = self._views.find(name)
            if snapshot is None:
                raise PosixError(errno.ENOENT)
            self.engine.snapshots.start_deleting(snapshot.number)
            self._views.refresh()
        self.engine.housekeeper.wake()
        await self.engine.committer.commit()

    def start(self) -> None:
        """Finish what the last mount left, before the first operation."""
        if not self.engine.options.read_only:
            self._files.delete_orphans()


@asynccontextmanager
async def open_filesystem(
    options: FsOptions,
    *,
    store: Store,
    superblock: Superblock,
    keyring: Keyring,
    cache_dir: Path,
    clock_ns: Callable[[], int] = time.time_ns,
    meter: Meter | None = None,
) -> AsyncIterator[FileSystem]:
    """Open a file system. On a clean exit everything accepted is in the store; see `open_engine`.

    meter: counts what happens with the store; the one of the store's throttle, so that there is one list.
    """
    async with open_engine(
        options,
        store=store,
        superblock=superblock,
        keyring=keyring,
        cache_dir=cache_dir,
        clock_ns=clock_ns,
        meter=meter,
    ) as engine:
        filesystem = FileSystem(engine, snapdir_hidden=options.snapdir_hidden)
        filesystem.start()
        yield filesystem
