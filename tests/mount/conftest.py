"""Fixtures for tests that really mount: skipped with the reason where there is no FUSE, or not the store asked for.

Stores are local directories, or what CUBEFS_TEST_STORE says: see tests/support/remotes.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import remotes
from tests.support.mounting import Machine
from tests.support.sharedmount import machine_at


@pytest.fixture(scope="session", autouse=True)
def stores(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kind of store that the environment asks for, and its server."""
    with remotes.in_use(request.getfixturevalue):
        yield


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A computer with cubefs on it; nothing stays mounted or running after the test."""
    with machine_at(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with an empty file system, to copy: making one takes half a second."""
    made = Machine(tmp_path_factory.mktemp("empty"))
    made.mkfs()
    return made.store


@pytest.fixture(scope="session")
def filled_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a file system that holds the file `precious`, to copy."""
    made = Machine(tmp_path_factory.mktemp("filled"))
    try:
        made.mkfs()
        (made.mount() / "precious").write_text("data")
        made.umount()
    finally:
        made.close()
    return made.store


@pytest.fixture
def mounted(machine: Machine, empty_store: Path) -> Path:
    """The mount point of an empty file system, mounted."""
    machine.adopt(empty_store)
    return machine.mount()


@pytest.fixture
def filled(machine: Machine, filled_store: Path) -> Machine:
    """A file system that holds the file `precious`; not mounted, no cache."""
    machine.adopt(filled_store)
    machine.mount_point.mkdir()
    return machine


@pytest.fixture
def as_root() -> None:
    """Skip where the test is not run by root."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts a small tmpfs")
