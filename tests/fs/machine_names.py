"""The state machine's rules for the name space and for attributes."""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st
from hypothesis.stateful import rule

from cubefs.model import SNAPDIR_INODE, Attr, Caller, SetAttr
from tests.fs.machine_core import MachineCore
from tests.support.reference_model import ROOT, SNAPSHOT_DIRECTORY, Who, Window

# few names, so that they collide; bytes that are not UTF-8, the longest name, the reserved one, one too long
NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"\xff\xfe\n", b"x" * 255, SNAPSHOT_DIRECTORY, b"y" * 256])
CALLERS = st.sampled_from([Caller(0, 0, 0o022), Caller(1000, 100, 0o077), Caller(65534, 65534, 0)])
PICK = st.integers(0, 15)  # taken modulo the number of candidates
XATTR_NAMES = st.sampled_from([b"user.a", b"user.b", b"trusted.\xff", b"user." + b"n" * 250])
TIMES_NS = st.sampled_from([0, 1, -1, -1_500_000_001, 1_700_000_000_123_456_789, 2**62, -(2**61)])


class NameRules(MachineCore):
    """Rules for directories, names and attributes."""

    @rule(where=PICK, name=NAMES, caller=CALLERS, mode=st.sampled_from([0o644, 0o600, 0o4755, 0]))
    def create(self, where: int, name: bytes, caller: Caller, mode: int) -> None:
        """Create a file and keep it open."""
        parent = self.a_directory(where)
        handles = []

        def real() -> Attr:
            handle, attr = self.fs.create(self.inodes[parent], name, stat.S_IFREG | mode, os.O_RDWR, caller)
            handles.append(handle)
            assert isinstance(attr, Attr)
            return attr

        def model(now: Window) -> int:
            made = self.model.make(parent, name, stat.S_IFREG | mode, Who(caller.uid, caller.gid), now)
            self.model.open(made)
            return made

        if done := self.both(real, model):
            self.handles.append((done[1], handles[0]))

    @rule(
        where=PICK,
        name=NAMES,
        caller=CALLERS,
        kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]),
    )
    def mknod(self, where: int, name: bytes, caller: Caller, kind: int) -> None:
        """Make an inode of any plain type."""
        parent, mode = self.a_directory(where), kind | 0o660
        rdev = os.makedev(5, 300) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        self.both(
            lambda: self.fs.mknod(self.inodes[parent], name, mode, rdev, caller),
            lambda now: self.model.make(parent, name, mode, Who(caller.uid, caller.gid), now, rdev=rdev),
        )

    @rule(where=PICK, name=NAMES, caller=CALLERS, mode=st.sampled_from([0o755, 0o700, 0o1777]))
    def mkdir(self, where: int, name: bytes, caller: Caller, mode: int) -> None:
        """Make a directory."""
        parent = self.a_directory(where)
        self.both(
            lambda: self.fs.mkdir(self.inodes[parent], name, mode, caller),
            lambda now: self.model.make(parent, name, stat.S_IFDIR | mode, Who(caller.uid, caller.gid), now),
        )

    @rule(where=PICK, name=NAMES, caller=CALLERS, text=st.sampled_from([b"a", b"../\xff", b"t" * 4095]))
    def symlink(self, where: int, name: bytes, caller: Caller, text: bytes) -> None:
        """Make a symlink."""
        parent, who = self.a_directory(where), Who(caller.uid, caller.gid)
        self.both(
            lambda: self.fs.symlink(self.inodes[parent], name, text, caller),
            lambda now: self.model.make(parent, name, stat.S_IFLNK | 0o777, who, now, target=text),
        )

    @rule(what=PICK, where=PICK, name=NAMES)
    def link(self, what: int, where: int, name: bytes) -> None:
        """Give anything a further name."""
        model_id, parent = self.any_inode(what), self.a_directory(where)

        def model(now: Window) -> int:
            self.model.link(model_id, parent, name, now)
            return model_id

        self.both(lambda: self.fs.link(self.inodes[model_id], self.inodes[parent], name), model)

    @rule(pick=PICK)
    def unlink(self, pick: int) -> None:
        """Remove a name that is there (directories refuse)."""
        parent, name = self.an_entry(pick)
        self.both(
            lambda: self.fs.unlink(self.inodes[parent], name), lambda now: self.model.unlink(parent, name, now)
        )

    @rule(pick=PICK)
    def rmdir(self, pick: int) -> None:
        """Remove a directory (files and full directories refuse)."""
        parent, name = self.an_entry(pick)
        self.both(lambda: self.fs.rmdir(self.inodes[parent], name), lambda now: self.model.rmdir(parent, name, now))

    @rule(where=PICK, name=NAMES, as_directory=st.booleans())
    def remove_any_name(self, where: int, name: bytes, as_directory: bool) -> None:
        """Remove a name that may be missing, too long or reserved."""
        parent = self.a_directory(where)
        verb = "rmdir" if as_directory else "unlink"
        self.both(
            lambda: getattr(self.fs, verb)(self.inodes[parent], name),
            lambda now: getattr(self.model, verb)(parent, name, now),
        )

    @rule(pick=PICK, where=PICK, new_name=NAMES, no_replace=st.booleans())
    def rename(self, pick: int, where: int, new_name: bytes, no_replace: bool) -> None:
        """Rename what is there to any name anywhere, its own subtree included."""
        (parent, name), new_parent = self.an_entry(pick), self.a_directory(where)
        self.both(
            lambda: self.fs.rename(
                self.inodes[parent], name, self.inodes[new_parent], new_name, flags=int(no_replace)
            ),
            lambda now: self.model.rename(parent, name, new_parent, new_name, now, no_replace=no_replace),
        )

    @rule(first=PICK, second=PICK)
    def rename_over(self, first: int, second: int) -> None:
        """Rename one thing that is there over another."""
        (parent, name), (new_parent, new_name) = self.an_entry(first), self.an_entry(second)
        self.both(
            lambda: self.fs.rename(self.inodes[parent], name, self.inodes[new_parent], new_name),
            lambda now: self.model.rename(parent, name, new_parent, new_name, now),
        )

    @rule(where=PICK, name=NAMES)
    def lookup(self, where: int, name: bytes) -> None:
        """Look up a name that may be missing."""
        parent = self.a_directory(where)
        if parent == ROOT and name == SNAPSHOT_DIRECTORY:
            assert self.fs.lookup(ROOT, name).ino == SNAPDIR_INODE
        else:
            self.both(
                lambda: self.fs.lookup(self.inodes[parent], name), lambda now: self.model.lookup(parent, name)
            )

    # -- attributes ------------------------------------------------------------------------------------------

    @rule(
        pick=PICK,
        mode=st.none() | st.sampled_from([0o777, 0o4711, 0o2755, 0]),
        uid=st.none() | st.sampled_from([0, 1000, 2**32 - 2]),
        gid=st.none() | st.sampled_from([0, 100]),
        mtime_ns=st.none() | TIMES_NS,
        ctime_ns=st.none() | TIMES_NS,
    )
    def setattr(
        self,
        pick: int,
        mode: int | None,
        uid: int | None,
        gid: int | None,
        mtime_ns: int | None,
        ctime_ns: int | None,
    ) -> None:
        """Change attributes of anything, the root included."""
        model_id = self.any_inode(pick)
        change = SetAttr(mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, ctime_ns=ctime_ns)

        def model(now: Window) -> int:
            self.model.setattr(model_id, now, mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
            return model_id

        self.both(lambda: self.fs.setattr(self.inodes[model_id], change, Caller(0, 0, 0)), model)

    @rule(
        pick=PICK,
        name=XATTR_NAMES,
        value=st.sampled_from([b"", b"v", b"\0\xff", b"w" * 5000]),
        flags=st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE]),
    )
    def setxattr(self, pick: int, name: bytes, value: bytes, flags: int) -> None:
        """Set an extended attribute of anything."""
        model_id = self.any_inode(pick)
        create, replace = flags == os.XATTR_CREATE, flags == os.XATTR_REPLACE
        self.both(
            lambda: self.fs.setxattr(self.inodes[model_id], name, value, flags),
            lambda now: self.model.setxattr(model_id, name, value, now, create=create, replace=replace),
        )

    @rule(pick=PICK, name=XATTR_NAMES)
    def getxattr(self, pick: int, name: bytes) -> None:
        """Read an extended attribute that may be missing."""
        model_id = self.any_inode(pick)
        done = self.both(
            lambda: self.fs.getxattr(self.inodes[model_id], name),
            lambda now: self.model.getxattr(model_id, name),
        )
        assert done is None or done[0] == done[1]

    @rule(pick=PICK, name=XATTR_NAMES)
    def removexattr(self, pick: int, name: bytes) -> None:
        """Remove an extended attribute that may be missing."""
        model_id = self.any_inode(pick)
        self.both(
            lambda: self.fs.removexattr(self.inodes[model_id], name),
            lambda now: self.model.removexattr(model_id, name, now),
        )

    @rule(pick=PICK)
    def readlink(self, pick: int) -> None:
        """Read a target, also of what has none."""
        model_id = self.any_inode(pick)
        done = self.both(lambda: self.fs.readlink(self.inodes[model_id]), lambda now: self.model.readlink(model_id))
        assert done is None or done[0] == done[1]
