"""Opens a store by its URL. The only place that knows which drivers there are.

Must never: read or write an object.
"""

from __future__ import annotations

import os
from pathlib import Path

from cubefs.errors import NotCubefsError, StoreDeniedError, StoreError, UsageError
from cubefs.store.base import ObjectInfo, Pace, Store
from cubefs.store.local import LocalStore
from cubefs.store.throttle import Throttle, Throttled

__all__ = ["ObjectInfo", "Store", "open_store"]

SCHEMES = ("local", "s3", "swift")


def open_store(url: str, *, create: bool = False, throttle: Throttle | None = None) -> Store:
    """Open the store at `url`; with `create` (mkfs) a missing local directory is made, never a bucket.

    No object is asked for: a wrong bucket or password shows with the first call. With `throttle` all calls go
    at the speed it allows. Raises UsageError for a URL we do not understand or credentials that are missing,
    NotCubefsError when a local directory is not there, StoreError when it cannot be opened.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(
            f"not a store URL: {url!r}; write local:///absolute/directory, s3://bucket/prefix or"
            " swift://container/prefix"
        )
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(f"unknown kind of store {scheme!r}; this version knows {known}")
    store = _open_driver(scheme, url, rest, create=create, pace=throttle)
    return store if throttle is None else Throttled(store, throttle)


def _open_driver(scheme: str, url: str, rest: str, *, create: bool, pace: Pace | None) -> Store:
    """Load only the library that is needed: boto3 alone takes as long as everything else."""
    if scheme == "s3":
        from cubefs.store.s3 import open_s3

        return open_s3(url, pace=pace)
    if scheme == "swift":
        from cubefs.store.swift import open_swift

        return open_swift(url, pace=pace)
    return _open_local(url, rest, create=create, pace=pace)


def _open_local(url: str, rest: str, *, create: bool, pace: Pace | None) -> Store:
    """Open `local:///dir`. The path is made absolute and normal, so that one store has one URL."""
    if not rest.startswith("/"):
        raise UsageError(
            f"the directory in {url!r} is not absolute; write three slashes: local:///absolute/directory"
        )
    if "\0" in rest:
        raise UsageError("a store URL cannot contain a zero byte")
    root = Path(os.path.normpath(rest))
    if root == Path(os.sep):
        raise UsageError("a store cannot be the root directory; name a directory of its own")
    try:
        if create:
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not root.exists():
            raise NotCubefsError(
                f"no store at {url}: the directory does not exist; make a file system with mkfs.cubefs {url}"
            )
        if not root.is_dir():
            raise NotCubefsError(f"no store at {url}: that is not a directory")
    except PermissionError as error:
        raise StoreDeniedError(f"no permission for {url}: {error.strerror}") from error
    except FileExistsError:
        raise NotCubefsError(f"no store at {url}: that is not a directory") from None
    except OSError as error:
        raise StoreError(f"cannot open {url}: {error.strerror}") from error
    return LocalStore(root, pace=pace)
