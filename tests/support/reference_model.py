"""What cubefs must do, as plain Python values: a POSIX tree, open files, and snapshots that are copies.

Imports nothing from cubefs, so that the two cannot be wrong in the same way. Inodes have the model's own
ids. A time that the file system reads from the clock is a `Window` until the caller has learnt it. A call
that must fail raises `Refused` with every errno that is an acceptable answer: one where POSIX or the design
decide, several where more than one rule is broken at once or the choice is open.
"""

from __future__ import annotations

import errno
import stat
from collections import Counter
from dataclasses import dataclass, field
from dataclasses import replace as dataclass_replace
from typing import NamedTuple

from tests.support.sparse_bytes import SparseBytes

ROOT = 1
SNAPSHOT_DIRECTORY = b"snapshots"
NAME_MAX_BYTES = 255

# the virtual entry `snapshots` can be neither made nor removed nor renamed; which errno says so is open
RESERVED = frozenset({errno.EPERM, errno.EBUSY, errno.EROFS, errno.EACCES})
# nothing but mkdir is possible in the virtual directory; which errno says so is open
NOT_IN_SNAPSHOT_DIRECTORY = frozenset({errno.EPERM, errno.EROFS, errno.EACCES})
GONE = frozenset({errno.ENOENT, errno.ESTALE})


class Refused(Exception):
    """The call must fail with one of these numbers."""

    def __init__(self, *accepted: int | frozenset[int]) -> None:
        numbers: set[int] = set()
        for item in accepted:
            numbers |= {item} if isinstance(item, int) else item
        self.accepted = frozenset(numbers)
        super().__init__(" or ".join(sorted(errno.errorcode[number] for number in numbers)))


class Window(NamedTuple):
    """A clock reading that lies between these two, both included."""

    start_ns: int
    stop_ns: int


Time = int | Window


class Who(NamedTuple):
    """The process that makes the call."""

    uid: int
    gid: int


@dataclass
class Node:
    """An inode."""

    mode: int
    uid: int
    gid: int
    nlink: int
    rdev: int
    mtime_ns: Time
    ctime_ns: Time
    btime_ns: Time
    parent: int = 0  # of a directory
    target: bytes = b""
    data: SparseBytes = field(default_factory=SparseBytes)
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def is_directory(self) -> bool:
        """Whether it can hold entries."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it can hold data."""
        return stat.S_ISREG(self.mode)

    @property
    def size_bytes(self) -> int:
        """What stat(2) shows as the size."""
        return len(self.target) if stat.S_ISLNK(self.mode) else self.data.size_bytes

    def copy(self) -> Node:
        """Return an independent copy."""
        return dataclass_replace(self, data=self.data.copy(), entries=dict(self.entries), xattrs=dict(self.xattrs))


