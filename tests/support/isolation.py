"""Owns what an account does with its store, and tries with those of others: every call, and a file system's life.

Must never: know how the account got its rights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cubefs.errors import ObjectExistsError, ObjectMissingError, StoreDeniedError
from cubefs.model import MIB
from cubefs.store import open_store
from cubefs.store.base import Store
from cubefs.store.examine import require_suitable
from tests.support.mounting import Finished, Remote, changed_environment
from tests.support.servers.access import S3Access, SwiftAccess
from tests.support.sharedmount import assert_quiet, audit, machine_at

SUPERBLOCK = "cubefs"


def remote_of(url: str, access: S3Access | SwiftAccess) -> Remote:
    """Return a store as a user reaches it."""
    return Remote(url, access.environment())


def open_remote(remote: Remote) -> Store:
    """Open a store with nothing in the environment but what reaches it."""
    with changed_environment({"PATH": os.environ["PATH"], **remote.environment}):
        return open_store(remote.url)


def calls_upon(store: Store, name: str) -> dict[str, Callable[[], object]]:
    """Return everything that can be asked for by name; `name` may be there."""
    return {
        "get": lambda: store.get(name),
        "get newest": lambda: store.get(name, newest=True),
        "get_range": lambda: store.get_range(name, start=0, length=1),
        "head": lambda: store.head(name),
        "list": lambda: list(store.list("")),
        "list some": lambda: list(store.list(name[:2], start_after=name[:1])),
        "put": lambda: store.put(name, b"mine"),
        "put_new": lambda: store.put_new(name, b"mine"),
        "put_new of another": lambda: store.put_new(f"{name}-new", b"mine"),
        "delete": lambda: store.delete(name),
        "delete_many": lambda: store.delete_many([name, f"{name}-too"]),
    }


def exercise(store: Store, *, may_delete: bool = True) -> None:
    """Do all that cubefs does with a store that is empty."""
    with pytest.raises(ObjectMissingError, match=SUPERBLOCK):
        store.get(SUPERBLOCK)
    store.put_new(SUPERBLOCK, b"0123456789")
    with pytest.raises(ObjectExistsError, match=SUPERBLOCK):
        store.put_new(SUPERBLOCK, b"another")
    names = [f"packs/00/{number:02d}/x" for number in range(4)]
    for name in names:
        store.put(name, b"to be replaced")
        store.put(name, name.encode())
        assert store.get(name, newest=True) == name.encode()
    assert store.get_range(SUPERBLOCK, start=3, length=4) == b"3456"
    assert store.head(SUPERBLOCK).size_bytes == 10
    assert [info.name for info in store.list("")] == [SUPERBLOCK, *names]
    assert [info.name for info in store.list("packs/", start_after=names[1])] == names[2:]
    assert abs(store.now_ns() - store.head(SUPERBLOCK).modified_ns) < 60 * 10**9
    for call in ("get", "get newest", "get_range", "head"):
        with pytest.raises(ObjectMissingError, match="packs/ff"):
            calls_upon(store, "packs/ff")[call]()
    if may_delete:
        store.delete(names[0])
        store.delete("packs/ff")
        store.delete_many([*names[1:3], "packs/fe"])
        names = names[3:]
    else:
        for call in ("delete", "delete_many"):
            with pytest.raises(StoreDeniedError):
                calls_upon(store, names[0])[call]()
    assert [info.name for info in store.list("")] == [SUPERBLOCK, *names]
    require_suitable(store)  # as mkfs examines it


def assert_out_of_reach(store: Store) -> None:
    """Fail unless everything is refused, of what is there (SUPERBLOCK) and of what is not."""
    for name in (SUPERBLOCK, "packs/ff"):
        for call, ask in calls_upon(store, name).items():
            try:
                ask()
            except StoreDeniedError:
                continue
            except Exception as error:
                pytest.fail(f"{call} of {name} in {store.describe()}: not refused, but {error!r}")
            pytest.fail(f"{call} of {name} in {store.describe()} is allowed")


def live(remote: Remote, root: Path) -> Finished:
    """Let a file system live: made, written, seen again elsewhere, audited. Returns what mkfs has said."""
    here, there = root / "here", root / "there"
    for directory in (here, there):
        directory.mkdir()
    content = os.urandom(3 * MIB)
    with machine_at(here, remote=remote) as machine:
        made = machine.cubefs("mkfs", machine.url)
        target = machine.mount()
        (target / "file").write_bytes(content)
        machine.cubefs("sync", target)
        machine.cubefs("snapshot", "create", target, "before")
        (target / "file").write_bytes(b"changed")
        machine.umount()
        audit(machine)
    with machine_at(there, remote=remote) as machine:  # which has never seen it
        target = machine.mount()
        assert (target / "file").read_bytes() == b"changed"
        assert (target / "snapshots" / "before" / "file").read_bytes() == content
        (target / "file").unlink()
        machine.cubefs("snapshot", "rm", target, "before")
        (target / "again").write_bytes(content)
        machine.umount()
        audit(machine)
        assert_quiet(machine)
    return made
