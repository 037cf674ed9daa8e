"""Attributes, truncation and extended attributes of live files and of snapshots.

Must never: leave a size in the database that promises bytes which a crash would turn into zeros (`must_seal`).
"""

from __future__ import annotations

import errno
import stat
from collections import defaultdict

import trio

from cubefs.db.extents import RefDeltas
from cubefs.engine.engine import Engine
from cubefs.errors import PosixError
from cubefs.fs.namespace import Namespace
from cubefs.fs.views import Views, is_virtual
from cubefs.model import FILE_MAX_BYTES, INODE_MASK, ROOT_INODE, SNAPDIR_INODE, Attr, Caller, SetAttr

XATTR_CREATE = 1  # setxattr(2)
XATTR_REPLACE = 2
XATTR_NAME_MAX_BYTES = 255
XATTR_VALUE_MAX_BYTES = 65536
TIME_MIN_NS = -(2**63)  # the years 1677 to 2262 fit into what is stored
TIME_MAX_NS = 2**63 - 1
_CLIP_ROWS = 2000
_CAPABILITY = b"security.capability"
_SYSTEM = b"system."  # ACLs, which are more than bytes: they would have to change the mode and be inherited


class Attributes:
    """setattr and the xattr calls. Numbers are FUSE inode numbers."""

    def __init__(self, engine: Engine, views: Views, namespace: Namespace) -> None:
        self._engine = engine
        self._views = views
        self._namespace = namespace
        self._db = engine.database
        self._tree = engine.tree
        self._xattrs = engine.xattrs
        self._files = engine.files
        self._gate = engine.gate
        self.virtual_xattrs: dict[bytes, bytes] = {}  # of the root: answered, never listed
        # the kernel asks for this one before every write: answer from memory that nobody has it
        self._has_capabilities = self._xattrs.is_used(_CAPABILITY)

    # -- setattr ----------

    async def setattr(self, ino: int, change: SetAttr, caller: Caller) -> Attr:
        """Change attributes; None leaves one as it is. EROFS in snapshots, EISDIR/EINVAL/EFBIG for sizes."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        self._check_changeable(ino)
        if change.size_bytes is not None:  # also on a full disk: this is how to make room
            await self.truncate(ino, change.size_bytes)
        else:
            self._engine.disk.check_metadata()
        now_ns = self._engine.clock_ns()
        with self._db.operation():
            attr = self._get(ino)
            state = self._files.find(ino)
            mode = attr.mode if change.mode is None else stat.S_IFMT(attr.mode) | stat.S_IMODE(change.mode)
            changed = attr._replace(
                mode=mode,
                uid=attr.uid if change.uid is None else change.uid,
                gid=attr.gid if change.gid is None else change.gid,
                # a time outside becomes the nearest inside, as Linux does for its own file systems
                mtime_ns=attr.mtime_ns
                if change.mtime_ns is None
                else max(TIME_MIN_NS, min(change.mtime_ns, TIME_MAX_NS)),
                ctime_ns=now_ns if change.ctime_ns is None else change.ctime_ns,
            )
            self._tree.update_inode(changed)
            if state is not None and state.is_dirty:
                state.must_seal = True
                state.ctime_ns = None
                if change.mtime_ns is not None:
                    state.mtime_ns = None
                return state.seen(changed)
        return changed

    async def truncate(self, ino: int, size_bytes: int) -> None:
        """Set a file's size. Shrinking a file of many extents takes bounded steps from its end."""
        if not 0 <= size_bytes <= FILE_MAX_BYTES:
            raise PosixError(errno.EFBIG if size_bytes > 0 else errno.EINVAL)
        attr = self._get(ino)
        if stat.S_ISDIR(attr.mode):
            raise PosixError(errno.EISDIR)
        if not stat.S_ISREG(attr.mode):
            raise PosixError(errno.EINVAL)
        state = self._files.find(ino)
        if state is not None:
            state.truncate(size_bytes)
            state.must_seal = state.is_dirty
        while self._truncate_step(ino, size_bytes):
            await trio.lowlevel.checkpoint()  # let others work between the steps
            await self._gate.wait_open()

    def _truncate_step(self, ino: int, size_bytes: int) -> bool:
        """Do one bounded step; return whether more are needed."""
        now_ns = self._engine.clock_ns()
        with self._db.operation():
            attr = self._get(ino)
            state = self._files.find(ino)
            reached = size_bytes
            body, allocated = attr.body, attr.allocated_bytes
            more = False
            if size_bytes == 0 and allocated:
                self._engine.extents.detach(body)
                self._engine.housekeeper.wake()
                body, allocated = self._db.new_id("body"), 0
            elif size_bytes < attr.size_bytes and allocated:
                deltas: RefDeltas = defaultdict(int)
                freed, so_far = self._engine.extents.clip_step(
                    body, start=size_bytes, limit=_CLIP_ROWS, deltas=deltas
                )
                self._engine.blocks.change_refs(deltas)
                allocated -= freed
                if so_far is not None:
                    reached, more = so_far, True
            self._tree.update_inode(
                attr._replace(
                    body=body, size_bytes=reached, allocated_bytes=allocated, mtime_ns=now_ns, ctime_ns=now_ns
                )
            )
            if state is not None:
                state.body = body
                state.mtime_ns = state.ctime_ns = None
        return more

    # -- extended attributes ----------

    def getxattr(self, ino: int, name: bytes) -> bytes:
        """Return one attribute's value. ENODATA, ESTALE."""
        if is_virtual(ino):
            value = None
            if ino != SNAPDIR_INODE:
                value = self._xattrs.all_at(ino & INODE_MASK, self._views.epoch(ino)).get(name)
        elif name == _CAPABILITY and not self._has_capabilities:
            value = None
        else:
            value = self._xattrs.find(ino, name)
            if value is None and ino == ROOT_INODE:
                value = self.virtual_xattrs.get(name)
            if value is None:
                self._get(ino)
        if value is None:
            raise PosixError(errno.ENODATA)
        return value

    def listxattr(self, ino: int) -> list[bytes]:
        """Return the names of all attributes, sorted."""
        if ino == SNAPDIR_INODE:
            return []
        if is_virtual(ino):
            return list(self._xattrs.all_at(ino & INODE_MASK, self._views.epoch(ino)))
        names = self._xattrs.names(ino)
        if not names:
            self._get(ino)
        return names

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an attribute; flags as in setxattr(2). EEXIST, ENODATA, ERANGE, E2BIG, EOPNOTSUPP for ACLs."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        self._check_changeable(ino)
        if name.startswith(_SYSTEM):
            # cp -a gives a new file its mode by setting an ACL, and uses chmod only where that is refused
            raise PosixError(errno.EOPNOTSUPP)
        if not 0 < len(name) <= XATTR_NAME_MAX_BYTES:
            raise PosixError(errno.ERANGE)
        if len(value) > XATTR_VALUE_MAX_BYTES:
            raise PosixError(errno.E2BIG)
        self._engine.disk.check_metadata()
        with self._db.operation():
            attr = self._get(ino)
            if flags:
                exists = self._xattrs.find(ino, name) is not None
                if flags & XATTR_CREATE and exists:
                    raise PosixError(errno.EEXIST)
                if flags & XATTR_REPLACE and not exists:
                    raise PosixError(errno.ENODATA)
            self._xattrs.set(ino, name, value)
            self._change_time(attr)
        if name == _CAPABILITY:
            self._has_capabilities = True

    async def removexattr(self, ino: int, name: bytes) -> None:
        """Remove an attribute. ENODATA."""
        if self._gate.is_shut:
            await self._gate.wait_open()
        self._check_changeable(ino)
        with self._db.operation():
            attr = self._get(ino)
            if self._xattrs.find(ino, name) is None:
                raise PosixError(errno.ENODATA)
            self._xattrs.delete(ino, name)
            self._change_time(attr)

    def _change_time(self, attr: Attr) -> None:
        now_ns = self._engine.clock_ns()
        self._tree.change_nlink(attr.ino, delta=0, now_ns=now_ns)
        state = self._files.find(attr.ino)
        if state is not None and state.is_dirty:
            state.must_seal = True
            state.ctime_ns = None

    def _get(self, ino: int) -> Attr:
        attr = self._tree.find_attr(ino)
        if attr is None:
            raise PosixError(errno.ESTALE)
        return attr

    def _check_changeable(self, ino: int) -> None:
        if self._views.epoch(ino) or self._engine.options.read_only:
            raise PosixError(errno.EROFS)
        if ino == SNAPDIR_INODE:
            raise PosixError(errno.EPERM)
