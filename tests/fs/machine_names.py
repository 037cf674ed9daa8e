"""The state machine's rules for the name space and for attributes."""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st
from hypothesis.stateful import rule

from cubefs.model import Attr, Caller, SetAttr
from tests.fs.machine_core import MachineCore
from tests.support.reference_model import ROOT, SNAPSHOT_DIRECTORY, Who, Window

# few names, so that they collide; bytes that are not UTF-8 and the longest name among them
NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"\xff\xfe\n", b"x" * 255])
BAD_NAMES = st.sampled_from([SNAPSHOT_DIRECTORY, b"y" * 256, b"missing", b"a"])
CALLERS = st.sampled_from([Caller(0, 0, 0o022), Caller(1000, 100, 0o077), Caller(65534, 65534, 0)])
PICK = st.integers(0, 15)  # taken modulo the number of candidates
MODES = st.sampled_from([0o644, 0o600, 0o4755, 0o2770, 0o1777, 0])
XATTR_NAMES = st.sampled_from([b"user.a", b"user.a", b"user.a", b"trusted.\xff", b"user." + b"n" * 250])
XATTR_VALUES = st.sampled_from([b"", b"v", b"\0\xff", b"w" * 5000])
XATTR_VERBS = st.sampled_from(["set", "set", "set", "create", "replace", "remove", "get"])
TIMES_NS = st.sampled_from([0, 1, -1, -1_500_000_001, 1_700_000_000_123_456_789, 2**62, -(2**61)])
KINDS = st.sampled_from(["file", "file", "directory", "directory", "symlink", "special"])
SPECIAL = [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]
ME = Caller(0, 0, 0)


