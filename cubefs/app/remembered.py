"""What a cache directory remembers of its file system, so that it can be mounted while the store is down.

The file `locks` holds the store's URL, the superblock and the key slots as they were at the last mount: nothing
that the store does not hold, and nothing that opens without the passphrase.
Must never: be trusted over the store when the store answers.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from cubefs.app import cache
from cubefs.engine.packs import sync_directory
from cubefs.engine.unlock import Locks
from cubefs.errors import CubefsError, LocalDiskError, UsageError
from cubefs.visible import safe

LOCKS = "locks"
_FILE_MAX_BYTES = 1024 * 1024


def remember(directory: Path, *, url: str, locks: Locks) -> None:
    """Write what the store says now; durable on return. Raises LocalDiskError."""
    fields = {
        "url": url,
        "superblock": locks.superblock_bytes.hex(),
        "slots": {name: data.hex() for name, data in sorted(locks.slots.items())},
    }
    text = json.dumps(fields, indent=1).encode("ascii") + b"\n"
    path = directory / LOCKS
    temporary = directory / f".{LOCKS}-{secrets.token_hex(4)}"
    try:
        if path.exists() and path.read_bytes() == text:
            return
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, text)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path)
        sync_directory(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LocalDiskError(f"cannot write {safe(path)}: {error.strerror}") from error


def find_remembered(url: str, *, given: Path | None) -> Locks | None:
    """Return what the cache directory of the file system at `url` remembers.

    given: the cache directory that the user chose; otherwise all in the usual place are looked at. Raises
    UsageError when there are several: another file system was made at that URL since, and nobody here knows which
    is there.
    """
    chosen = cache.chosen_directory(given)
    directories = [chosen] if chosen else sorted(cache.base_directory().glob("*"))
    found = {directory: locks for directory in directories if (locks := _locks(directory, url)) is not None}
    if len(found) > 1:
        raise UsageError(
            f"the store does not answer, and {len(found)} cache directories are of file systems at this URL:"
            f" choose one with --cache-dir ({', '.join(safe(directory) for directory in found)})"
        )
    return next(iter(found.values()), None)


def _locks(directory: Path, url: str) -> Locks | None:
    fields = _read(directory / LOCKS)
    if fields is None or fields.get("url") != url:
        return None
    try:
        slots = {str(name): bytes.fromhex(data) for name, data in fields["slots"].items()}
        locks = Locks(bytes.fromhex(fields["superblock"]), slots)
        return locks if cache.is_owned_by(directory, locks.superblock.uuid) else None
    except (CubefsError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(_FILE_MAX_BYTES))
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None
