"""pyfuse3's requests, converted to calls of the file system and back.

The one place where errors become errnos for the kernel. Must never: decide anything about files, or let an
exception other than FUSEError out (it would end the mount).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar, cast

import pyfuse3
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext, SetattrFields, StatvfsData

from cubefs.db.database import DatabaseLostError
from cubefs.errors import CubefsError, PosixError
from cubefs.fs.filesystem import FileSystem
from cubefs.model import INODE_MASK, NAME_MAX_BYTES, SNAPDIR_INODE, Attr, Caller, SetAttr

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_LONG_S = 86400.0  # one writer, and every change passes the kernel: what it caches stays true
_SHORT_S = 1.0  # for `snapshots`, which changes behind the kernel's back, and for read-only mounts
_PAGE = 32  # directory entries asked for at once: about what one reply holds
_IO_BYTES = 131072  # st_blksize: programs that ask read and write this much at once


def _answers(
    handler: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """Turn every error of a handler into the errno that the kernel gets."""

    @functools.wraps(handler)
    async def answer(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except PosixError as error:
            raise FUSEError(error.errno) from None
        except FUSEError:
            raise
        except Exception as error:
            self.failed(handler.__name__, error)

    return answer


class Operations(pyfuse3.Operations):
    """The request handlers of one mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, filesystem: FileSystem) -> None:
        super().__init__()
        self._fs = filesystem
        self._long_s = _SHORT_S if filesystem.engine.options.read_only else _LONG_S
        self.error_count = 0

    def failed(self, operation: str, error: Exception) -> NoReturn:
        """Log what is no answer of POSIX and raise the errno for it."""
        self.error_count += 1
        if isinstance(error, DatabaseLostError):
            self._fs.engine.gate.fail(error)
        if isinstance(error, CubefsError):
            log.warning("%s failed: %s", operation, error)
            raise FUSEError(error.errno) from None
        log.exception("%s failed unexpectedly", operation)
        raise FUSEError(errno.EIO) from None

    # -- conversion ----------

    def _entry(self, attr: Attr) -> EntryAttributes:
        entry = EntryAttributes()
        ino = attr.ino
        timeout = _SHORT_S if ino == SNAPDIR_INODE or ino & INODE_MASK == 1 else self._long_s
        entry.st_ino = ino
        entry.entry_timeout = timeout
        entry.attr_timeout = timeout
        entry.st_mode = attr.mode
        entry.st_nlink = attr.nlink
        entry.st_uid = attr.uid
        entry.st_gid = attr.gid
        entry.st_rdev = attr.rdev
        entry.st_size = attr.size_bytes
        entry.st_blksize = _IO_BYTES
        entry.st_blocks = (attr.allocated_bytes + 511) >> 9
        entry.st_atime_ns = attr.mtime_ns
        entry.st_mtime_ns = attr.mtime_ns
        entry.st_ctime_ns = attr.ctime_ns
        entry.st_birthtime_ns = attr.btime_ns
        return entry

    # -- names ----------

    @_answers
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        """Find a name; a missing one is remembered by the kernel too."""
        attr = self._fs.find_child(parent_inode, name)
        if attr is not None:
            return self._entry(attr)
        if parent_inode == SNAPDIR_INODE:
            raise FUSEError(errno.ENOENT)
        missing = EntryAttributes()  # number 0: the kernel remembers that there is none
        missing.st_ino = 0
        missing.entry_timeout = self._long_s
        return missing

    @_answers
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        """Answer stat(2)."""
        return self._entry(self._fs.getattr(inode))

    @_answers
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        """Answer chmod, chown, truncate and utimensat(2)."""
        change = SetAttr(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size_bytes=attr.st_size if fields.update_size else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(await self._fs.setattr(inode, change, _caller(ctx)))

    @_answers
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        """Answer readlink(2)."""
        return self._fs.readlink(inode)

    @_answers
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a file, fifo, socket or device node."""
        return self._entry(await self._fs.mknod(parent_inode, name, mode, rdev, _caller(ctx)))

    @_answers
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        """Make a directory, or take a snapshot in `snapshots`."""
        return self._entry(await self._fs.mkdir(parent_inode, name, mode, _caller(ctx)))

    @_answers
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        """Make a symlink."""
        return self._entry(await self._fs.symlink(parent_inode, name, target, _caller(ctx)))

    @_answers
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        """Make a hard link."""
        return self._entry(await self._fs.link(inode, new_parent_inode, new_name))

    @_answers
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove a name."""
        await self._fs.unlink(parent_inode, name)

    @_answers
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an empty directory."""
        await self._fs.rmdir(parent_inode, name)

    @_answers
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        """Answer renameat2(2)."""
        await self._fs.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nothing to do: inode numbers are never reused, and opens are counted instead of look-ups."""

    # -- directories ----------

    @_answers
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        """Directories need no state: the handle is the inode number."""
        return inode

    @_answers
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        """Fill one reply with entries and their attributes."""
        while True:
            page = self._fs.readdir(fh, start_id, _PAGE)
            for entry in page:
                if not pyfuse3.readdir_reply(token, entry.name, self._entry(entry.attr), entry.next_id):
                    return
                start_id = entry.next_id
            if len(page) < _PAGE:
                return

    @_answers
    async def releasedir(self, fh: int) -> None:
        """Nothing to do."""
        return

    @_answers
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Commit; names need no more than that."""
        await self._fs.engine.committer.commit()

    # -- files ----------

    @_answers
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        """Make and open a file."""
        fh, attr = await self._fs.create(parent_inode, name, mode, flags, _caller(ctx))
        return FileInfo(fh=fh), self._entry(attr)

    @_answers
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        """Open a file."""
        return FileInfo(fh=await self._fs.open(inode, flags))

    @_answers
    async def read(self, fh: int, off: int, size: int) -> bytes:
        """Answer pread(2)."""
        # pyfuse3 takes any buffer, though its types say bytes: spares a copy of every read
        return cast("bytes", await self._fs.read(fh, off, size))

    @_answers
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Accept data."""
        return await self._fs.write(fh, off, buf)

    async def flush(self, fh: int) -> None:
        """Not needed, and the kernel stops asking: it is sent on every close, and could report nothing."""
        raise FUSEError(errno.ENOSYS)

    @_answers
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Return when the file is on the local disk."""
        await self._fs.fsync(fh, datasync)

    @_answers
    async def release(self, fh: int) -> None:
        """Close a handle."""
        self._fs.release(fh)

    # -- extended attributes ----------

    @_answers
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        """Return one extended attribute."""
        return self._fs.getxattr(inode, name)

    @_answers
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        """Return the names of all extended attributes."""
        return self._fs.listxattr(inode)

    @_answers
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """Set an extended attribute."""
        await self._fs.setxattr(inode, name, value)

    @_answers
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        """Remove an extended attribute."""
        await self._fs.removexattr(inode, name)

    # -- the whole ----------

    @_answers
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        """Answer statvfs(3)."""
        numbers = self._fs.statfs()
        data = StatvfsData()
        data.f_bsize = data.f_frsize = numbers.block_bytes
        data.f_blocks = numbers.blocks
        data.f_bfree = data.f_bavail = numbers.blocks_free
        data.f_files = numbers.files
        data.f_ffree = data.f_favail = numbers.files_free
        data.f_namemax = NAME_MAX_BYTES
        return data

    @_answers
    async def access(self, inode: int, mode: int, ctx: RequestContext) -> bool:
        """Answer access(2); only asked without default_permissions."""
        return not (mode & os.W_OK and inode > INODE_MASK)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.umask)
