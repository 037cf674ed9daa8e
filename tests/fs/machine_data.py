"""The state machine's rules for open files and their data."""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from cubefs.model import Caller, SetAttr
from tests.fs.machine_names import PICK, NameRules
from tests.support import comparison
from tests.support.content import KINDS, MIB, content
from tests.support.reference_model import Node, Window

SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([100, 4096, 4097, 65_536, 5000, 10_000]),
    st.sampled_from([256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 70_000, MIB, MIB + 1, 3 * MIB, 9 * MIB]),
)
OFFSETS = st.one_of(
    st.sampled_from(["start", "end", "middle", "behind"]),
    st.integers(0, 5000),
    st.sampled_from([4096, 256 * 1024, MIB - 1, MIB, 8 * MIB - 5, 8 * MIB, 2**33]),
)


def place(node: Node, offset: int | str) -> int:
    """Return the file offset that a word means for a file."""
    if isinstance(offset, int):
        return offset
    size = node.data.size_bytes
    return {"start": 0, "end": size, "middle": size // 2, "behind": size + 10_000}[offset]


class DataRules(NameRules):
    """Rules for open, read, write, truncate, fsync and release."""

    def a_handle(self, pick: int) -> tuple[int, int]:
        """Pick an open file: (the model's id, file handle)."""
        return self.handles[pick % len(self.handles)]

    @rule(pick=PICK)
    def open(self, pick: int) -> None:
        """Open anything for reading and writing (what is no file refuses)."""
        model_id = self.any_inode(pick)
        done = self.both(
            lambda: self.fs.open(self.inodes[model_id], os.O_RDWR), lambda now: self.model.open(model_id)
        )
        if done:
            self.handles.append((model_id, done[0]))

    @precondition(lambda self: self.handles)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        """Close a file; the last close of an unlinked one ends it."""
        model_id, handle = self.handles.pop(pick % len(self.handles))
        self.fs.release(handle)
        self.close_in_model(model_id)

    @precondition(lambda self: self.handles)
    @rule(
        pick=PICK,
        offset=OFFSETS,
        size=SIZES,
        kind=st.integers(0, KINDS - 1),
        start=st.sampled_from([0, 0, 1, 4096, MIB]),
    )
    def write(self, pick: int, offset: int | str, size: int, kind: int, start: int) -> None:
        """Write anywhere, in pieces of 1 MiB as the kernel does."""
        model_id, handle = self.a_handle(pick)
        data = content(kind, size, start)
        first = place(self.model.live.nodes[model_id], offset)
        for position in range(0, len(data), MIB) or [0]:
            piece = data[position : position + MIB]
            done = self.both(
                lambda at=first + position, piece=piece: self.fs.write(handle, at, piece),
                lambda now, at=first + position, piece=piece: self.model.write(model_id, at, piece, now),
            )
            assert done is not None and done[0] == len(piece)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, offset=OFFSETS, size=SIZES)
    def read(self, pick: int, offset: int | str, size: int) -> None:
        """Read anywhere, also behind the end, also what is still dirty."""
        model_id, handle = self.a_handle(pick)
        node = self.model.live.nodes[model_id]
        first = place(node, offset)
        self.fs.run(comparison.check_range, self.fs.filesystem, b"read", handle, node, first, max(0, size))

    @precondition(lambda self: self.handles)
    @rule(pick=PICK)
    def read_all(self, pick: int) -> None:
        """Compare an open file's whole content, unlinked or not."""
        model_id, handle = self.a_handle(pick)
        node = self.model.live.nodes[model_id]
        for offset, size in node.data.telling_ranges():
            self.fs.run(comparison.check_range, self.fs.filesystem, b"open", handle, node, offset, size)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, datasync=st.booleans())
    def fsync(self, pick: int, datasync: bool) -> None:
        """Sync one file."""
        self.fs.fsync(self.a_handle(pick)[1], datasync)

    @rule(pick=PICK, size=OFFSETS, of_open=st.booleans())
    def truncate(self, pick: int, size: int | str, of_open: bool) -> None:
        """Change the size of anything, in either direction; of an open file, unlinked or not, if there is one."""
        model_id = self.a_handle(pick)[0] if of_open and self.handles else self.any_inode(pick)
        node = self.model.live.nodes[model_id]
        size_bytes = place(node, size) if stat.S_ISREG(node.mode) else 10

        def model(now: Window) -> int:
            self.model.setattr(model_id, now, size_bytes=size_bytes)
            return model_id

        change = SetAttr(size_bytes=size_bytes)
        self.both(lambda: self.fs.setattr(self.inodes[model_id], change, Caller(0, 0, 0)), model)
