"""Owns where servers of the tests keep data that nobody needs afterwards.

Must never: keep anything.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
MEMORY_ENOUGH_BYTES = 4 << 30


def scratch_directory(name: str) -> Path:
    """Make a directory, in memory where that has room: servers create and sync many small files."""
    parent = MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_ENOUGH_BYTES else None
    return Path(tempfile.mkdtemp(prefix=f"cubefs-{name}-", dir=parent))
