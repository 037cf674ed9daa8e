"""Renaming, with all that rename(2) and renameat2(2) promise."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Machine
from tests.support.sharedmount import error_of, new_directory, remount, shared_mount

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4  # <linux/fs.h>
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(source: Path, target: Path, flags: int) -> None:
    """Call renameat2(2), for which Python has no function."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory) as machine:
        yield machine


@pytest.fixture
def here(shared: Machine, request: pytest.FixtureRequest) -> Path:
    return new_directory(shared, request)


def names(directory: Path) -> list[str]:
    """Return what a directory lists."""
    return sorted(path.name for path in directory.iterdir())


def test_rename_keeps_the_inode_its_data_and_its_times(here: Path) -> None:
    (here / "below").mkdir()
    (here / "a").write_text("content")
    os.utime(here / "a", ns=(7, 7))
    before = (here / "a").stat()
    (here / "a").rename(here / "below" / "b")
    after = (here / "below" / "b").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (before.st_ino, 7, 7)
    assert after.st_ctime_ns > before.st_ctime_ns
    assert names(here) == ["below"]
    assert (here / "below" / "b").read_text() == "content"


def test_rename_over_a_file_replaces_it_in_one_step(here: Path) -> None:
    """A reader in another thread never misses the name, and always sees one of the contents whole.

    The one answer it may get besides is ESTALE, when the file was replaced twice while it was being opened.
    """
    file = here / "config"
    file.write_text("0" * 5000)
    stop = threading.Event()
    seen: list[str] = []
    errors: list[int | None] = []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append(file.read_text())
            except OSError as error:
                errors.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(1, 60):
            new = here / "config.new"
            new.write_text(str(number % 10) * 5000)
            new.replace(file)
    finally:
        stop.set()
        reader.join()
    assert set(errors) <= {errno.ESTALE} and len(errors) <= 2
    assert len(seen) > 10
    assert {len(text) for text in seen} == {5000} and all(len(set(text)) == 1 for text in seen)
    assert names(here) == ["config"]


def test_rename_over_a_hard_link_takes_one_name_away(here: Path) -> None:
    (here / "one").write_text("x")
    (here / "two").hardlink_to(here / "one")
    (here / "new").write_text("y")
    (here / "new").replace(here / "two")
    assert (here / "one").stat().st_nlink == 1 and (here / "one").read_text() == "x"
    (here / "three").hardlink_to(here / "one")
    (here / "three").replace(here / "one")  # both name the same file: rename(2) does nothing
    assert names(here) == ["one", "three", "two"]
    assert (here / "one").stat().st_nlink == 2


def test_what_cannot_replace_what(here: Path) -> None:
    for name in ("full/sub", "empty", "other"):
        (here / name).mkdir(parents=True)
    (here / "file").touch()
    assert error_of(os.rename, here / "file", here / "empty") == "EISDIR"
    assert error_of(os.rename, here / "empty", here / "file") == "ENOTDIR"
    assert error_of(os.rename, here / "empty", here / "full") == "ENOTEMPTY"
    assert error_of(os.rename, here / "full", here / "full" / "sub" / "x") == "EINVAL"
    assert error_of(os.rename, here / "full" / "sub", here / "full") == "ENOTEMPTY"
    assert error_of(os.rename, here / "missing", here / "x") == "ENOENT"
    assert error_of(os.rename, here / "file", here / "missing" / "x") == "ENOENT"
    (here / "full").replace(here / "empty")
    assert names(here) == ["empty", "file", "other"] and names(here / "empty") == ["sub"]


def test_a_directory_moves_with_everything_in_it(here: Path) -> None:
    deep = here / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    descriptor = os.open(deep, os.O_RDONLY)
    (here / "other").mkdir()
    (here / "a" / "b").rename(here / "other" / "moved")
    assert (here / "other" / "moved" / "c" / "file").read_text() == "deep"
    assert os.stat("../../../a", dir_fd=descriptor).st_nlink == 2  # `..` leads where the directory is now
    assert os.stat("../..", dir_fd=descriptor).st_ino == (here / "other").stat().st_ino
    os.close(descriptor)


def test_rename_while_the_data_is_still_in_memory(here: Path) -> None:
    for number in range(20):
        with (here / "new").open("wb", buffering=0) as file:
            file.write(b"%d" % number * 1000)
            (here / "new").rename(here / f"file {number % 3}")
            file.write(b"the end")
    for number in range(17, 20):
        data = (here / f"file {number % 3}").read_bytes()
        assert data == b"%d" % number * 1000 + b"the end"


def test_noreplace(here: Path) -> None:
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    assert error_of(renameat2, here / "a", here / "b", NOREPLACE) == "EEXIST"
    assert (here / "b").read_text() == "b"
    renameat2(here / "a", here / "c", NOREPLACE)
    assert names(here) == ["b", "c"]


def test_exchange(shared: Machine, here: Path) -> None:
    (here / "directory" / "sub").mkdir(parents=True)
    (here / "other").mkdir()
    (here / "other" / "file").write_text("file")
    inodes = (here / "directory").stat().st_ino, (here / "other" / "file").stat().st_ino
    renameat2(here / "directory", here / "other" / "file", EXCHANGE)
    assert (here / "directory").read_text() == "file"
    assert names(here / "other" / "file") == ["sub"]
    assert ((here / "other" / "file").stat().st_ino, (here / "directory").stat().st_ino) == inodes
    assert (here.stat().st_nlink, (here / "other").stat().st_nlink) == (3, 3)
    assert error_of(renameat2, here / "other", here / "missing", EXCHANGE) == "ENOENT"
    assert error_of(renameat2, here / "other", here / "other" / "file" / "sub", EXCHANGE) == "EINVAL"
    assert error_of(renameat2, here / "other" / "file" / "sub", here / "other", EXCHANGE) == "EINVAL"
    remount(shared)
    assert (here / "directory").read_text() == "file"
    assert names(here / "other" / "file") == ["sub"]


def test_flags_that_make_no_sense(here: Path) -> None:
    (here / "a").touch()
    (here / "b").touch()
    assert error_of(renameat2, here / "a", here / "b", NOREPLACE | EXCHANGE) == "EINVAL"
    assert error_of(renameat2, here / "a", here / "b", WHITEOUT) == "EINVAL"
    assert names(here) == ["a", "b"]
