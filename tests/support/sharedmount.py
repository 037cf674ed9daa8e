"""One mounted file system for all tests of a module, audited when they are through.

@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory) as machine:
        yield machine
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from cubefs.store.base import ObjectInfo
from tests.support import remotes
from tests.support.mounting import Machine, Remote

_BAD_WORDS = (" WARNING ", " ERROR ", " CRITICAL ", "Traceback")


@contextmanager
def machine_at(root: Path, *, remote: Remote | None = None) -> Iterator[Machine]:
    """Yield a machine below `root`, with this store, or with a new one of the kind in use.

    Skips the test where nothing can be mounted.
    """
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse is missing or not permitted")
    store = remotes.new() if remote is None else nullcontext(remote)
    with store as used, closing(Machine(root, remote=used)) as machine:
        yield machine


@contextmanager
def shared_mount(
    factory: pytest.TempPathFactory, *options: str, chunking: str = "content", commits: str = "1s"
) -> Iterator[Machine]:
    """Make and mount a file system; at the end unmount it, and fail if anything about it is not as it must be.

    `options`: arguments of `cubefs mount`. `commits`: the commit interval; short, so that tests see both data that
    is in memory and data that is committed.
    """
    with machine_at(factory.mktemp("shared")) as machine:
        machine.mkfs("--chunking", chunking)
        machine.mount("-o", f"commit_interval={commits}", *options)
        yield machine
        machine.umount()
        assert_quiet(machine)
        audit(machine)


def new_directory(machine: Machine, request: pytest.FixtureRequest) -> Path:
    """Make a directory in the mount, named after the test that asks for it."""
    name = "".join(c if c.isalnum() else "-" for c in request.node.originalname)
    for count in itertools.count():
        with suppress(FileExistsError):
            path = machine.mount_point / f"{name}-{count}"
            path.mkdir()
            return path
    raise AssertionError


def remount(machine: Machine, *options: str, empty_cache: bool = False) -> Path:
    """Unmount and mount again, optionally as a machine that has never seen this file system."""
    machine.umount()
    if empty_cache:
        shutil.rmtree(machine.cache)
    return machine.mount(*options)


def assert_quiet(machine: Machine) -> None:
    """Fail if the daemon's log has a warning or worse."""
    bad = [line for line in machine.log().splitlines() if any(word in line for word in _BAD_WORDS)]
    assert not bad, "in the daemon's log:\n" + "\n".join(bad)


def audit(machine: Machine) -> None:
    """Fail if `cubefs.fsck --data` finds anything in the store, or in what the cache directory says of it."""
    result = machine.run("cubefs.fsck", machine.url, "--data", "--cache-dir", machine.cache)
    assert result.code == 0, f"fsck ended with {result.code}:\n{result.out}{result.err}"


def stored_bytes(machine: Machine) -> int:
    """Return how much all objects of the store take."""
    return sum(info.size_bytes for info in machine.objects().list(""))


def packs(machine: Machine) -> list[ObjectInfo]:
    """Return all packs in the store."""
    return list(machine.objects().list("packs/"))


def damage(machine: Machine, name: str, change: Callable[[bytearray], object]) -> None:
    """Replace an object in the store by what `change` makes of its bytes."""
    store = machine.objects()
    content = bytearray(store.get(name))
    change(content)
    store.put(name, bytes(content))


def spoil_byte(machine: Machine, name: str, offset: int) -> None:
    """Flip a bit of the byte at `offset` of an object; once more, and it is as before. Negative: from the end."""

    def flip(content: bytearray) -> None:
        content[offset] ^= 1

    damage(machine, name, flip)


def error_of(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """Return the name of the errno that a system call fails with, `none` when it succeeds."""
    try:
        call(*arguments, **options)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "none"