class Tree:
    """All inodes of one moment."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}

    def reachable_copy(self) -> Tree:
        """Return a copy of what can be reached by a name."""
        twin = Tree()
        for _, number in [(b"", ROOT), *self.walk()]:
            if number not in twin.nodes:
                twin.nodes[number] = self.nodes[number].copy()
        return twin

    def walk(self, directory: int = ROOT) -> list[tuple[bytes, int]]:
        """Return every (path, id) below `directory`, sorted by name in each directory."""
        found = []
        for name, number in sorted(self.nodes[directory].entries.items()):
            found.append((name, number))
            if self.nodes[number].is_directory:
                found += [(name + b"/" + path, child) for path, child in self.walk(number)]
        return found


class Model:
    """The live tree, who has what open, and the snapshots."""

    def __init__(self, root: Node) -> None:
        self.live = Tree()
        self.live.nodes[ROOT] = root
        self.snapshots: dict[bytes, Tree] = {}
        self.opens: Counter[int] = Counter()
        self.touched: set[int] = set()
        self._last_id = 100

    # -- looking -------------------------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        """Return a live inode; Refused when it is gone."""
        found = self.live.nodes.get(number)
        if found is None:
            raise Refused(GONE)
        return found

    def directory(self, number: int) -> Node:
        """Return a live directory; Refused(ENOTDIR) for anything else."""
        found = self.node(number)
        if not found.is_directory:
            raise Refused(errno.ENOTDIR)
        return found

    def lookup(self, parent: int, name: bytes) -> int:
        """Return the id behind a name."""
        directory = self.directory(parent)
        if len(name) > NAME_MAX_BYTES:
            raise Refused(errno.ENAMETOOLONG, errno.ENOENT)
        if name not in directory.entries:
            raise Refused(errno.ENOENT)
        return directory.entries[name]

    def readlink(self, number: int) -> bytes:
        """Return a symlink's target."""
        node = self.node(number)
        if not stat.S_ISLNK(node.mode):
            raise Refused(errno.EINVAL)
        return node.target

    # -- names ---------------------------------------------------------------------------------------------

    def _check_free(self, parent: int, name: bytes) -> Node:
        directory = self.directory(parent)
        if len(name) > NAME_MAX_BYTES:
            raise Refused(errno.ENAMETOOLONG)
        if parent == ROOT and name == SNAPSHOT_DIRECTORY:
            raise Refused(errno.EEXIST, RESERVED)
        if name in directory.entries:
            raise Refused(errno.EEXIST)
        return directory

    def _touch_directory(self, number: int, now: Time) -> None:
        directory = self.live.nodes[number]
        directory.mtime_ns = directory.ctime_ns = now
        self.touched.add(number)

    def make(
        self, parent: int, name: bytes, mode: int, who: Who, now: Time, *, rdev: int = 0, target: bytes = b""
    ) -> int:
        """Make an inode of any type under a free name. A set-group-id directory hands on its group.

        The kernel has applied the umask already.
        """
        directory = self._check_free(parent, name)
        is_directory = stat.S_ISDIR(mode)
        gid = who.gid
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if is_directory else 0
        has_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        self._last_id += 1
        self.live.nodes[self._last_id] = Node(
            mode=mode,
            uid=who.uid,
            gid=gid,
            nlink=2 if is_directory else 1,
            rdev=rdev if has_device else 0,
            mtime_ns=now,
            ctime_ns=now,
            btime_ns=now,
            parent=parent if is_directory else 0,
            target=target,
        )
        directory.entries[name] = self._last_id
        directory.nlink += is_directory
        self._touch_directory(parent, now)
        self.touched.add(self._last_id)
        return self._last_id

    def link(self, number: int, parent: int, name: bytes, now: Time) -> None:
        """Give an inode a further name."""
        node = self.node(number)
        try:
            directory = self._check_free(parent, name)
        except Refused as refused:  # which rule is reported first is open
            raise Refused(refused.accepted, *([errno.EPERM] if node.is_directory else [])) from None
        if node.is_directory:
            raise Refused(errno.EPERM)
        if node.nlink == 0:  # unlinked and open: as link(2) through /proc answers
            raise Refused(errno.ENOENT)
        directory.entries[name] = number
        node.nlink += 1
        node.ctime_ns = now
        self._touch_directory(parent, now)
        self.touched.add(number)

    def _drop_name(self, number: int, now: Time) -> None:
        """An inode lost a name: it goes when that was the last one and nobody has it open."""
        node = self.live.nodes[number]
        node.nlink -= 1
        node.ctime_ns = now
        if node.nlink == 0 and not self.opens[number]:
            del self.live.nodes[number]
        else:
            self.touched.add(number)

    def unlink(self, parent: int, name: bytes, now: Time) -> None:
        """Remove a name of anything but a directory."""
        directory = self.directory(parent)
        if parent == ROOT and name == SNAPSHOT_DIRECTORY:
            raise Refused(errno.EISDIR, RESERVED)
        number = self.lookup(parent, name)
        if self.live.nodes[number].is_directory:
            raise Refused(errno.EISDIR, errno.EPERM)
        del directory.entries[name]
        self._touch_directory(parent, now)
        self._drop_name(number, now)

    def rmdir(self, parent: int, name: bytes, now: Time) -> None:
        """Remove an empty directory."""
        directory = self.directory(parent)
        if parent == ROOT and name == SNAPSHOT_DIRECTORY:
            raise Refused(errno.ENOTEMPTY, RESERVED)
        number = self.lookup(parent, name)
        node = self.live.nodes[number]
        if not node.is_directory:
            raise Refused(errno.ENOTDIR)
        if node.entries:
            raise Refused(errno.ENOTEMPTY, errno.EEXIST)
        del directory.entries[name]
        directory.nlink -= 1
        del self.live.nodes[number]
        self._touch_directory(parent, now)

    def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        now: Time,
        *,
        no_replace: bool = False,
    ) -> None:
        """Move a name, replacing what stands under the new one."""
        source, destination = self.directory(parent), self.directory(new_parent)
        problems = self._name_problems(parent, name, new_parent, new_name)
        if problems:  # which rule is reported first is open
            raise Refused(frozenset(problems))
        number = source.entries[name]
        node = self.live.nodes[number]
        replaced = destination.entries.get(new_name)
        self._check_rename(number, new_parent, replaced, no_replace=no_replace)
        if replaced == number:  # two names of one inode, or a name onto itself: nothing happens
            return
        if replaced is not None:
            self._remove_replaced(destination, new_name, replaced, now)
        del source.entries[name]
        destination.entries[new_name] = number
        if node.is_directory:
            source.nlink -= 1
            destination.nlink += 1
            node.parent = new_parent
        node.ctime_ns = now
        self.touched.add(number)
        self._touch_directory(parent, now)
        self._touch_directory(new_parent, now)

    def _name_problems(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> set[int]:
        """Return the errnos for names that a rename cannot be given."""
        problems: set[int] = set()
        if parent == ROOT and name == SNAPSHOT_DIRECTORY:
            problems |= RESERVED
        elif name not in self.live.nodes[parent].entries:
            problems |= {errno.ENOENT} | ({errno.ENAMETOOLONG} if len(name) > NAME_MAX_BYTES else set())
        if len(new_name) > NAME_MAX_BYTES:
            problems.add(errno.ENAMETOOLONG)
        if new_parent == ROOT and new_name == SNAPSHOT_DIRECTORY:
            problems |= {errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.EINVAL} | RESERVED
        return problems

    def _check_rename(self, number: int, new_parent: int, replaced: int | None, *, no_replace: bool) -> None:
        """Raise every errno that applies: which one is reported first is open."""
        problems: set[int] = set()
        node = self.live.nodes[number]
        if node.is_directory and self.is_inside(new_parent, number):
            problems.add(errno.EINVAL)
        if replaced is not None:
            over = self.live.nodes[replaced]
            if no_replace:
                problems.add(errno.EEXIST)
            elif replaced != number:
                if node.is_directory and not over.is_directory:
                    problems.add(errno.ENOTDIR)
                if over.is_directory and not node.is_directory:
                    problems.add(errno.EISDIR)
                    problems |= {errno.ENOTEMPTY} if over.entries else set()
                if node.is_directory and over.entries:
                    problems |= {errno.ENOTEMPTY, errno.EEXIST}
        if problems:
            raise Refused(frozenset(problems))

    def _remove_replaced(self, destination: Node, new_name: bytes, replaced: int, now: Time) -> None:
        del destination.entries[new_name]
        if self.live.nodes[replaced].is_directory:
            destination.nlink -= 1
            del self.live.nodes[replaced]
        else:
            self._drop_name(replaced, now)

    def is_inside(self, number: int, directory: int) -> bool:
        """Whether `number` is `directory` or stands below it."""
        while number != directory:
            if number == ROOT:
                return False
            number = self.live.nodes[number].parent
        return True

    # -- attributes ----------------------------------------------------------------------------------------

    def setattr(
        self,
        number: int,
        now: Time,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size_bytes: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> None:
        """Change what is given; the change time always moves, the modification time with the size."""
        node = self.node(number)
        if size_bytes is not None and not node.is_file:
            raise Refused(errno.EISDIR if node.is_directory else errno.EINVAL, errno.EINVAL)
        if mode is not None:
            node.mode = stat.S_IFMT(node.mode) | mode
        node.uid = node.uid if uid is None else uid
        node.gid = node.gid if gid is None else gid
        if size_bytes is not None:
            node.data.truncate(size_bytes)
            node.mtime_ns = now
        if mtime_ns is not None:
            node.mtime_ns = mtime_ns
        node.ctime_ns = now if ctime_ns is None else ctime_ns
        self.touched.add(number)

    def setxattr(self, number: int, name: bytes, value: bytes, now: Time, *, create: bool, replace: bool) -> None:
        """Set an extended attribute; `create` and `replace` as setxattr(2) has them."""
        node = self.node(number)
        if create and name in node.xattrs:
            raise Refused(errno.EEXIST)
        if replace and name not in node.xattrs:
            raise Refused(errno.ENODATA)
        node.xattrs[name] = value
        node.ctime_ns = now
        self.touched.add(number)

    def getxattr(self, number: int, name: bytes) -> bytes:
        """Return an extended attribute's value."""
        node = self.node(number)
        if name not in node.xattrs:
            raise Refused(errno.ENODATA)
        return node.xattrs[name]

    def removexattr(self, number: int, name: bytes, now: Time) -> None:
        """Remove an extended attribute."""
        self.getxattr(number, name)
        node = self.node(number)
        del node.xattrs[name]
        node.ctime_ns = now
        self.touched.add(number)

    # -- data ----------------------------------------------------------------------------------------------

    def open(self, number: int) -> None:
        """Count an open file."""
        node = self.node(number)
        if not node.is_file:
            raise Refused(errno.EISDIR if node.is_directory else errno.EINVAL, errno.EINVAL, errno.ENXIO)
        self.opens[number] += 1

    def release(self, number: int) -> None:
        """Close it again; the last close of an unlinked file ends it."""
        self.opens[number] -= 1
        if not self.opens[number] and self.live.nodes[number].nlink == 0:
            del self.live.nodes[number]

    def write(self, number: int, offset: int, data: bytes, now: Time) -> None:
        """Write into an open file."""
        node = self.live.nodes[number]
        node.data.write(offset, data)
        if data:
            node.mtime_ns = node.ctime_ns = now
            self.touched.add(number)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Read from an open file."""
        return self.live.nodes[number].data.read(offset, size)

    def release_all(self) -> None:
        """What an unmount or a crash does to open files."""
        for number in list(self.opens):
            while self.opens[number]:
                self.release(number)

    # -- snapshots -----------------------------------------------------------------------------------------

    def snapshot_create(self, name: bytes) -> None:
        """Keep a copy of the tree under a free name."""
        if len(name) > NAME_MAX_BYTES:
            raise Refused(errno.ENAMETOOLONG, errno.EINVAL)
        if name in self.snapshots:
            raise Refused(errno.EEXIST)
        self.snapshots[name] = self.live.reachable_copy()

    def snapshot_remove(self, name: bytes) -> None:
        """Forget a copy."""
        if name not in self.snapshots:
            raise Refused(errno.ENOENT)
        del self.snapshots[name]
