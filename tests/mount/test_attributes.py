"""Modes, owners, times, names and extended attributes: to the last bit, and also after a remount."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Machine
from tests.support.sharedmount import error_of, new_directory, remount, shared_mount
from tests.support.trees import IS_ROOT, LONGEST, NOT_UTF8, SECOND_NS

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may do this")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory) as machine:
        yield machine


@pytest.fixture
def here(shared: Machine, request: pytest.FixtureRequest) -> Path:
    return new_directory(shared, request)


# -- modes, owners, times ----------


def test_modes(here: Path) -> None:
    file = here / "file"
    file.touch()
    for mode in (0o000, 0o7777, 0o4755, 0o2755, 0o1644, 0o644):
        file.chmod(mode)
        assert stat.S_IMODE(file.stat().st_mode) == mode
    old = os.umask(0o027)
    try:
        (here / "by umask").touch(0o666)
        (here / "directory by umask").mkdir(0o777)
        os.mkfifo(here / "fifo by umask", 0o666)
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in sorted(here.glob("*by umask"))]
    assert modes == [0o640, 0o750, 0o640]


@needs_root
def test_owners(here: Path) -> None:
    for number, path in enumerate((here / "file", here / "directory", here / "link")):
        (path.touch, path.mkdir, lambda path=path: path.symlink_to("x"))[number]()
        os.chown(path, 4_000_000_000, 65_534, follow_symlinks=False)
        assert (path.lstat().st_uid, path.lstat().st_gid) == (4_000_000_000, 65_534)
    os.chown(here / "file", -1, 7)
    assert ((here / "file").stat().st_uid, (here / "file").stat().st_gid) == (4_000_000_000, 7)


TIMES_NS = [0, 1, -1, -86_400 * SECOND_NS + 1, -(2**31) * SECOND_NS - 5, 4_102_444_800 * SECOND_NS + 999_999_999]


@pytest.mark.parametrize("time_ns", TIMES_NS)
def test_times_to_the_nanosecond_also_before_1970(here: Path, time_ns: int) -> None:
    (here / "directory").mkdir()
    (here / "file").write_text("x")
    (here / "link").symlink_to("nowhere")
    for path in here.iterdir():
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
        assert path.lstat().st_mtime_ns == time_ns


@pytest.mark.parametrize("second", [-62_135_596_800, -11_644_473_600, 253_402_300_799])
def test_times_beyond_what_is_stored_become_the_nearest(here: Path, second: int) -> None:
    """The years 1, 1601 (where Windows begins to count) and 9999; other Linux file systems do the same."""
    file = here / "file"
    file.touch()
    os.utime(file, (second, second))
    year = time.gmtime(file.stat().st_mtime).tm_year
    assert year == (1677 if second < 0 else 2262)


def test_writing_after_a_time_was_set_sets_it_anew_and_closing_does_not(shared: Machine, here: Path) -> None:
    with (here / "file").open("wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.utime(file.fileno(), ns=(5, 5))
        assert os.fstat(file.fileno()).st_mtime_ns == 5
    remount(shared)
    assert (here / "file").stat().st_mtime_ns == 5  # as rsync and cp -a rely on
    with (here / "file").open("ab") as file:
        file.write(b"y")
    assert (here / "file").stat().st_mtime_ns > 5


def test_change_time_moves_with_every_change(here: Path) -> None:
    file = here / "file"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    changes = (
        lambda: file.chmod(0o600),
        lambda: os.link(file, here / "link"),
        lambda: (here / "link").unlink(),
        lambda: file.rename(here / "other"),
        lambda: (here / "other").rename(file),
        lambda: os.utime(file, ns=(0, 0)),
        lambda: os.write(descriptor, b"x"),
        lambda: os.ftruncate(descriptor, 0),
        lambda: os.setxattr(file, "user.a", b""),
    )
    for change in changes:
        before_ns = os.fstat(descriptor).st_ctime_ns
        change()
        assert os.fstat(descriptor).st_ctime_ns > before_ns
    os.close(descriptor)


# -- names ----------


@pytest.mark.parametrize("name", [LONGEST, b"\xff" * 255, NOT_UTF8, b"\n", b" ", b"-", b"\\", "ß\u0301".encode()])
def test_names_are_any_255_bytes(here: Path, name: bytes) -> None:
    path = here / os.fsdecode(name)
    path.write_bytes(name)
    path.with_name(os.fsdecode(name[:-1] + b"%")).mkdir()
    with os.scandir(os.fsencode(here)) as entries:
        assert sorted(entry.name for entry in entries) == sorted([name, name[:-1] + b"%"])
    assert path.read_bytes() == name


def test_longer_names_are_refused(here: Path) -> None:
    long = here / ("n" * 256)
    assert error_of(os.mkdir, long) == "ENAMETOOLONG"
    assert error_of(os.stat, long) == "ENAMETOOLONG"
    (here / "file").touch()
    assert error_of(os.rename, here / "file", long) == "ENAMETOOLONG"


def test_names_differ_by_case_and_normal_form(here: Path) -> None:
    names = {"file", "FILE", "\u00e9", "e\u0301"}
    for name in names:
        (here / name).write_text(name)
    assert {path.name for path in here.iterdir()} == names
    assert all((here / name).read_text() == name for name in names)


# -- extended attributes ----------


def test_extended_attributes(here: Path) -> None:
    file = here / "file"
    file.touch()
    values = {"user.empty": b"", "user.bytes": bytes(range(256)), "user.big": b"x" * 65_536, "user.ünï": b"1"}
    for name, value in values.items():
        os.setxattr(file, name, value)
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == values
    os.setxattr(file, "user.bytes", b"replaced")
    os.removexattr(file, "user.empty")
    assert os.getxattr(file, "user.bytes") == b"replaced"
    assert error_of(os.getxattr, file, "user.empty") == "ENODATA"
    assert error_of(os.removexattr, file, "user.empty") == "ENODATA"
    assert error_of(os.setxattr, file, "user.bytes", b"", os.XATTR_CREATE) == "EEXIST"
    assert error_of(os.setxattr, file, "user.none", b"", os.XATTR_REPLACE) == "ENODATA"
    assert error_of(os.setxattr, file, "user.huge", b"x" * 65_537) == "E2BIG"
    assert error_of(os.setxattr, file, "user." + "n" * 251, b"") == "ERANGE"


def test_access_control_lists_are_refused_so_that_cp_sets_modes(here: Path, tmp_path: Path) -> None:
    """cp -a sets a mode as an ACL, and falls back to chmod(2) only when the file system says it has none."""
    (tmp_path / "tree").mkdir(0o755)
    for mode in (0o644, 0o755, 0o4711, 0o440):
        (tmp_path / "tree" / f"{mode:o}").touch()
        (tmp_path / "tree" / f"{mode:o}").chmod(mode)
    subprocess.run(["cp", "-a", tmp_path / "tree", here], check=True)
    for path in (here / "tree").iterdir():
        assert f"{stat.S_IMODE(path.stat().st_mode):o}" == path.name
        assert os.listxattr(path) == []
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")  # u::rw,g::r,o::r
    assert error_of(os.setxattr, here / "tree" / "644", "system.posix_acl_access", acl) == "ENOTSUP"
    assert error_of(os.setxattr, here / "tree", "system.posix_acl_default", acl) == "ENOTSUP"


@needs_root
def test_extended_attributes_that_only_root_has(here: Path) -> None:
    (here / "link").symlink_to("x")
    os.mkfifo(here / "fifo")
    (here / "file").touch()
    for path in (here / "link", here / "fifo", here / "file", here):
        os.setxattr(path, "trusted.a", b"value", follow_symlinks=False)
        assert os.getxattr(path, "trusted.a", follow_symlinks=False) == b"value"
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
    os.setxattr(here / "file", "security.capability", capability)
    assert os.getxattr(here / "file", "security.capability") == capability
    (here / "file").write_text("writing takes a file's capabilities away")
    assert error_of(os.getxattr, here / "file", "security.capability") == "ENODATA"


def test_all_of_this_survives_a_remount(shared: Machine, here: Path) -> None:
    for number, time_ns in enumerate(TIMES_NS):
        path = here / os.fsdecode(NOT_UTF8 + b"%d" % number)
        path.mkdir()
        path.chmod(0o711 + number)
        os.setxattr(path, "user.number", b"%d" % number)
        os.utime(path, ns=(time_ns, time_ns))
    remount(shared, empty_cache=True)
    for number, time_ns in enumerate(TIMES_NS):
        path = here / os.fsdecode(NOT_UTF8 + b"%d" % number)
        assert stat.S_IMODE(path.stat().st_mode) == 0o711 + number
        assert os.getxattr(path, "user.number") == b"%d" % number
        assert path.stat().st_mtime_ns == time_ns
