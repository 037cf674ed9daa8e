"""Tells whether two trees are the same, and whether one tree is still exactly what it was.

The judge of two trees is the demo's; here is what only tests need on top of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from contrib.demo.compare import compare_trees, shown

_SHOWN = 20  # differences in one message


class Facts(NamedTuple):
    """Everything that stat(2) and its relatives say of one entry, and a digest of its contents."""

    inode: int
    mode: int
    nlink: int
    owner: tuple[int, int]
    size_bytes: int
    blocks: int
    rdev: int
    mtime_ns: int
    ctime_ns: int
    xattrs: dict[str, bytes]
    contents: bytes  # digest of a file, target of a symlink


def assert_same(expected: Path, actual: Path) -> None:
    """Fail with the differences between two trees: all that a restore must bring back."""
    differences = compare_trees(expected, actual).differences
    assert not differences, f"{len(differences)} differences:\n" + "\n".join(differences[:_SHOWN])


def facts(root: Path, *, skip: frozenset[str] = frozenset()) -> dict[str, Facts]:
    """Return what is known of every entry below `root`, and of itself as `.`; `skip`: names in the root."""
    found = {".": _facts_of(root)}
    pending = [""]
    while pending:
        below = pending.pop()
        for entry in os.scandir(root / below):
            name = below + entry.name
            if name not in skip:
                found[shown(name)] = _facts_of(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{name}/")
    return found


def _facts_of(path: Path) -> Facts:
    status = path.lstat()
    contents = b""
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            contents = hashlib.file_digest(file, "sha256").digest()
    elif stat.S_ISLNK(status.st_mode):
        contents = os.fsencode(path.readlink())
    return Facts(
        inode=status.st_ino,
        mode=status.st_mode,
        nlink=status.st_nlink,
        owner=(status.st_uid, status.st_gid),
        size_bytes=status.st_size,
        blocks=status.st_blocks,
        rdev=status.st_rdev,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
        xattrs={name: os.getxattr(path, name, follow_symlinks=False) for name in sorted(listed(path))},
        contents=contents,
    )


def listed(path: Path) -> list[str]:
    """Return the names of the extended attributes of `path` itself."""
    return os.listxattr(path, follow_symlinks=False)
