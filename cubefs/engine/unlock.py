"""Opening a file system: superblock, key slots, keys.

Must never: keep the passphrase or the master key, or put either into a message.

Synchronous, for worker threads: the key derivation takes time and memory on purpose.
"""

from __future__ import annotations

import contextlib

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


def unlock(store: Store, secret_text: str) -> tuple[Superblock, bytes, Keyring]:
    """Open the file system with a passphrase or its recovery key: superblock, its object's bytes, keys.

    Raises as `read_superblock`; WrongPassphraseError when no slot opens; IntegrityError when there is no
    usable slot.
    """
    superblock, superblock_bytes = read_superblock(store)
    slots = read_slots(store)
    if not slots:
        raise NotCubefsError(
            f"{store.describe()} has lost its key slots ({names.KEYS}*): without a copy of one, nobody can open it"
        )
    master = keys.unlock(slots, secret_text=secret_text, uuid=superblock.uuid)
    return superblock, superblock_bytes, Keyring.from_master(master)
