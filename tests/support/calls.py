"""Short ways to do with a FileSystem what a program does with several calls."""

from __future__ import annotations

import os
import stat

from cubefs.fs.filesystem import FileSystem
from cubefs.model import ROOT_INODE, Attr, Caller, SetAttr

ME = Caller(uid=0, gid=0, umask=0o022)
REQUEST_BYTES = 1024 * 1024  # the kernel's largest read and write


async def make_file(fs: FileSystem, name: bytes, data: bytes = b"", *, parent: int = ROOT_INODE) -> int:
    """Create a file with this content and close it; return its inode number."""
    handle, attr = await fs.create(parent, name, stat.S_IFREG | 0o644, os.O_RDWR, ME)
    try:
        await write_all(fs, handle, data)
    finally:
        fs.release(handle)
    return attr.ino


async def write_all(fs: FileSystem, handle: int, data: bytes, *, offset: int = 0) -> None:
    """Write data in requests as the kernel makes them."""
    for start in range(0, len(data), REQUEST_BYTES):
        piece = data[start : start + REQUEST_BYTES]
        assert await fs.write(handle, offset + start, piece) == len(piece)


async def write_at(fs: FileSystem, inode: int, offset: int, data: bytes) -> None:
    """Open, write, close."""
    handle = await fs.open(inode, os.O_RDWR)
    try:
        await write_all(fs, handle, data, offset=offset)
    finally:
        fs.release(handle)


async def read_all(fs: FileSystem, inode: int, *, offset: int = 0, size: int | None = None) -> bytes:
    """Open, read to the end (or `size` bytes), close."""
    stop = fs.getattr(inode).size_bytes if size is None else offset + size
    handle = await fs.open(inode, os.O_RDONLY)
    try:
        pieces = []
        while offset < stop:
            piece = bytes(await fs.read(handle, offset, min(REQUEST_BYTES, stop - offset)))
            if not piece:
                break
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)
    finally:
        fs.release(handle)


async def truncate(fs: FileSystem, inode: int, size_bytes: int) -> Attr:
    """Set a file's size."""
    return await fs.setattr(inode, SetAttr(size_bytes=size_bytes), ME)


def list_names(fs: FileSystem, directory: int = ROOT_INODE, *, limit: int = 100) -> list[bytes]:
    """Return the names in a directory, page by page."""
    names: list[bytes] = []
    after = 0
    while page := fs.readdir(directory, after, limit):
        names += [entry.name for entry in page]
        after = page[-1].next_id
    return names
