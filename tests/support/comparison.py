"""Compares what a FileSystem shows with a tree of the reference model: names, attributes, data, links.

Every function runs in the file system's loop. A difference is an AssertionError that names the path.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from cubefs.fs.filesystem import FileSystem
from cubefs.model import INODE_MASK, SNAPSHOT_SHIFT, Attr, DirEntry
from tests.support.reference_model import ROOT, SNAPSHOT_DIRECTORY, Node, Tree, Window

READ_MAX_BYTES = 1024 * 1024  # as the kernel asks


def check_attr(path: bytes, attr: Attr, node: Node, *, number: int = 0, hidden: bool = False) -> None:
    """Compare attributes, and let the model learn the times that only the clock knew.

    `number` is the snapshot's; `hidden`: the root does not show its virtual sub-directory. The allocated bytes
    are compared by `check_data`, once the data is settled.
    """
    if attr.ino == ROOT and not hidden:
        attr = attr._replace(nlink=attr.nlink - 1)
    assert attr.ino >> SNAPSHOT_SHIFT == number, f"{path!r}: inode {attr.ino:#x} not of snapshot {number}"
    for name in ("mode", "uid", "gid", "nlink", "rdev", "size_bytes"):
        real, expected = getattr(attr, name), getattr(node, name)
        assert real == expected, f"{path!r}: {name} is {real}, expected {expected}"
    for name in ("mtime_ns", "ctime_ns", "btime_ns"):
        real, expected = getattr(attr, name), getattr(node, name)
        if isinstance(expected, Window):
            inside = expected.start_ns <= real <= expected.stop_ns
            assert inside, f"{path!r}: {name} is {real}, expected within {expected}"
            setattr(node, name, real)
        else:
            assert real == expected, f"{path!r}: {name} is {real}, expected {expected}"


def list_directory(filesystem: FileSystem, directory: int, *, limit: int) -> list[DirEntry]:
    """List a directory page by page; assert what holds for every listing."""
    entries: list[DirEntry] = []
    after = 0
    while page := filesystem.readdir(directory, after, limit):
        assert len(page) <= limit
        for entry in page:
            assert entry.next_id > after, "readdir does not move on"
            after = entry.next_id
        entries += page
    names = [entry.name for entry in entries]
    assert len(names) == len(set(names)), f"readdir shows a name twice: {names}"
    assert b"." not in names and b".." not in names
    return entries


async def check_tree(
    filesystem: FileSystem,
    tree: Tree,
    *,
    root: int,
    limit: int,
    inodes: dict[int, int],
    settled: bool,
    hidden: bool,
) -> None:
    """Compare everything below `root` with `tree`.

    `inodes` maps the model's ids to inode numbers without the snapshot; `settled`: no data is dirty; `hidden`:
    the root does not list `snapshots`.
    """
    number = root >> SNAPSHOT_SHIFT
    check_attr(b"/", filesystem.getattr(root), tree.nodes[ROOT], number=number, hidden=hidden)
    await check_directory(
        filesystem, tree, ROOT, b"", root, limit=limit, inodes=inodes, settled=settled, hidden=hidden
    )


async def check_directory(
    filesystem: FileSystem, tree: Tree, model_id: int, path: bytes, directory: int, **rest: Any
) -> None:
    """Compare one directory's entries, and what is below them."""
    limit, inodes, settled = rest["limit"], rest["inodes"], rest["settled"]
    number = directory >> SNAPSHOT_SHIFT
    node = tree.nodes[model_id]
    entries = {entry.name: entry for entry in list_directory(filesystem, directory, limit=limit)}
    if directory == ROOT and not rest["hidden"]:
        assert entries.pop(SNAPSHOT_DIRECTORY, None) is not None, "snapshots/ is not listed in the root"
    assert sorted(entries) == sorted(node.entries), f"{path!r}: {sorted(entries)} != {sorted(node.entries)}"
    check_xattrs(filesystem, path, directory, node)
    for name, child_id in node.entries.items():
        child_path = path + b"/" + name
        attr = filesystem.lookup(directory, name)
        assert attr.ino & INODE_MASK == inodes[child_id], f"{child_path!r}: another inode than before"
        listed = entries[name].attr
        if not settled:  # data is being sealed meanwhile: the space in use moves
            listed = listed._replace(allocated_bytes=attr.allocated_bytes)
        assert listed == attr, f"{child_path!r}: readdir and lookup differ"
        assert filesystem.getattr(attr.ino) == attr, f"{child_path!r}: getattr and lookup differ"
        child = tree.nodes[child_id]
        check_attr(child_path, attr, child, number=number)
        if child.is_directory:
            await check_directory(filesystem, tree, child_id, child_path, attr.ino, **rest)
            continue
        check_xattrs(filesystem, child_path, attr.ino, child)
        if stat.S_ISLNK(child.mode):
            assert filesystem.readlink(attr.ino) == child.target, f"{child_path!r}: target"
        elif child.is_file:
            await check_data(filesystem, child_path, attr, child, settled=settled)


def check_xattrs(filesystem: FileSystem, path: bytes, inode: int, node: Node) -> None:
    """Compare the extended attributes of one inode."""
    names = filesystem.listxattr(inode)
    assert sorted(names) == sorted(node.xattrs), f"{path!r}: xattrs {names}, expected {sorted(node.xattrs)}"
    for name, value in node.xattrs.items():
        assert filesystem.getxattr(inode, name) == value, f"{path!r}: xattr {name!r}"


async def check_data(filesystem: FileSystem, path: bytes, attr: Attr, node: Node, *, settled: bool) -> None:
    """Compare a file's content where it was written and at the edges of its holes."""
    if settled:
        expected = node.data.allocated_bytes
        assert attr.allocated_bytes == expected, f"{path!r}: {attr.allocated_bytes} bytes in use, not {expected}"
    handle = await filesystem.open(attr.ino, os.O_RDONLY)
    try:
        for offset, size in node.data.telling_ranges():
            await check_range(filesystem, path, handle, node, offset, size)
    finally:
        filesystem.release(handle)


async def check_range(filesystem: FileSystem, path: bytes, handle: int, node: Node, offset: int, size: int) -> None:
    """Compare one range, read in pieces as the kernel would."""
    for position in range(offset, offset + size, READ_MAX_BYTES):
        count = min(READ_MAX_BYTES, offset + size - position)
        real, expected = (
            bytes(await filesystem.read(handle, position, count)),
            node.data.read(position, count),
        )
        if real != expected:
            first = next((i for i, (a, b) in enumerate(zip(real, expected, strict=False)) if a != b), None)
            where = f"differ first at {position + (first or 0)}" if first is not None else "differ in length"
            lengths = f"{len(real)} and {len(expected)} bytes at {position}"
            raise AssertionError(f"{path!r}: {lengths} {where}")
