"""Compares two directory trees the way a restore must be judged: everything that a backup has to bring back.

Knows nothing of cubefs, and trusts no tool: contents, types, modes, owners, times in ns, hard links, symlink
targets, extended attributes, device numbers, and that sparse files are still sparse.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CHUNK_BYTES = 1 << 20
SPARSE_SLACK_BYTES = 128 << 10  # two file systems may round a data range up differently
# Set by the machine's policy where the file lies, not by who copied it there.
IGNORED_XATTRS = frozenset({"security.selinux"})


class Comparison(NamedTuple):
    """What was looked at, and every difference in one line each."""

    entries: int
    content_bytes: int
    differences: list[str]


class Entry(NamedTuple):
    """One name of a tree."""

    path: Path
    status: os.stat_result


def compare_trees(expected: Path, actual: Path) -> Comparison:
    """Compare two trees, their roots included. Access times and ctimes are no part of a backup."""
    left, right = _entries(expected), _entries(actual)
    differences = [f"{shown(name)}: missing" for name in left.keys() - right.keys()]
    differences += [f"{shown(name)}: not in the original" for name in right.keys() - left.keys()]
    content_bytes = 0
    for name in sorted(left.keys() & right.keys()):
        found = list(_differences(left[name], right[name]))
        if not found and stat.S_ISREG(left[name].status.st_mode):
            content_bytes += left[name].status.st_size
            try:
                if not _same_contents(left[name].path, right[name].path):
                    found.append("contents differ")
            except OSError as error:
                found.append(f"cannot be read: {error.strerror}")
        differences += [f"{shown(name)}: {what}" for what in found]
    for group in _link_groups(left) ^ _link_groups(right):
        names = ", ".join(shown(name) for name in sorted(group))
        differences.append(f"hard links not the same: {names}")
    return Comparison(len(left), content_bytes, differences)


def shown(name: str) -> str:
    """Return a file name for a terminal: what is not printable UTF-8 is escaped."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _entries(root: Path) -> dict[str, Entry]:
    """Return all entries by their path relative to the root, `.` being the root itself."""
    entries = {".": Entry(root, root.lstat())}
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(root / below) as found:
            for item in found:
                entry = Entry(Path(item.path), item.stat(follow_symlinks=False))
                entries[below + item.name] = entry
                if stat.S_ISDIR(entry.status.st_mode):
                    pending.append(f"{below}{item.name}/")
    return entries


def _differences(left: Entry, right: Entry) -> Iterator[str]:
    a, b = left.status, right.status
    if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
        yield f"type {stat.filemode(a.st_mode)[0]} became {stat.filemode(b.st_mode)[0]}"
        return
    if a.st_mode != b.st_mode:
        yield f"mode {stat.S_IMODE(a.st_mode):o} became {stat.S_IMODE(b.st_mode):o}"
    if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
        yield f"owner {a.st_uid}:{a.st_gid} became {b.st_uid}:{b.st_gid}"
    if a.st_mtime_ns != b.st_mtime_ns:
        yield f"mtime {a.st_mtime_ns} ns became {b.st_mtime_ns} ns"
    if _xattrs(left.path) != _xattrs(right.path):
        yield f"xattrs {_xattrs(left.path)} became {_xattrs(right.path)}"
    if stat.S_ISREG(a.st_mode):
        if a.st_size != b.st_size:
            yield f"size {a.st_size} became {b.st_size}"
        elif _is_sparse(a) and b.st_blocks * 512 > a.st_blocks * 512 + SPARSE_SLACK_BYTES:
            yield f"sparse file of {a.st_blocks * 512} bytes on disk now takes {b.st_blocks * 512}"
    elif stat.S_ISLNK(a.st_mode):
        if left.path.readlink() != right.path.readlink():
            yield f"target {shown(str(left.path.readlink()))} became {shown(str(right.path.readlink()))}"
    elif (stat.S_ISCHR(a.st_mode) or stat.S_ISBLK(a.st_mode)) and a.st_rdev != b.st_rdev:
        yield f"device {_device(a)} became {_device(b)}"


def _device(status: os.stat_result) -> str:
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _is_sparse(status: os.stat_result) -> bool:
    return status.st_blocks * 512 + SPARSE_SLACK_BYTES < status.st_size


def _xattrs(path: Path) -> dict[str, bytes]:
    names = (name for name in os.listxattr(path, follow_symlinks=False) if name not in IGNORED_XATTRS)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _same_contents(left: Path, right: Path) -> bool:
    with left.open("rb") as a, right.open("rb") as b:
        while True:
            chunk = a.read(CHUNK_BYTES)
            if chunk != b.read(CHUNK_BYTES):
                return False
            if not chunk:
                return True


def _link_groups(entries: dict[str, Entry]) -> set[frozenset[str]]:
    """Return the sets of names that are one file."""
    groups: dict[tuple[int, int], set[str]] = defaultdict(set)
    for name, entry in entries.items():
        if entry.status.st_nlink > 1 and not stat.S_ISDIR(entry.status.st_mode):
            groups[entry.status.st_dev, entry.status.st_ino].add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}
