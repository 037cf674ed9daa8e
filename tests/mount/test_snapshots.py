"""Snapshots as users meet them: directories with a name that nobody can change, not even root."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.mounting import Machine, wait_until
from tests.support.sharedmount import error_of, new_directory, remount, shared_mount
from tests.support.trees import IS_ROOT, MIB


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory) as machine:
        yield machine


@pytest.fixture
def here(shared: Machine, request: pytest.FixtureRequest) -> Path:
    return new_directory(shared, request)


def snapshot(here: Path, name: str) -> Path:
    """Take a snapshot with mkdir; return what `here` is in it. `name` gets the test's name in front."""
    directory = here.parent / "snapshots" / f"{here.name} {name}"
    directory.mkdir()
    return directory / here.name


# -- taking ----------


def test_a_snapshot_keeps_what_was_there(here: Path) -> None:
    (here / "kept").write_text("first")
    (here / "removed").write_text("was there")
    (here / "directory").mkdir()
    first = snapshot(here, "one")
    (here / "kept").write_text("second, and longer")
    (here / "removed").unlink()
    (here / "directory").rename(here / "renamed")
    second = snapshot(here, "two")
    assert (first / "kept").read_text() == "first"
    assert (first / "removed").read_text() == "was there"
    assert sorted(path.name for path in first.iterdir()) == ["directory", "kept", "removed"]
    assert sorted(path.name for path in second.iterdir()) == ["kept", "renamed"]
    assert (second / "kept").read_text() == "second, and longer"


def test_unsealed_data_of_an_open_file_is_in_the_snapshot(here: Path) -> None:
    with (here / "file").open("wb", buffering=0) as file:
        file.write(b"x" * MIB)
        taken = snapshot(here, "now")
        file.write(b"y" * MIB)
    assert (taken / "file").read_bytes() == b"x" * MIB
    assert (here / "file").stat().st_size == 2 * MIB


def test_the_default_name_is_the_time_in_utc(shared: Machine) -> None:
    names = [shared.cubefs("snapshot", "create", shared.mount_point).out.strip() for _ in range(3)]
    assert len(set(names)) == 3
    for name in names:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d+)?", name)
        taken = datetime.strptime(name[:20], "%Y-%m-%dT%H-%M-%SZ").replace(tzinfo=UTC)
        assert abs(datetime.now(UTC) - taken) < timedelta(minutes=1)
        assert (shared.mount_point / "snapshots" / name).is_dir()


def test_a_taken_name_is_refused(shared: Machine, here: Path) -> None:
    snapshot(here, "name")
    assert error_of(snapshot, here, "name") == "EEXIST"
    result = shared.run("cubefs", "snapshot", "create", shared.mount_point, f"{here.name} name")
    assert result.code == 6


def test_a_snapshot_in_the_middle_of_writing_is_a_prefix(here: Path, tmp_path: Path) -> None:
    """The names are a prefix of those made; what has its name has what it held when it got it."""
    program = """
import os, sys
os.chdir(sys.argv[1])
for n in range(100_000):
    with open("new", "wb") as f:
        f.write(b"%d " % n * 200)
    os.rename("new", f"{n:06}")
"""
    writer = subprocess.Popen([sys.executable, "-c", program, here])
    try:
        wait_until(lambda: (here / "000100").exists())
        views = []
        for number in range(3):
            views.append(snapshot(here, str(number)))
            time.sleep(0.1)
        for view in views:
            names = sorted(path.name for path in view.iterdir() if path.name != "new")
            assert len(names) > 100
            assert names == [f"{number:06}" for number in range(len(names))]
            for name in names[-50:]:
                assert (view / name).read_bytes() == b"%d " % int(name) * 200
    finally:
        writer.kill()
        writer.wait()


