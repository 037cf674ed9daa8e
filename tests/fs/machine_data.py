"""The state machine's rules for open files and their data."""

from __future__ import annotations

import os
import stat

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from cubefs.model import Chunking, SetAttr
from tests.fs.machine_names import ME, PICK, NameRules
from tests.support import comparison
from tests.support.content import KINDS, MIB, content
from tests.support.reference_model import ROOT, Node, Window

SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from([100, 4096, 4097, 5000, 10_000, 65_536]),
    st.sampled_from([5000, 70_000, 256 * 1024 - 1, 256 * 1024 + 1, MIB, MIB + 1, 3 * MIB, 9 * MIB]),
)
OFFSETS = st.one_of(
    st.sampled_from(["start", "end", "middle", "behind"]),
    st.integers(0, 5000),
    st.sampled_from([4096, 256 * 1024, MIB - 1, MIB, 8 * MIB - 5, 8 * MIB, 2**33]),
)
STARTS = st.sampled_from([0, 0, 1, 4096, MIB])  # in the content: where files are alike and where not


def place(node: Node, offset: int | str) -> int:
    """Return the file offset that a word means for a file."""
    if isinstance(offset, int):
        return offset
    size = node.data.size_bytes
    return {"start": 0, "end": size, "middle": size // 2, "behind": size + 10_000}[offset]


class DataRules(NameRules):
    """Rules for open, read, write, truncate, fsync and release."""

    @initialize(
        chunking=st.sampled_from(Chunking),
        limits=st.sampled_from([(2 * MIB, MIB), (64 * MIB, 1024 * MIB)]),
        hidden=st.booleans(),
        sizes=st.lists(SIZES, min_size=2, max_size=4),
        kind=st.integers(0, KINDS - 1),
    )
    def begin(self, chunking: Chunking, limits: tuple[int, int], hidden: bool, sizes: list[int], kind: int) -> None:
        """Open a new file system; begin with some sealed files that are alike, each in a directory."""
        self.start(chunking=chunking, dirty_limit=limits[0], cache_limit=limits[1], hidden=hidden)
        for number, size in enumerate(sizes):
            self.mkdir(ROOT, b"abcd"[number : number + 1], ME, 0o755)
            parent = self.model.lookup(ROOT, b"abcd"[number : number + 1])
            self.create(parent, b"a", ME, 0o644)
            self.write_pieces(*self.handles[-1], 0, content(kind, size + 3000))
            for model_id in (parent, self.handles[-1][0]):
                self.set_xattr(model_id, b"user.a", b"of the beginning")
        self.close_all()
        self.fs.commit()

    def a_file(self, pick: int) -> int | None:
        """Pick a regular file that has a name."""
        files = self.reachable(lambda node: node.is_file)
        return files[pick % len(files)] if files else None

    def a_handle(self, pick: int) -> tuple[int, int]:
        """Pick an open file: (the model's id, file handle)."""
        return self.handles[pick % len(self.handles)]

    # -- opening and closing ---------------------------------------------------------------------------------

    @rule(pick=PICK)
    def open(self, pick: int) -> None:
        """Open something for reading and writing (what is no file refuses)."""
        self.open_inode(self.rather(pick, lambda node: node.is_file))

    def open_inode(self, model_id: int) -> None:
        """Open an inode and keep it open."""
        done = self.both(
            lambda: self.fs.open(self.inodes[model_id], os.O_RDWR), lambda now: self.model.open(model_id)
        )
        if done:
            self.handles.append((model_id, done[0]))

    @precondition(lambda self: self.handles)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        """Close a file; the last close of an unlinked one ends it."""
        self.close_handle(pick % len(self.handles))

    def close_handle(self, index: int) -> None:
        """Close one of the open files."""
        model_id, handle = self.handles.pop(index)
        self.fs.release(handle)
        self.close_in_model(model_id)

    # -- writing ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, offset=OFFSETS, size=SIZES, kind=st.integers(0, KINDS - 1), start=STARTS)
    def write(self, pick: int, offset: int | str, size: int, kind: int, start: int) -> None:
        """Write anywhere into an open file, named or not."""
        model_id, handle = self.a_handle(pick)
        first = place(self.model.live.nodes[model_id], offset)
        self.write_pieces(model_id, handle, first, content(kind, size, start))

    @rule(pick=PICK, offset=OFFSETS, size=SIZES, kind=st.integers(0, KINDS - 1), start=STARTS)
    def edit(self, pick: int, offset: int | str, size: int, kind: int, start: int) -> None:
        """Open, write anywhere, close."""
        model_id = self.a_file(pick)
        if model_id is not None:
            self.open_inode(model_id)
            first = place(self.model.live.nodes[model_id], offset)
            self.write_pieces(*self.handles[-1], first, content(kind, size, start))
            self.close_handle(len(self.handles) - 1)

    def write_pieces(self, model_id: int, handle: int, first: int, data: bytes) -> None:
        """Write in pieces of 1 MiB, as the kernel does."""
        for position in range(0, len(data), MIB) or [0]:
            self.write_piece(model_id, handle, first + position, data[position : position + MIB])

    def write_piece(self, model_id: int, handle: int, offset: int, piece: bytes) -> None:
        """Make one write request."""
        done = self.both(
            lambda: self.fs.write(handle, offset, piece),
            lambda now: self.model.write(model_id, offset, piece, now),
        )
        assert done is not None and done[0] == len(piece)

    @rule(pick=PICK, size=OFFSETS, of_open=st.booleans())
    def truncate(self, pick: int, size: int | str, of_open: bool) -> None:
        """Change a size in either direction; that of an open file, unlinked or not, if there is one."""
        model_id = self.rather(pick, lambda node: node.is_file)
        if of_open and self.handles:
            model_id = self.a_handle(pick)[0]
        node = self.model.live.nodes[model_id]
        size_bytes = place(node, size) if stat.S_ISREG(node.mode) else 10

        def model(now: Window) -> int:
            self.model.setattr(model_id, now, size_bytes=size_bytes)
            return model_id

        change = SetAttr(size_bytes=size_bytes)
        self.both(lambda: self.fs.setattr(self.inodes[model_id], change, ME), model)

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, datasync=st.booleans())
    def fsync(self, pick: int, datasync: bool) -> None:
        """Sync one file."""
        self.fs.fsync(self.a_handle(pick)[1], datasync)

    # -- reading ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.handles)
    @rule(pick=PICK, offset=OFFSETS, size=SIZES)
    def read(self, pick: int, offset: int | str, size: int) -> None:
        """Read anywhere, also behind the end, also what is dirty; then all of it."""
        model_id, handle = self.a_handle(pick)
        node = self.model.live.nodes[model_id]
        for first, count in [(place(node, offset), size), *node.data.telling_ranges()]:
            self.fs.run(comparison.check_range, self.fs.filesystem, b"an open file", handle, node, first, count)