class NameRules(MachineCore):
    """Rules for directories, names and attributes."""

    # -- making ----------------------------------------------------------------------------------------------

    @rule(kind=KINDS, where=PICK, name=NAMES, caller=CALLERS, mode=MODES, extra=PICK)
    def make(self, kind: str, where: int, name: bytes, caller: Caller, mode: int, extra: int) -> None:
        """Make something in any directory."""
        parent = self.a_directory(where)
        if kind == "file":
            self.create(parent, name, caller, mode)
        elif kind == "directory":
            self.mkdir(parent, name, caller, mode)
        elif kind == "symlink":
            self.symlink(parent, name, caller, [b"a", b"../\xff", b"t" * 4095][extra % 3])
        else:
            self.mknod(parent, name, caller, SPECIAL[extra % len(SPECIAL)] | mode)

    def create(self, parent: int, name: bytes, caller: Caller, mode: int) -> None:
        """Create a file and keep it open."""
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

    def mknod(self, parent: int, name: bytes, caller: Caller, mode: int) -> None:
        """Make an inode of any plain type."""
        rdev = os.makedev(5, 300) if stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK) else 0
        who = Who(caller.uid, caller.gid)
        self.both(
            lambda: self.fs.mknod(self.inodes[parent], name, mode, rdev, caller),
            lambda now: self.model.make(parent, name, mode, who, now, rdev=rdev),
        )

    def mkdir(self, parent: int, name: bytes, caller: Caller, mode: int) -> None:
        """Make a directory."""
        who = Who(caller.uid, caller.gid)
        self.both(
            lambda: self.fs.mkdir(self.inodes[parent], name, mode, caller),
            lambda now: self.model.make(parent, name, stat.S_IFDIR | mode, who, now),
        )

    def symlink(self, parent: int, name: bytes, caller: Caller, target: bytes) -> None:
        """Make a symlink."""
        who = Who(caller.uid, caller.gid)
        self.both(
            lambda: self.fs.symlink(self.inodes[parent], name, target, caller),
            lambda now: self.model.make(parent, name, stat.S_IFLNK | 0o777, who, now, target=target),
        )

    @rule(what=PICK, where=PICK, name=NAMES)
    def link(self, what: int, where: int, name: bytes) -> None:
        """Give something a further name (directories refuse)."""
        model_id, parent = self.rather(what, lambda node: not node.is_directory), self.a_directory(where)

        def model(now: Window) -> int:
            self.model.link(model_id, parent, name, now)
            return model_id

        self.both(lambda: self.fs.link(self.inodes[model_id], self.inodes[parent], name), model)

    # -- removing and renaming -------------------------------------------------------------------------------

    @rule(pick=PICK, rightly=st.sampled_from([True, True, True, False]))
    def remove(self, pick: int, rightly: bool) -> None:
        """Remove a name that is there, sometimes with the wrong call; full directories refuse."""
        parent, name = self.an_entry(pick)
        number = self.model.live.nodes[parent].entries.get(name)
        is_directory = number is not None and self.model.live.nodes[number].is_directory
        self.remove_name(parent, name, as_directory=is_directory == rightly)

    def remove_name(self, parent: int, name: bytes, *, as_directory: bool) -> None:
        """unlink or rmdir."""
        verb = "rmdir" if as_directory else "unlink"
        self.both(
            lambda: getattr(self.fs, verb)(self.inodes[parent], name),
            lambda now: getattr(self.model, verb)(parent, name, now),
        )

    @rule(pick=PICK, where=PICK, new_name=NAMES, over=st.booleans(), no_replace=st.sampled_from([0, 0, 1]))
    def rename(self, pick: int, where: int, new_name: bytes, over: bool, no_replace: int) -> None:
        """Rename what is there, over something else that is there or to any name, its own subtree included."""
        (parent, name), new_parent = self.an_entry(pick), self.a_directory(where)
        if over:
            new_parent, new_name = self.an_entry(where)
        self.rename_name(parent, name, new_parent, new_name, no_replace=no_replace)

    def rename_name(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, no_replace: int = 0
    ) -> None:
        """Rename any name to any name."""
        inodes = self.inodes
        self.both(
            lambda: self.fs.rename(inodes[parent], name, inodes[new_parent], new_name, flags=no_replace),
            lambda now: self.model.rename(parent, name, new_parent, new_name, now, no_replace=bool(no_replace)),
        )

    @rule(where=PICK, name=BAD_NAMES, other=BAD_NAMES, verb=PICK)
    def use_bad_name(self, where: int, name: bytes, other: bytes, verb: int) -> None:
        """Use names that are too long, reserved or missing, in every call that takes a name."""
        parent = self.a_directory(where)
        calls = [
            lambda: self.create(parent, name, ME, 0o644),
            lambda: self.mkdir(parent, name, ME, 0o755),
            lambda: self.symlink(parent, name, ME, b"target"),
            lambda: self.mknod(parent, name, ME, stat.S_IFIFO | 0o600),
            lambda: self.remove_name(parent, name, as_directory=True),
            lambda: self.remove_name(parent, name, as_directory=False),
            lambda: self.rename_name(*self.an_entry(where), parent, name),
            lambda: self.rename_name(parent, name, parent, other),
            lambda: self.look_up(parent, name),
        ]
        calls[verb % len(calls)]()

    def look_up(self, parent: int, name: bytes) -> None:
        """Look up a name that may be missing (the reserved one is compared with the whole tree)."""
        if parent != ROOT or name != SNAPSHOT_DIRECTORY:
            self.both(
                lambda: self.fs.lookup(self.inodes[parent], name), lambda now: self.model.lookup(parent, name)
            )

    # -- attributes ------------------------------------------------------------------------------------------

    @rule(
        pick=PICK,
        mode=st.none() | MODES,
        owner=st.none() | st.sampled_from([(0, None), (None, 100), (2**32 - 2, 1000)]),
        mtime_ns=st.none() | TIMES_NS,
        ctime_ns=st.none() | TIMES_NS,
    )
    def setattr(
        self,
        pick: int,
        mode: int | None,
        owner: tuple[int | None, int | None] | None,
        mtime_ns: int | None,
        ctime_ns: int | None,
    ) -> None:
        """Change attributes of anything, the root included."""
        model_id = self.any_inode(pick)
        uid, gid = owner or (None, None)
        change = SetAttr(mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        fields = {name: value for name, value in change._asdict().items() if value is not None}

        def model(now: Window) -> int:
            self.model.setattr(model_id, now, **fields)
            return model_id

        self.both(lambda: self.fs.setattr(self.inodes[model_id], change, ME), model)

    @rule(
        pick=PICK,
        name=XATTR_NAMES,
        value=XATTR_VALUES,
        verb=st.sampled_from(["set", "set", "set", "create", "replace", "remove", "get"]),
    )
    def xattr(self, pick: int, name: bytes, value: bytes, verb: str) -> None:
        """Set, read or remove an extended attribute of anything; it may be missing."""
        model_id = self.any_inode(pick)
        inode = self.inodes[model_id]
        if verb == "remove":
            self.both(
                lambda: self.fs.removexattr(inode, name),
                lambda now: self.model.removexattr(model_id, name, now),
            )
        elif verb == "get":
            done = self.both(lambda: self.fs.getxattr(inode, name), lambda now: self.model.getxattr(model_id, name))
            assert done is None or done[0] == done[1]
        else:
            self.set_xattr(model_id, name, value, verb)

    def set_xattr(self, model_id: int, name: bytes, value: bytes, verb: str = "set") -> None:
        """Set an extended attribute, new or not, or only new, or only there."""
        flags = {"set": 0, "create": os.XATTR_CREATE, "replace": os.XATTR_REPLACE}[verb]
        how = {"create": verb == "create", "replace": verb == "replace"}
        self.both(
            lambda: self.fs.setxattr(self.inodes[model_id], name, value, flags),
            lambda now: self.model.setxattr(model_id, name, value, now, **how),
        )