# -- read-only ----------


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda taken: os.open(taken / "new", os.O_CREAT | os.O_WRONLY),
    "open to write": lambda taken: os.open(taken / "file", os.O_WRONLY),
    "open to append": lambda taken: os.open(taken / "file", os.O_RDWR | os.O_APPEND),
    "open to truncate": lambda taken: os.open(taken / "file", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda taken: os.truncate(taken / "file", 0),
    "chmod": lambda taken: (taken / "file").chmod(0o777),
    "chmod of a directory": lambda taken: taken.chmod(0o777),
    "chmod of the snapshot": lambda taken: taken.parent.chmod(0o777),
    "chown": lambda taken: os.chown(taken / "file", os.geteuid(), os.getegid()),
    "utime": lambda taken: os.utime(taken / "file"),
    "setxattr": lambda taken: os.setxattr(taken / "file", "user.new", b""),
    "removexattr": lambda taken: os.removexattr(taken / "file", "user.old"),
    "unlink": lambda taken: (taken / "file").unlink(),
    "rename": lambda taken: (taken / "file").rename(taken / "renamed"),
    "rename over": lambda taken: (taken / "file").replace(taken / "other"),
    "mkdir": lambda taken: (taken / "new").mkdir(),
    "mkdir in the snapshot's root": lambda taken: (taken.parent / "new").mkdir(),
    "rmdir": lambda taken: (taken / "directory").rmdir(),
    "symlink": lambda taken: (taken / "new").symlink_to("x"),
    "link": lambda taken: (taken / "new").hardlink_to(taken / "file"),
    "mkfifo": lambda taken: os.mkfifo(taken / "new"),
}


@pytest.fixture(scope="module")
def taken(shared: Machine) -> Path:
    here = shared.mount_point / "for changes"
    here.mkdir()
    (here / "file").write_text("as it was")
    os.setxattr(here / "file", "user.old", b"as it was")
    (here / "other").touch()
    (here / "directory").mkdir()
    return snapshot(here, "taken")


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_in_a_snapshot_can_be_changed(taken: Path, change: str) -> None:
    before = (taken / "file").stat()
    assert error_of(CHANGES[change], taken) == "EROFS"
    assert sorted(path.name for path in taken.iterdir()) == ["directory", "file", "other"]
    assert (taken / "file").stat() == before
    assert (taken / "file").read_text() == os.getxattr(taken / "file", "user.old").decode() == "as it was"


def test_nothing_moves_between_trees(taken: Path, here: Path) -> None:
    (here / "live").touch()
    other = snapshot(here, "other")
    for source, target in (
        (taken / "file", here / "new"),
        (here / "live", taken / "new"),
        (taken / "file", other / "new"),
    ):
        assert error_of(os.link, source, target) == "EXDEV"
        assert error_of(os.rename, source, target) == "EXDEV"
    assert [path.name for path in here.iterdir()] == ["live"]


def test_the_directory_of_snapshots_holds_snapshots_only(shared: Machine, here: Path) -> None:
    (here / "file").touch()
    (here / "directory").mkdir()
    directory = shared.mount_point / "snapshots"
    listed = sorted(path.name for path in directory.iterdir())
    refused = {
        "file": error_of((directory / "new").touch),
        "fifo": error_of(os.mkfifo, directory / "new"),
        "symlink": error_of((directory / "new").symlink_to, "x"),
        "link": error_of(os.link, here / "file", directory / "new"),
        "rename into it": error_of(os.rename, here / "directory", directory / "new"),
        "chmod": error_of(directory.chmod, 0o700),
        "setxattr": error_of(os.setxattr, directory, "user.x", b""),
    }
    assert set(refused.values()) == {"EPERM"}, refused
    assert sorted(path.name for path in directory.iterdir()) == listed


def test_the_entry_snapshots_cannot_be_made_removed_or_renamed(shared: Machine, here: Path) -> None:
    entry = shared.mount_point / "snapshots"
    (here / "directory").mkdir()
    (here / "file").touch()
    assert error_of(os.mkdir, entry) == "EEXIST"
    assert error_of(os.rmdir, entry) == "EPERM"
    assert error_of(os.rename, entry, shared.mount_point / "other") == "EPERM"
    assert error_of(os.rename, here / "directory", entry) == "EPERM"
    assert error_of(os.rename, here / "file", entry) in ("EPERM", "EISDIR")
    assert error_of(os.open, entry, os.O_CREAT | os.O_WRONLY) == "EISDIR"
    (here / "snapshots").mkdir()  # elsewhere it is a name like any other
    (here / "snapshots").rmdir()
    assert entry.is_dir()


def test_only_the_command_removes_snapshots(here: Path) -> None:
    (here / "file").touch()
    taken = snapshot(here, "kept")
    assert error_of(os.rmdir, taken.parent) == "EPERM"
    assert error_of(os.rename, taken.parent, taken.parent.with_name("renamed")) == "EPERM"
    assert subprocess.run(["rm", "-rf", taken.parent], capture_output=True, check=False).returncode != 0
    assert (taken / "file").exists()


