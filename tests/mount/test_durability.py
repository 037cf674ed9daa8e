"""The durability ladder as users climb it: fsync, `cubefs sync`, `cubefs umount`, and kill -9 at any time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.compare import assert_same, facts
from tests.support.mounting import Machine, wait_until
from tests.support.sharedmount import audit, machine_at, new_directory
from tests.support.trees import MIB, make_everything

Mount = Callable[..., Path]

NEVER = "commit_interval=1h,recovery_point=1h"  # nothing becomes durable unless somebody asks for it


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A file system that lives through all these tests, and is audited when they are through."""
    with machine_at(tmp_path_factory.mktemp("crashing")) as machine:
        machine.mkfs()
        machine.mount_point.mkdir()
        yield machine
        audit(machine)


@pytest.fixture
def mount(made: Machine, request: pytest.FixtureRequest) -> Iterator[Mount]:
    """Mount it, and return a directory of the test's own. Unmounted after the test, if it is still mounted."""
    names: list[str] = []

    def mount(options: str = NEVER) -> Path:
        # as after a crash: the dead mount of the killed daemon is still there
        made.cubefs("mount", made.url, made.mount_point, "-o", options)
        if not names:
            names.append(new_directory(made, request).name)
        return made.mount_point / names[0]

    yield mount
    if os.path.ismount(made.mount_point):
        made.umount()


def lose_the_machine(machine: Machine) -> None:
    """End the daemon as kill -9 does, and take its cache directory away."""
    machine.kill()
    shutil.rmtree(machine.cache)


