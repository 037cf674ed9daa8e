"""Read-after-write verification: an object counts as stored when it has been read back and found identical.

Must never: decide what a failure means for the caller's data, or retry an error of the store (retry.py does).
"""

from __future__ import annotations

import enum

from cubefs.errors import ObjectExistsError, ObjectMissingError, StoreLiesError
from cubefs.store.base import Store

ATTEMPTS = 3  # a store that is wrong three times in a row is not having an accident


class Verify(enum.Enum):
    """How much is read back. The value is what `pack.verified_how` records."""

    FULL = "full"  # every byte
    HEAD = "head"  # existence and size only


def put_verified(
    store: Store,
    name: str,
    data: bytes | memoryview,
    *,
    policy: Verify = Verify.FULL,
    attempts: int = ATTEMPTS,
) -> str:
    """Put an object, replacing what was there, and read it back; return how it was verified.

    Wrong or missing on reading back: put again, `attempts` times in all, then StoreLiesError.
    """
    for _ in range(attempts):
        store.put(name, data)
        if _is_there(store, name, data, policy):
            return policy.value
    raise StoreLiesError(
        f"{store.describe()} accepted {name} {attempts} times, but what is read back differs: "
        "do not trust this store"
    )


def put_new_verified(store: Store, name: str, data: bytes | memoryview, *, attempts: int = ATTEMPTS) -> None:
    """Create an object exclusively and read it back in full.

    A name taken by exactly these bytes is success: they are those of our own earlier attempt. Raises
    ObjectExistsError when somebody else's bytes are there, StoreLiesError when the store took ours and
    returns others.
    """
    created = True
    try:
        store.put_new(name, data)
    except ObjectExistsError:
        created = False
    for _ in range(attempts):
        if _is_there(store, name, data, Verify.FULL):
            return
    if not created:
        raise ObjectExistsError(f"{name} exists already in {store.describe()}, with other contents")
    raise StoreLiesError(
        f"{store.describe()} accepted {name}, but what is read back differs: do not trust this store"
    )


def _is_there(store: Store, name: str, data: bytes | memoryview, policy: Verify) -> bool:
    try:
        if policy is Verify.HEAD:
            return store.head(name).size_bytes == len(data)
        return store.get(name) == data
    except ObjectMissingError:
        return False
