"""The contract between cubefs and an object store, and the rules for object names.

Must never: retry, verify, log or know what an object means. Drivers implement this and nothing more; retry
and read-back stand beside them, each in one module.

What every driver owes:
- Synchronous. Called from worker threads, by many at once, on one instance.
- Names are relative, checked by `check_name`. No name is a directory of another (`a` and `a/b`): a driver may
  refuse the second with StoreError.
- An object appears whole or not at all, and is never changed except by another `put` of the whole.
- When `put` or `put_new` has returned, the object survives a power cut of the store and every later call,
  from any machine, sees it. After an error the object may be there or not.
- Raises only StoreError and its subclasses (and what a pace raises to give up, see `GivenUpError`); those marked
  retryable may go away by themselves. The message names the object and the store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from cubefs.errors import StoreError
from cubefs.model import MIB

NAME_MAX_BYTES = 512  # S3 allows 1024, and the URL's prefix comes on top
COMPONENT_MAX_BYTES = 200  # file systems allow 255
OBJECT_MAX_BYTES = 320 * MIB  # more than we ever write (a log object's body is bounded to 256 MiB)

# A leading dot is refused: it would hide objects, collide with a driver's temporary files and allow `..`.
_COMPONENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", re.ASCII)
_PARTIAL = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)


class ObjectInfo(NamedTuple):
    """What a store says about an object without reading it: a hint, nothing to rely on."""

    name: str
    size_bytes: int
    modified_ns: int  # by the store's clock, whose resolution may be a second


class GivenUpError(Exception):
    """Raised by a `Pace` whose waiting is over for good: somebody wants to stop. Drivers let it through."""


class Pace(Protocol):
    """What a driver asks about the speed of bodies: it moves them in small parts while a limit is set.

    Thread-safe; shared by all calls of a driver. `throttle.Throttle` is the one that limits. Limits may come and go
    while a body is under way, so that a driver asks again for every part. Waiting may raise GivenUpError.
    """

    def is_limited_up(self) -> bool:
        """Whether the next part of a body sent must be small and announced by `sending`."""

    def is_limited_down(self) -> bool:
        """Whether the next part of a body received must be small and reported to `received`."""

    def sending(self, byte_count: int) -> None:
        """Wait until `byte_count` more bytes may be sent."""

    def received(self, byte_count: int) -> None:
        """Count bytes that have arrived; wait until more may be asked for."""


class Store(Protocol):
    """An object store. See the module's text for what holds for every method."""

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Store `data` under `name`, replacing what was there."""

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """Store `data` under `name` if the name is free: of several callers anywhere exactly one succeeds.

        Raises ObjectExistsError when the name is taken. After an earlier error that may be by our own bytes:
        the caller finds out by reading back (`verify.put_new_verified`).
        """

    def get(self, name: str, *, newest: bool = False) -> bytes:
        """Return the whole object. ObjectMissingError; StoreError for one longer than OBJECT_MAX_BYTES.

        newest: for reading back; ask for the newest version where the store can be asked (Swift's X-Newest).
        """

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """Return exactly the bytes [start, start + length).

        Raises ObjectMissingError, or StoreError when the object ends earlier.
        """

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        """Return size and time of an object; `newest` as for `get`. Raises ObjectMissingError."""

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects whose names start with `prefix` and are greater than `start_after`.

        Ascending by the bytes of the name, lazily, in bounded memory, however many there are. An object put
        or deleted meanwhile may be listed or not. Files that are not ours are passed over.
        """

    def delete(self, name: str) -> None:
        """Remove an object. One that is not there is fine."""

    def delete_many(self, names: Iterable[str]) -> None:
        """Remove objects, in as few requests as the store allows. After an error some are gone."""

    def describe(self) -> str:
        """Return the URL, without secrets, for messages."""

    def now_ns(self) -> int:
        """Return the time by the store's clock, in ns since 1970."""

    def free_bytes(self) -> int | None:
        """Return how much more the store can take, None where it knows no limit. For `df`: a hint."""


def check_name(name: str) -> str:
    """Return `name`, or raise StoreError for one that no store of ours may see."""
    components = name.split("/")
    good = len(name) <= NAME_MAX_BYTES and all(
        len(component) <= COMPONENT_MAX_BYTES and _COMPONENT.fullmatch(component) for component in components
    )
    if not good:
        raise StoreError(f"unusable object name {name[:NAME_MAX_BYTES]!r}")
    return name


def is_name(name: str) -> bool:
    """Tell whether `check_name` would accept `name`: listings pass over anything else."""
    try:
        check_name(name)
    except StoreError:
        return False
    return True


def check_prefix(prefix: str) -> str:
    """Return `prefix` (the start of names, may be empty or end anywhere), or raise StoreError."""
    *whole, last = prefix.split("/")
    good = len(prefix) <= NAME_MAX_BYTES and all(_COMPONENT.fullmatch(component) for component in whole)
    if not good or not _PARTIAL.fullmatch(last):
        raise StoreError(f"unusable prefix of object names {prefix[:NAME_MAX_BYTES]!r}")
    return prefix


def check_range(name: str, *, start: int, length: int) -> None:
    """Raise StoreError for a range that no object can have."""
    if start < 0 or not 0 < length <= OBJECT_MAX_BYTES:
        raise StoreError(f"unusable range of {name}: {length} bytes from {start}")