def fsync(path: Path) -> None:
    """Call fsync(2) on a file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_fsync_survives_kill_9(made: Machine, mount: Mount) -> None:
    here = mount()
    data = os.urandom(30 * MIB)
    (here / "directory").mkdir()
    (here / "directory" / "file").write_bytes(data)
    os.setxattr(here / "directory" / "file", "user.name", b"value")
    os.utime(here / "directory" / "file", ns=(12345, 12345))
    fsync(here / "directory" / "file")
    with (here / "in place").open("wb", buffering=0) as file:
        file.write(b"a" * 100_000)
        os.fsync(file.fileno())
        file.seek(50_000)
        file.write(b"b" * 10)
        os.fdatasync(file.fileno())
        file.write(b"never synced")
    made.kill()
    mount()
    assert (here / "directory" / "file").read_bytes() == data
    assert os.getxattr(here / "directory" / "file", "user.name") == b"value"
    assert (here / "directory" / "file").stat().st_mtime_ns == 12345
    assert (here / "in place").read_bytes()[:50_010] == b"a" * 50_000 + b"b" * 10


@pytest.mark.parametrize("how", ["O_DSYNC", "mount -o sync"])  # O_SYNC has the bit of O_DSYNC
def test_writes_that_are_synchronous_by_themselves(made: Machine, mount: Mount, how: str) -> None:
    here = mount(NEVER + (",sync" if how == "mount -o sync" else ""))
    flags = os.O_DSYNC if how == "O_DSYNC" else 0
    descriptor = os.open(here / "file", os.O_CREAT | os.O_WRONLY | flags)
    os.write(descriptor, b"first ")
    os.write(descriptor, b"second")
    made.kill()
    os.close(descriptor)
    mount()
    assert (here / "file").read_bytes() == b"first second"


def test_fsync_of_a_directory_keeps_its_names(made: Machine, mount: Mount) -> None:
    here = mount()
    (here / "file").write_text("content")
    (here / "before").touch()
    (here / "before").rename(here / "after")
    fsync(here)
    made.kill()
    mount()
    assert sorted(path.name for path in here.iterdir()) == ["after", "file"]


def test_a_name_has_its_data_in_every_commit(made: Machine, mount: Mount) -> None:
    """The fsync of another file makes renames durable: what they named then must be there too."""
    here = mount()
    with contextlib.ExitStack() as still_open:
        for number in range(20):
            file = still_open.enter_context((here / "new").open("wb", buffering=0))
            file.write(b"%d " % number * 5000)
            (here / "new").rename(here / f"{number:02}")
        (here / "other").touch()
        fsync(here / "other")
        made.kill()
    mount()
    for number in range(20):
        assert (here / f"{number:02}").read_bytes() == b"%d " % number * 5000


def test_without_fsync_nothing_of_a_file_is_torn(made: Machine, mount: Mount) -> None:
    """Committed by itself after the interval; what comes after that may be lost, in the order it was made."""
    here = mount("commit_interval=0.3s,recovery_point=1h")
    (here / "early").write_bytes(b"e" * 100_000)
    commits = made.status()["file_system"]["commits"]

    def is_committed() -> bool:
        (here / "early").chmod(0o600)  # or there would be nothing to commit
        return bool(made.status()["file_system"]["commits"] > commits + 1)

    wait_until(is_committed)
    for number in range(300):
        with (here / "new").open("wb") as file:
            file.write(b"%d " % number * 500)
        (here / "new").rename(here / f"{number:03}")
    made.kill()
    mount()
    assert (here / "early").read_bytes() == b"e" * 100_000
    names = sorted(path.name for path in here.iterdir() if path.name.isdigit())
    assert names == [f"{number:03}" for number in range(len(names))]
    for name in names:
        assert (here / name).read_bytes() == b"%d " % int(name) * 500


def test_sync_survives_the_loss_of_the_machine(made: Machine, mount: Mount) -> None:
    here = mount()
    (here / "tree").mkdir()
    make_everything(here / "tree")
    (here / "tree" / "large").write_bytes(os.urandom(40 * MIB))
    before = facts(here / "tree")
    daemon = made.status()["pid"]
    made.cubefs("sync", made.mount_point)
    (here / "later").write_text("never stored")
    os.kill(daemon, signal.SIGKILL)  # at once: what has not arrived now never will
    shutil.rmtree(made.cache)
    mount()
    assert facts(here / "tree") == before
    assert not (here / "later").exists()


def test_a_snapshot_by_mkdir_survives_a_crash_one_by_the_command_the_loss_of_the_machine(
    made: Machine, mount: Mount
) -> None:
    here = mount()
    root = made.mount_point
    (here / "file").write_text("in both")
    made.cubefs("snapshot", "create", root, "by the command")
    (here / "file").write_text("in the second")
    (root / "snapshots" / "by mkdir").mkdir()
    (here / "file").write_text("in none")
    made.kill()
    mount()
    assert (root / "snapshots" / "by the command" / here.name / "file").read_text() == "in both"
    assert (root / "snapshots" / "by mkdir" / here.name / "file").read_text() == "in the second"
    lose_the_machine(made)
    mount()
    assert (root / "snapshots" / "by the command" / here.name / "file").read_text() == "in both"


def test_unlinked_but_open_files_are_gone_after_a_crash(made: Machine, mount: Mount) -> None:
    here = mount()
    made.cubefs("sync", made.mount_point)
    before = made.status()["file_system"]
    with (here / "file").open("w+b") as file:
        file.write(os.urandom(3 * MIB))
        file.flush()
        (here / "file").unlink()
        made.cubefs("sync", made.mount_point)
        assert made.status()["file_system"]["inodes"] == before["inodes"] + 1
        made.kill()
    mount()
    assert list(here.iterdir()) == []
    made.cubefs("sync", made.mount_point)
    after = made.status()["file_system"]
    assert (after["inodes"], after["live_bytes"]) == (before["inodes"], before["live_bytes"])


def test_kill_9_in_the_middle_of_rsync(made: Machine, mount: Mount, tmp_path: Path) -> None:
    """Twice, early and late; then once more, undisturbed."""
    source = tmp_path / "source"
    source.mkdir()
    make_everything(source)
    for number in range(4):
        (source / f"large {number}").write_bytes(os.urandom(8 * MIB))
    command = ["rsync", "-aHX", "--sparse", "--delete", f"{source}/"]
    for pause_s in (0.15, 0.5):
        here = mount("commit_interval=0.1s")
        with subprocess.Popen([*command, here / "tree"], stderr=subprocess.DEVNULL) as rsync:
            time.sleep(pause_s)
            made.kill()
            rsync.wait(30)
    here = mount()
    here.mkdir(exist_ok=True)  # killed before its first commit, nothing of it was promised
    subprocess.run([*command, here / "tree"], check=True)
    assert_same(source, here / "tree")
    made.umount()
    shutil.rmtree(made.cache)
    mount()
    assert_same(source, here / "tree")


def test_kill_9_of_many_writers_keeps_what_each_had_synced(made: Machine, mount: Mount, tmp_path: Path) -> None:
    program = """
import os, sys
path, note = sys.argv[1], os.open(sys.argv[2], os.O_WRONLY)
file = os.open(path, os.O_WRONLY | os.O_CREAT)
for n in range(100_000):
    os.write(file, b"%09d\\n" % n)
    if n % 20 == 0:
        os.fsync(file)
        os.pwrite(note, b"%09d" % n, 0)
"""
    here = mount()
    notes = [tmp_path / f"note {number}" for number in range(3)]
    writers = []
    for number, note in enumerate(notes):
        note.touch()
        arguments: list[str | Path] = [sys.executable, "-c", program, here / f"file {number}", note]
        writers.append(subprocess.Popen(arguments, stderr=subprocess.DEVNULL))
    wait_until(lambda: all(int(note.read_bytes() or b"0") >= 200 for note in notes))
    made.kill()
    for writer in writers:
        assert writer.wait(30) != 0
    mount()
    for number, note in enumerate(notes):
        synced = int(note.read_bytes())
        lines = (here / f"file {number}").read_bytes().split(b"\n")
        assert len(lines) > synced
        whole = lines if len(lines[-1]) == 9 else lines[:-1]  # the last one may be torn
        assert whole == [b"%09d" % line for line in range(len(whole))]
