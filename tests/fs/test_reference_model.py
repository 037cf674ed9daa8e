# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH208, PTH211 - paths are bytes here, pathlib takes text
"""The reference model itself is right: it agrees with the machine's own file system, and with a bytearray."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from tests.support.reference_model import ROOT, Model, Node, Refused, Who
from tests.support.sparse_bytes import PAGE_BYTES, SparseBytes

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\xfe", b"x" * 255, b"y" * 256])
PICK = st.integers(0, 15)
OFFSETS = st.sampled_from([0, 1, 10, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES, 200_000])


@given(
    st.lists(
        st.tuples(st.sampled_from(["write", "truncate"]), OFFSETS, st.integers(0, 2 * PAGE_BYTES)), max_size=12
    ),
    OFFSETS,
)
def test_sparse_bytes_are_bytes(steps: list[tuple[str, int, int]], start: int) -> None:
    sparse, plain, mapped = SparseBytes(), bytearray(), bytearray()
    for number, (verb, offset, size) in enumerate(steps, 1):
        if verb == "write":
            stop = offset + size
            if size:
                plain.extend(bytes(max(0, stop - len(plain))))
                mapped.extend(bytes(max(0, stop - len(mapped))))
                plain[offset:stop] = bytes([number]) * size
                mapped[offset:stop] = b"\1" * size
            sparse.write(offset, bytes([number]) * size)
        else:
            plain = bytearray(plain[:offset].ljust(offset, b"\0"))
            mapped = bytearray(mapped[:offset].ljust(offset, b"\0"))
            sparse.truncate(offset)
        twin = sparse.copy()
        twin.write(5, b"only in the copy")
    assert sparse.size_bytes == len(plain)
    assert sparse.read(0, len(plain) + 10) == plain
    assert sparse.read(start, 1000) == plain[start : start + 1000]
    assert sparse.allocated_bytes == sum(mapped)
    shown = bytearray(len(plain))
    for offset, size in sparse.telling_ranges():
        shown[offset : offset + size] = plain[offset : offset + size]
    assert shown == plain


class ModelAgainstDisk(RuleBasedStateMachine):
    """The model's name space against a directory on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="cubefs-model-"))
        self.root.chmod(0o755)
        here = self.root.stat()
        self.me = Who(here.st_uid, here.st_gid)
        self.umask = os.umask(0o022)
        self.model = Model(Node(here.st_mode, here.st_uid, here.st_gid, 2, 0, 0, 0, 0))

    def teardown(self) -> None:
        """Compare the trees."""
        try:
            self.compare(ROOT, self.root)
        finally:
            os.umask(self.umask)
            shutil.rmtree(self.root)

    def compare(self, number: int, path: Path) -> None:
        """Compare one directory and all below."""
        names = {os.fsencode(name) for name in os.listdir(path)}
        node = self.model.live.nodes[number]
        assert names == set(node.entries)
        for name, child_number in node.entries.items():
            child, child_path = self.model.live.nodes[child_number], path / os.fsdecode(name)
            real = child_path.lstat()
            assert real.st_mode == child.mode
            if child.is_directory:
                self.compare(child_number, child_path)
            else:  # whether a directory counts its sub-directories depends on the file system
                assert (real.st_nlink, real.st_size) == (child.nlink, child.size_bytes)

    def paths(self, number: int = ROOT, path: bytes = b"") -> list[tuple[int, bytes]]:
        """Return every (id, path) of a directory."""
        found = [(number, path or b".")]
        for name, child in sorted(self.model.live.nodes[number].entries.items()):
            if self.model.live.nodes[child].is_directory:
                found += self.paths(child, path + b"/" + name if path else name)
        return found

    def both(self, real: Callable[[], Any], model: Callable[[], Any]) -> None:
        """Call both and compare the outcome."""
        failure = None
        try:
            real()
        except OSError as error:
            failure = error.errno
        try:
            model()
        except Refused as refused:
            assert failure in refused.accepted, f"{errno.errorcode.get(failure or 0)}, expected {refused}"
            return
        assert failure is None, f"{errno.errorcode[failure]}, expected success"

    def where(self, pick: int, name: bytes) -> tuple[int, bytes]:
        """Return (directory id, absolute path of the name in it)."""
        directories = self.paths()
        number, path = directories[pick % len(directories)]
        return number, os.fsencode(self.root) + b"/" + path + b"/" + name

    @rule(pick=PICK, name=NAMES, kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFLNK]))
    def make(self, pick: int, name: bytes, kind: int) -> None:
        """Make anything."""
        parent, path = self.where(pick, name)
        real = {
            stat.S_IFREG: lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666)),
            stat.S_IFIFO: lambda: os.mkfifo(path, 0o666),
            stat.S_IFDIR: lambda: os.mkdir(path, 0o777),
            stat.S_IFLNK: lambda: os.symlink(b"target", path),
        }[kind]
        mode = kind | {stat.S_IFDIR: 0o755, stat.S_IFLNK: 0o777}.get(kind, 0o644)
        target = b"target" if kind == stat.S_IFLNK else b""
        self.both(real, lambda: self.model.make(parent, name, mode, self.me, 0, target=target))

    @rule(pick=PICK, name=NAMES, as_directory=st.booleans())
    def remove(self, pick: int, name: bytes, as_directory: bool) -> None:
        """Remove a name."""
        parent, path = self.where(pick, name)
        if as_directory:
            self.both(lambda: os.rmdir(path), lambda: self.model.rmdir(parent, name, 0))
        else:
            self.both(lambda: os.unlink(path), lambda: self.model.unlink(parent, name, 0))

    @rule(first=PICK, name=NAMES, second=PICK, new_name=NAMES)
    def rename(self, first: int, name: bytes, second: int, new_name: bytes) -> None:
        """Rename anything to anything."""
        (parent, path), (new_parent, new_path) = self.where(first, name), self.where(second, new_name)
        self.both(
            lambda: os.rename(path, new_path),
            lambda: self.model.rename(parent, name, new_parent, new_name, 0),
        )

    @rule(first=PICK, name=NAMES, second=PICK, new_name=NAMES)
    def link(self, first: int, name: bytes, second: int, new_name: bytes) -> None:
        """Give anything a further name."""
        (parent, path), (new_parent, new_path) = self.where(first, name), self.where(second, new_name)
        self.both(
            lambda: os.link(path, new_path, follow_symlinks=False),
            lambda: self.model.link(self.model.lookup(parent, name), new_parent, new_name, 0),
        )

    @rule(pick=PICK, name=NAMES, size=OFFSETS)
    def truncate(self, pick: int, name: bytes, size: int) -> None:
        """Set a file's size."""
        parent, path = self.where(pick, name)
        number = self.model.live.nodes[parent].entries.get(name)
        if number is not None and not stat.S_ISREG(self.model.live.nodes[number].mode):
            return  # a path to a fifo or symlink is not what the model's setattr gets
        self.both(
            lambda: os.truncate(path, size),
            lambda: self.model.setattr(self.model.lookup(parent, name), 0, size_bytes=size),
        )


TestModelAgainstDisk = ModelAgainstDisk.TestCase
TestModelAgainstDisk.settings = settings(max_examples=60, stateful_step_count=40)
