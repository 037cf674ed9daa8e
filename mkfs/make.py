"""Makes a file system in a store.

Must never: overwrite a file system, or remove an object that is not recognisably left by an interrupted mkfs.

Write order, and what a crash leaves:
1. remove leftovers of an interrupted mkfs                   fewer leftovers
2. key slots, base 0                                         leftovers, removed by the next mkfs
3. the superblock, by a conditional put: the decision        a file system
4. read everything back once more, and mend it: another mkfs in the same store, which has lost at step 3, may
   have taken our objects for leftovers at its step 1        a file system, perhaps with one object missing;
                                                             nothing was in it, and mkfs had not succeeded
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from cubefs.db.image import create_image
from cubefs.engine.metalog import seal_base
from cubefs.errors import (
    AlreadyExistsError,
    IntegrityError,
    NotCubefsError,
    ObjectExistsError,
    ObjectMissingError,
    UnsupportedVersionError,
    UsageError,
)
from cubefs.format import envelope, keys, names
from cubefs.format.keys import DEFAULT_KDF, KdfParams, Keyring, SlotKind, object_hash
from cubefs.format.superblock import UUID_BYTES, Superblock
from cubefs.format.version import FORMAT_VERSION
from cubefs.model import Chunking
from cubefs.store.base import Store
from cubefs.store.verify import put_new_verified, put_verified


class MadeFileSystem(NamedTuple):
    """What mkfs tells its user."""

    uuid: bytes
    recovery_key_text: str  # shown once, kept nowhere


def make_file_system(
    store: Store,
    *,
    passphrase: str,
    chunking: Chunking,
    kdf: KdfParams = DEFAULT_KDF,
    now_ns: int,
    random: Callable[[int], bytes] = os.urandom,
    uid: int | None = None,
    gid: int | None = None,
) -> MadeFileSystem:
    """Make an empty file system; on return it is complete in the store and read back. For a worker thread.

    The root directory belongs to `uid` and `gid`, by default the calling process's. Raises
    AlreadyExistsError when the store holds a file system, or gets one meanwhile; UsageError for an unusable
    passphrase.
    """
    _check_passphrase(passphrase)
    _check_vacant(store)
    _remove_leftovers(store)
    superblock = Superblock(version=FORMAT_VERSION, uuid=random(UUID_BYTES))
    superblock_bytes = superblock.encode()
    master = random(keys.KEY_BYTES)
    recovery_secret, recovery_text = keys.new_recovery_key(random=random)
    secrets = {
        SlotKind.PASSPHRASE: passphrase.encode("utf-8", "surrogateescape"),
        SlotKind.RECOVERY: recovery_secret,
    }
    objects = _seal_slots(master, secrets, superblock=superblock, kdf=kdf, random=random)
    with tempfile.TemporaryDirectory(prefix="cubefs-mkfs-") as directory:
        image = Path(directory) / "image.sqlite"
        create_image(
            image,
            uuid=superblock.uuid,
            chunking=chunking,
            now_ns=now_ns,
            uid=os.getuid() if uid is None else uid,
            gid=os.getgid() if gid is None else gid,
        )
        objects |= seal_base(
            image,
            log_key=Keyring.from_master(master).log_key,
            uuid=superblock.uuid,
            seq=0,
            chain_hash=object_hash(superblock_bytes),
        )
    _write(store, objects, superblock_bytes)
    return MadeFileSystem(superblock.uuid, recovery_text)


def _check_passphrase(passphrase: str) -> None:
    if not passphrase:
        raise UsageError("the passphrase is empty: choose one that nobody guesses")
    if keys.parse_recovery_key(passphrase) is not None:
        # `unlock` would take it for a recovery key, and try it on no passphrase slot
        raise UsageError("the passphrase has the form of a cubefs recovery key: choose another one")


def _check_vacant(store: Store) -> None:
    """Raise AlreadyExistsError when there is a superblock, whatever it says."""
    try:
        data = store.get(names.SUPERBLOCK)
    except ObjectMissingError:
        return
    advice = "choose another store (mkfs.cubefs never overwrites one)"
    try:
        uuid = Superblock.decode(data).uuid.hex()
    except UnsupportedVersionError as error:
        raise AlreadyExistsError(f"{store.describe()} holds a newer cubefs file system; {advice}") from error
    except NotCubefsError as error:
        raise AlreadyExistsError(
            f"{store.describe()} holds an object `{names.SUPERBLOCK}` that is not a valid superblock; {advice}"
        ) from error
    raise AlreadyExistsError(f"{store.describe()} holds the cubefs file system {uuid}; mount it, or {advice}")


def _remove_leftovers(store: Store) -> None:
    """Remove what an interrupted mkfs left. Raises AlreadyExistsError when there is more than that."""
    for prefix in (names.PACKS, names.META):
        found = next(iter(store.list(prefix)), None)
        if found is not None:
            raise AlreadyExistsError(
                f"{store.describe()} holds data of a file system ({found.name}) whose superblock is missing; "
                "put back a copy of its object `cubefs`, or choose another store"
            )
    leftovers = list(_leftovers(store))  # all of them are looked at before the first is removed
    for name in leftovers:
        _check_vacant(store)  # another mkfs may have finished meanwhile: then it is no leftover
        store.delete(name)


def _leftovers(store: Store) -> Iterator[str]:
    """Yield the objects of an interrupted mkfs; refuse a store where somebody else uses these names."""
    for prefix, is_ours in ((names.KEYS, _is_key_slot), (names.BASE, _is_sealed)):
        for info in store.list(prefix):
            data = _find(store, info.name)
            if data is not None and not is_ours(data):
                raise AlreadyExistsError(
                    f"{store.describe()} holds {info.name}, which is not an object of cubefs; choose an empty store"
                )
            yield info.name


def _is_key_slot(data: bytes) -> bool:
    try:
        keys.slot_kind(data)
    except (IntegrityError, UnsupportedVersionError):
        return False
    return True


def _is_sealed(data: bytes) -> bool:
    return data.startswith(envelope.MAGIC)


def _seal_slots(
    master: bytes,
    secrets: dict[SlotKind, bytes],
    *,
    superblock: Superblock,
    kdf: KdfParams,
    random: Callable[[int], bytes],
) -> dict[str, bytes]:
    """Return the key slots, object name to bytes. The random part of a name keeps two mkfs apart."""
    return {
        names.key_slot(f"{kind.name.lower()}-{random(4).hex()}"): keys.seal_slot(
            master, secret=secret, kind=kind, uuid=superblock.uuid, params=kdf, random=random
        )
        for kind, secret in secrets.items()
    }


def _write(store: Store, objects: dict[str, bytes], superblock_bytes: bytes) -> None:
    """Put `objects`, then the superblock, then see that all is there."""
    try:
        for name, data in objects.items():
            put_new_verified(store, name, data)
        put_new_verified(store, names.SUPERBLOCK, superblock_bytes)  # from here on there is a file system
    except ObjectExistsError as error:
        _withdraw(store, objects)
        _check_vacant(store)
        raise AlreadyExistsError(
            f"another mkfs.cubefs is at work on {store.describe()}; let it finish, or try again"
        ) from error
    for name, data in objects.items():
        if _find(store, name) != data:
            put_verified(store, name, data)


def _withdraw(store: Store, objects: dict[str, bytes]) -> None:
    """Remove our own objects: the store belongs to another mkfs."""
    for name, data in objects.items():
        if _find(store, name) == data:
            store.delete(name)


def _find(store: Store, name: str) -> bytes | None:
    try:
        return store.get(name)
    except ObjectMissingError:
        return None
