"""What a directory can hold, and how directories behave."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Machine
from tests.support.sharedmount import error_of, new_directory, shared_mount
from tests.support.trees import IS_ROOT, NOT_UTF8, SECOND_NS

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may do this")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory) as machine:
        yield machine


@pytest.fixture
def here(shared: Machine, request: pytest.FixtureRequest) -> Path:
    return new_directory(shared, request)


# -- kinds ----------


def test_regular_file(here: Path) -> None:
    file = here / "file"
    before_ns = time.time_ns()
    file.write_bytes(b"x" * 5000)
    status = file.stat()
    assert stat.S_ISREG(status.st_mode) and status.st_nlink == 1
    assert (status.st_size, status.st_blocks) == (5000, 10)
    assert before_ns - SECOND_NS < status.st_mtime_ns <= status.st_ctime_ns < time.time_ns() + SECOND_NS
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())


def test_fifo_carries_data_between_processes(here: Path) -> None:
    fifo = here / "fifo"
    os.mkfifo(fifo, 0o600)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    child = os.fork()
    if child == 0:
        with open(fifo, "wb") as end:  # noqa: PTH123 - as little as possible between fork and _exit
            end.write(b"through the fifo")
        os._exit(0)
    assert fifo.read_bytes() == b"through the fifo"
    assert os.waitpid(child, 0)[1] == 0


def test_socket_accepts_connections(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)  # a socket's address is at most 108 bytes long
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        server.listen()
        client.connect("socket")
        client.send(b"hello")
        with server.accept()[0] as accepted:
            assert accepted.recv(9) == b"hello"
    assert stat.S_ISSOCK((here / "socket").stat().st_mode)


@needs_root
@pytest.mark.parametrize(
    ("kind", "major", "minor"),
    [(stat.S_IFCHR, 1, 3), (stat.S_IFBLK, 8, 17), (stat.S_IFCHR, 4095, 1_048_575)],
)
def test_device_nodes(here: Path, kind: int, major: int, minor: int) -> None:
    node = here / "node"
    os.mknod(node, kind | 0o640, os.makedev(major, minor))
    status = node.stat()
    assert stat.S_IFMT(status.st_mode) == kind and stat.S_IMODE(status.st_mode) == 0o640
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (major, minor)


def test_symlinks(here: Path) -> None:
    longest = "t" * 4095
    for number, target in enumerate(("relative", "/absolute", "../up", "sp ace\n", longest)):
        link = here / f"link {number}"
        link.symlink_to(target)
        assert str(link.readlink()) == target
        assert link.lstat().st_size == len(target)
    link = here / "not utf-8"
    link.symlink_to(os.fsdecode(NOT_UTF8))
    assert os.fsencode(link.readlink()) == NOT_UTF8
    assert error_of(here.readlink) == "EINVAL"
    (here / "a").symlink_to("b")
    (here / "b").symlink_to("a")
    assert error_of(os.stat, here / "a") == "ELOOP"


def test_hard_links(here: Path) -> None:
    first, second = here / "first", here / "below" / "second"
    (here / "below").mkdir()
    first.write_text("one")
    second.hardlink_to(first)
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_nlink == second.stat().st_nlink == 2
    second.write_text("changed through the other name")
    assert first.read_text() == "changed through the other name"
    second.chmod(0o600)
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    first.unlink()
    assert second.stat().st_nlink == 1 and second.read_text().startswith("changed")
    assert error_of(os.link, here / "below", here / "link to a directory") == "EPERM"
    assert error_of(os.link, second, second) == "EEXIST"


def test_a_symlink_can_have_two_names(here: Path) -> None:
    (here / "link").symlink_to("target")
    os.link(here / "link", here / "again", follow_symlinks=False)
    assert str((here / "again").readlink()) == "target"
    assert (here / "link").lstat().st_nlink == 2


# -- directories ----------


def test_link_count_of_directories_follows_their_subdirectories(here: Path) -> None:
    assert here.stat().st_nlink == 2
    for name in "abc":
        (here / name).mkdir()
    (here / "file").touch()
    assert here.stat().st_nlink == 5
    (here / "a").rmdir()
    (here / "b").rename(here / "c" / "b")
    assert (here.stat().st_nlink, (here / "c").stat().st_nlink) == (3, 3)
    (here / "d").mkdir()
    (here / "d").replace(here / "c" / "b")
    assert (here.stat().st_nlink, (here / "c").stat().st_nlink) == (3, 3)


def test_directories_that_cannot_be_removed(here: Path) -> None:
    (here / "full" / "sub").mkdir(parents=True)
    (here / "file").touch()
    assert error_of(os.rmdir, here / "full") == "ENOTEMPTY"
    assert error_of(os.rmdir, here / "file") == "ENOTDIR"
    assert error_of(os.unlink, here / "full") == "EISDIR"
    assert error_of(os.rmdir, here / "nothing") == "ENOENT"
    assert error_of(os.mkdir, here / "file") == "EEXIST"
    assert error_of(os.mkdir, here / "file" / "x") == "ENOTDIR"


def test_changes_in_a_directory_set_its_times(here: Path) -> None:
    (here / "file").touch()
    for change in (
        lambda: (here / "new").touch(),
        lambda: (here / "new").rename(here / "renamed"),
        lambda: (here / "renamed").unlink(),
        lambda: os.link(here / "file", here / "link"),
        lambda: (here / "directory").mkdir(),
        lambda: (here / "directory").rmdir(),
    ):
        os.utime(here, ns=(0, 0))
        change()
        assert here.stat().st_mtime_ns > 0


def test_listing_while_the_directory_changes_shows_every_name_that_stays_once(here: Path) -> None:
    for number in range(300):
        (here / f"stays {number}").touch()
        (here / f"goes {number}").touch()
    seen: list[str] = []
    with os.scandir(here) as entries:
        for number, entry in enumerate(entries):
            seen.append(entry.name)
            if number < 300:
                (here / f"goes {299 - number}").unlink()
                (here / f"new {number}").touch()
    staying = [name for name in seen if name.startswith("stays")]
    assert len(staying) == len(set(staying)) == 300
    assert len(seen) == len(set(seen))
    assert len(list(here.iterdir())) == 600


def test_new_entries_of_a_setgid_directory_get_its_group(here: Path) -> None:
    if IS_ROOT:
        os.chown(here, -1, 12345)
    here.chmod(0o2775)
    (here / "file").touch()
    (here / "directory").mkdir()
    (here / "link").symlink_to("x")
    group = here.stat().st_gid
    assert {path.lstat().st_gid for path in here.iterdir()} == {group}
    assert (here / "directory").stat().st_mode & stat.S_ISGID
    assert not (here / "file").stat().st_mode & stat.S_ISGID


@needs_root
def test_the_sticky_bit_and_permissions_bind_other_users(shared: Machine, here: Path) -> None:
    for path in (shared.mount_point, here):
        path.chmod(0o755)
    tmp = here / "tmp"
    tmp.mkdir()
    tmp.chmod(0o1777)
    (tmp / "of root").write_text("secret")
    (tmp / "of root").chmod(0o600)
    (tmp / "mine").touch()
    os.chown(tmp / "mine", 1234, 1234)
    child = os.fork()
    if child == 0:
        os.chdir(tmp)  # the directories above the mount are root's own
        os.setgroups([])
        os.setgid(1234)
        os.setuid(1234)
        refused = [
            error_of(os.unlink, "of root"),
            error_of(os.open, "of root", os.O_RDONLY),
            error_of(os.chmod, "of root", 0o666),
            error_of(os.mkdir, "../other"),
            error_of(os.chown, "mine", 0, 0),
        ]
        allowed = [error_of(os.rename, "mine", "renamed"), error_of(os.mkdir, "new")]
        os._exit(0 if refused == ["EPERM", "EACCES", "EPERM", "EACCES", "EPERM"] and allowed == ["none"] * 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp / "new").stat().st_uid == 1234