@pytest.mark.skipif(not IS_ROOT, reason="becomes somebody else")
def test_other_users_cannot_take_snapshots_and_read_what_their_modes_allow(shared: Machine, here: Path) -> None:
    shared.mount_point.chmod(0o755)
    (here / "public").write_text("for all")
    (here / "secret").write_text("for root")
    (here / "secret").chmod(0o600)
    name = snapshot(here, "taken").parent.name
    child = os.fork()
    if child == 0:
        os.chdir(shared.mount_point)
        os.setgroups([])
        os.setgid(1234)
        os.setuid(1234)
        found = [
            error_of(os.mkdir, "snapshots/mine"),
            error_of(os.open, f"snapshots/{name}/{here.name}/public", os.O_RDONLY),
            error_of(os.open, f"snapshots/{name}/{here.name}/secret", os.O_RDONLY),
        ]
        os._exit(0 if found == ["EACCES", "none", "EACCES"] else 1)
    assert os.waitpid(child, 0)[1] == 0


# -- removing ----------


def test_a_removed_snapshot_is_gone_and_the_others_stay(shared: Machine, here: Path) -> None:
    (here / "file").write_bytes(b"one" * 100_000)
    views = [snapshot(here, "1")]
    (here / "file").write_bytes(b"two" * 100_000)
    views.append(snapshot(here, "2"))
    (here / "file").write_bytes(b"three" * 100_000)
    views.append(snapshot(here, "3"))
    (here / "file").unlink()
    root = os.open(views[1], os.O_RDONLY)
    opened = os.open(views[1] / "file", os.O_RDONLY)
    shared.cubefs("snapshot", "rm", shared.mount_point, views[1].parent.name)
    assert error_of(os.listdir, views[1].parent.parent / views[1].parent.name) in ("ENOENT", "ESTALE")
    wait_until(lambda: not views[1].parent.exists())
    assert views[1].parent.name not in os.listdir(shared.mount_point / "snapshots")  # noqa: PTH208
    assert error_of(os.open, "file", os.O_RDONLY, dir_fd=root) in ("ENOENT", "ESTALE")
    assert error_of(os.pread, opened, 10, 200_000) in ("none", "ESTALE", "EIO")  # the kernel may have it
    os.close(root)
    os.close(opened)
    assert (views[0] / "file").read_bytes() == b"one" * 100_000
    assert (views[2] / "file").read_bytes() == b"three" * 100_000


def test_a_name_can_be_used_again(shared: Machine, here: Path) -> None:
    (here / "file").write_text("old")
    old = snapshot(here, "again")
    number = old.parent.stat().st_ino
    shared.cubefs("snapshot", "rm", shared.mount_point, old.parent.name)
    (here / "file").write_text("new")
    wait_until(lambda: not old.parent.exists())
    new = snapshot(here, "again")
    assert (new / "file").read_text() == "new"
    assert new.parent.stat().st_ino > number


# -- identity ----------


def test_inode_numbers_and_hard_links_are_the_same_after_a_remount(shared: Machine, here: Path) -> None:
    (here / "one").write_text("linked")
    (here / "two").hardlink_to(here / "one")
    taken = snapshot(here, "taken")
    (here / "three").hardlink_to(here / "one")

    def look() -> list[tuple[str, int, int]]:
        paths = sorted([*here.iterdir(), *taken.iterdir(), here, taken, taken.parent, taken.parent.parent])
        return [(str(path), path.stat().st_ino, path.stat().st_nlink) for path in paths if path.name != "snapshots"]

    before = look()
    assert (here / "one").stat().st_nlink == 3 and (taken / "one").stat().st_nlink == 2
    assert (taken / "one").stat().st_ino == (taken / "two").stat().st_ino != (here / "one").stat().st_ino
    remount(shared)
    assert look() == before
    remount(shared, empty_cache=True)
    assert look() == before


def test_what_stat_says_of_the_directory_of_snapshots(shared: Machine) -> None:
    directory = shared.mount_point / "snapshots"
    count = len(list(directory.iterdir()))
    status = directory.stat()
    assert status.st_ino == 2 and stat.S_IMODE(status.st_mode) == 0o755
    assert status.st_nlink == count + 2
    assert status.st_uid == shared.mount_point.stat().st_uid
    before_ns = status.st_mtime_ns
    (directory / "later").mkdir()
    assert directory.stat().st_mtime_ns > before_ns
    assert shared.mount_point.stat().st_nlink == 2 + sum(path.is_dir() for path in shared.mount_point.iterdir())
