"""Finds real files on this machine, always the same ones in the same order."""

from __future__ import annotations

import os
import stat
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# __pycache__ grows while Python runs; site-packages depends on who installed what.
SKIPPED_DIRECTORIES = frozenset({"__pycache__", "site-packages"})


class RealFile(NamedTuple):
    """A regular file that we may read."""

    path: Path
    size_bytes: int


def python_library() -> Path:
    """Return the directory of Python's own library."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def real_files(roots: Sequence[Path], *, max_bytes: int) -> Iterator[RealFile]:
    """Yield the readable files up to `max_bytes` long below `roots`, sorted within each, none twice."""
    seen: set[Path] = set()
    for root in roots:
        for directory, directories, names in os.walk(root):
            here = Path(directory)
            directories[:] = sorted(
                name for name in directories if name not in SKIPPED_DIRECTORIES and here / name not in seen
            )
            for name in sorted(names):
                path = here / name
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and status.st_size <= max_bytes and os.access(path, os.R_OK):
                    yield RealFile(path, status.st_size)
        seen.add(root)
