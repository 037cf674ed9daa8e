"""What the control socket answers about snapshots: names in and out, and POSIX's answers as sentences.

Must never: put a name on the wire that is not valid JSON text; `name_b64` carries what is not UTF-8.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cubefs.app.display import format_time, json_name
from cubefs.errors import AlreadyExistsError, CubefsError, PosixError, UsageError
from cubefs.fs.filesystem import FileSystem
from cubefs.model import NAME_MAX_BYTES, Snapshot
from cubefs.visible import safe


async def create(fs: FileSystem, name: bytes | None) -> dict[str, Any]:
    """Take a snapshot, named after the time when `name` is None; on return it is committed locally."""
    with _sentences(name or b""):
        return _fields(await fs.snapshot_create(name))


async def remove(fs: FileSystem, name: bytes) -> None:
    """Remove a snapshot."""
    with _sentences(name):
        await fs.snapshot_remove(name)


def listing(fs: FileSystem) -> list[dict[str, Any]]:
    """Return all snapshots, oldest first."""
    return [_fields(snapshot) for snapshot in sorted(fs.snapshot_list(), key=lambda each: each.number)]


def _fields(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "number": snapshot.number,
        **json_name(snapshot.name),
        "created": format_time(snapshot.created_ns),
        "created_ns": snapshot.created_ns,
    }


@contextmanager
def _sentences(name: bytes) -> Iterator[None]:
    try:
        yield
    except PosixError as error:
        shown = safe(name)
        sentences: dict[int, CubefsError] = {
            errno.EEXIST: AlreadyExistsError(f"there is already a snapshot named {shown}"),
            errno.ENOENT: CubefsError(f"there is no snapshot named {shown}; see: cubefs snapshot list"),
            errno.EINVAL: UsageError(f"{shown!r} cannot be the name of a snapshot"),
            errno.ENAMETOOLONG: UsageError(f"the name of a snapshot has at most {NAME_MAX_BYTES} bytes"),
            errno.EROFS: CubefsError("the file system is mounted read-only"),
            errno.EBUSY: CubefsError(f"the snapshot {shown} is in use: close what is open in it, then try again"),
        }
        raise sentences.get(error.errno, error) from error
