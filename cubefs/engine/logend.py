"""The end of the metadata log: putting the next object there, and finding out whose it is.

Who holds `meta/<seq>` is decided here and nowhere else. Must never: replace an object that has not been seen to be
our own, or take one wrong answer of the store for another writer, a fork or a rollback.

Synchronous, for worker threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cubefs.engine.metalog import Head
from cubefs.errors import (
    FencedError,
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    StoreLiesError,
    UnsupportedVersionError,
)
from cubefs.format import envelope, names
from cubefs.format.envelope import ObjectKind
from cubefs.format.keys import SALT_BYTES, object_hash
from cubefs.store.base import Store
from cubefs.store.meter import Meter
from cubefs.store.verify import Confirmation, Done, Look, Outcome, put_new_verified, put_verified

_SALT = slice(envelope.HEADER_BYTES - SALT_BYTES, envelope.HEADER_BYTES)


def ship(
    store: Store,
    *,
    seq: int,
    body: bytes,
    log_key: bytes,
    uuid: bytes,
    settle_s: float = 0.0,
    meter: Meter | None = None,
) -> None:
    """Put a sealed log object; on return it is in the store, read back. May be repeated with the same bytes.

    Raises FencedError when another writer's object has that number: one that opens under our key, for what a
    line or a disk has spoilt proves nothing. StoreLiesError when what is there is neither.
    """
    name = names.meta(seq)
    try:
        put_new_verified(store, name, body, settle_s=settle_s, meter=meter)
        return
    except (ObjectExistsError, StoreLiesError) as error:
        is_created = isinstance(error, StoreLiesError)
        found = store.get(name, newest=True)  # missing: nobody knows whose it is; the caller tries again
    if found == body:
        return
    if not _is_spoilt_copy(found, body, is_created=is_created):
        if _opens(found, seq, log_key=log_key, uuid=uuid):
            raise _fenced(store, name)
        raise _nobodys(store, name)
    # the name is ours, so the damage can be put right
    put_verified(store, name, body, settle_s=settle_s, meter=meter)


def check_last(store: Store, *, seq: int, header: bytes, log_key: bytes, uuid: bytes) -> None:
    """Check that the log object we wrote last is still ours: look before the next one is written behind it.

    Not every store lets exactly one of two simultaneous conditional puts succeed (Swift does not): what was ours
    when it was read back may be another writer's a moment later, and the next object must not continue it.
    header: the first HEADER_BYTES of our object. Raises FencedError as `ship` does; StoreError for anything else.
    """
    name = names.meta(seq)
    if store.get_range(name, start=0, length=len(header)) == header:
        return
    found = store.get(name, newest=True)
    if found[_SALT] == header[_SALT]:
        return
    if _opens(found, seq, log_key=log_key, uuid=uuid):
        raise _fenced(store, name)
    raise _nobodys(store, name)


def check_head(store: Store, head: Head, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Check that the store still holds the log that this machine knows, up to and including `head`.

    Looks as patiently as after a put: one wrong answer proves nothing. Raises IntegrityError when the object of
    that number is gone (the store was rolled back) or has other bytes (a fork).
    """
    name = names.meta(head.seq) if head.seq else names.SUPERBLOCK
    confirmation = Confirmation()
    while True:
        outcome = _look_at(store, name, head.chain_hash)
        match confirmation.next(outcome):
            case Done():
                return
            case Look(wait_s):
                sleep(wait_s)
            case _ if outcome is Outcome.MISSING:
                raise IntegrityError(
                    f"{name} is missing from {store.describe()}, though this machine has seen it there: the store"
                    " was set back to an older state"
                )
            case _:
                raise IntegrityError(
                    f"{name} in {store.describe()} is not the one that this machine knows: the file system was"
                    " forked or replaced"
                )


def _look_at(store: Store, name: str, chain_hash: bytes) -> Outcome:
    try:
        data = store.get(name, newest=True)
    except ObjectMissingError:
        return Outcome.MISSING
    return Outcome.SAME if object_hash(data) == chain_hash else Outcome.DIFFERENT


def _fenced(store: Store, name: str) -> FencedError:
    return FencedError(
        f"another machine has written {name} to {store.describe()}: it has taken this file system over, this one "
        "must not write any more"
    )


def _nobodys(store: Store, name: str) -> StoreLiesError:
    return StoreLiesError(f"{store.describe()} holds a {name} that is neither ours nor any other writer's")


def _opens(found: bytes, seq: int, *, log_key: bytes, uuid: bytes) -> bool:
    """Tell whether `found` is a whole log object of that number, by a writer of this file system."""
    try:
        envelope.open_sealed(found, log_key=log_key, uuid=uuid, kind=ObjectKind.META, seq=seq)
    except UnsupportedVersionError:
        return True  # a newer version has taken over
    except IntegrityError:
        return False
    return True


def _is_spoilt_copy(found: bytes, body: bytes, *, is_created: bool) -> bool:
    """Tell whether `found` is our own object, spoilt on its way.

    The header ends with a random salt: nobody else's object shares it. What ends before the salt may be anybody's,
    unless the store said that it was us who took the name.
    """
    if len(found) < envelope.HEADER_BYTES:
        return is_created and body.startswith(found)
    return found[_SALT] == body[_SALT]
