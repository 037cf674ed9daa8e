"""Opens a store by its URL. The only place that knows which drivers there are.

Must never: read or write an object.
"""

from __future__ import annotations

import os
from pathlib import Path

from cubefs.errors import NotCubefsError, StoreDeniedError, StoreError, UsageError
from cubefs.store.base import ObjectInfo, Store
from cubefs.store.local import LocalStore

__all__ = ["ObjectInfo", "Store", "open_store"]

SCHEMES = ("local",)


def open_store(url: str, *, create: bool = False) -> Store:
    """Open the store at `url`; with `create` (mkfs) a missing local directory is made.

    Raises UsageError for a URL we do not understand, NotCubefsError when there is no such store, StoreError
    when it cannot be reached.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(f"not a store URL: {url!r}; write it as local:///absolute/directory")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(f"unknown kind of store {scheme!r} in {url!r}; this version knows {known}")
    return _open_local(url, rest, create=create)


def _open_local(url: str, rest: str, *, create: bool) -> Store:
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
    return LocalStore(root)
