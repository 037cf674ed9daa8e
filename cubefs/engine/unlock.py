"""Opening a file system: superblock, key slots, keys.

Must never: keep the passphrase or the master key, or put either into a message.

Synchronous, for worker threads: the key derivation takes time and memory on purpose.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

from cubefs.errors import NotCubefsError, ObjectMissingError
from cubefs.format import keys, names
from cubefs.format.keys import Keyring
from cubefs.format.superblock import Superblock
from cubefs.store.base import Store


def read_superblock(store: Store) -> tuple[Superblock, bytes]:
    """Return the superblock and its object's bytes (whose hash starts the metadata log's chain).

    Raises NotCubefsError when the store holds no file system, UnsupportedVersionError for a newer one.
    """
    try:
        data = store.get(names.SUPERBLOCK)
    except ObjectMissingError as error:
        url = store.describe()
        raise NotCubefsError(f"no cubefs file system at {url}; make one with mkfs.cubefs {url}") from error
    try:
        return Superblock.decode(data), data
    except NotCubefsError as error:
        raise NotCubefsError(f"{store.describe()}: {error}") from error


def read_slots(store: Store) -> dict[str, bytes]:
    """Return the key slots, object name to bytes. At most one more than a file system may have is read."""
    slots: dict[str, bytes] = {}
    for info in store.list(names.KEYS):
        if names.parse_key_slot(info.name) is None:
            continue
        with contextlib.suppress(ObjectMissingError):  # removed since it was listed
            slots[info.name] = store.get(info.name)
        if len(slots) > keys.SLOTS_MAX_COUNT:
            break  # refused by keys.unlock
    return slots


class Locks(NamedTuple):
    """What a passphrase opens: everything needed from the store before the first look at its metadata."""

    superblock_bytes: bytes
    slots: Mapping[str, bytes]  # object name to bytes

    @property
    def superblock(self) -> Superblock:
        """The superblock. Raises as `read_superblock`."""
        return Superblock.decode(self.superblock_bytes)


def fetch_locks(store: Store) -> Locks:
    """Read superblock and key slots. Raises as `read_superblock`; NotCubefsError when there are no slots."""
    _, superblock_bytes = read_superblock(store)
    slots = read_slots(store) or read_slots(store)  # a listing has no checksum: once more before such a verdict
    if not slots:
        raise NotCubefsError(
            f"{store.describe()} has lost its key slots ({names.KEYS}*): without a copy of one, nobody can open it"
        )
    return Locks(superblock_bytes, slots)


def open_locks(locks: Locks, secret_text: str) -> Keyring:
    """Open with a passphrase or the recovery key: the file system's keys.

    WrongPassphraseError when no slot opens; IntegrityError when there is no usable slot.
    """
    master = keys.unlock(locks.slots, secret_text=secret_text, uuid=locks.superblock.uuid)
    return Keyring.from_master(master)


def unlock(store: Store, secret_text: str) -> tuple[Superblock, bytes, Keyring]:
    """Fetch and open in one go: superblock, its object's bytes, keys. Raises as `fetch_locks`, `open_locks`."""
    locks = fetch_locks(store)
    return locks.superblock, locks.superblock_bytes, open_locks(locks, secret_text)
