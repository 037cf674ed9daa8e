"""The durability ladder as users climb it: fsync, `cubefs sync`, `cubefs umount`, and kill -9 at any time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compare import assert_same, facts
from tests.support.mounting import Machine, wait_until
from tests.support.sharedmount import audit, machine_at
from tests.support.trees import MIB, make_everything

NEVER = "commit_interval=1h,recovery_point=1h"  # nothing becomes durable unless somebody asks for it


@pytest.fixture
def crashing(tmp_path: Path) -> Iterator[Machine]:
    """A new file system, mounted such that nothing is committed or stored of its own accord."""
    with machine_at(tmp_path) as machine:
        machine.mkfs()
        machine.mount("-o", NEVER)
        yield machine


def crash_and_remount(machine: Machine) -> Path:
    """End the daemon with kill -9 and mount again: no fsck, no cleaning up by hand."""
    machine.kill()
    return machine.mount("-o", NEVER)


def fsync(path: Path) -> None:
    """Call fsync(2) on a file or directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def test_fsync_survives_kill_9(crashing: Machine) -> None:
    root = crashing.mount_point
    data = os.urandom(30 * MIB)
    (root / "directory").mkdir()
    (root / "directory" / "file").write_bytes(data)
    os.setxattr(root / "directory" / "file", "user.name", b"value")
    os.utime(root / "directory" / "file", ns=(12345, 12345))
    fsync(root / "directory" / "file")
    with (root / "in place").open("wb", buffering=0) as file:
        file.write(b"a" * 100_000)
        os.fsync(file.fileno())
        file.seek(50_000)
        file.write(b"b" * 10)
        os.fdatasync(file.fileno())
        file.write(b"never synced")
    root = crash_and_remount(crashing)
    assert (root / "directory" / "file").read_bytes() == data
    assert os.getxattr(root / "directory" / "file", "user.name") == b"value"
    assert (root / "directory" / "file").stat().st_mtime_ns == 12345
    found = (root / "in place").read_bytes()
    assert found[:50_010] == b"a" * 50_000 + b"b" * 10
    crashing.umount()
    audit(crashing)


@pytest.mark.parametrize("how", ["O_SYNC", "O_DSYNC", "fsync of the directory", "mount -o sync"])
def test_other_ways_to_ask_for_the_same(tmp_path: Path, how: str) -> None:
    with machine_at(tmp_path) as machine:
        machine.mkfs()
        options = NEVER + (",sync,dirsync" if how == "mount -o sync" else "")
        root = machine.mount("-o", options)
        flags = {"O_SYNC": os.O_SYNC, "O_DSYNC": os.O_DSYNC}.get(how, 0)
        descriptor = os.open(root / "file", os.O_CREAT | os.O_WRONLY | flags)
        os.write(descriptor, b"first ")
        os.write(descriptor, b"second")
        if how == "fsync of the directory":
            (root / "renamed before").touch()
            (root / "renamed before").rename(root / "renamed")
            fsync(root)
        root = crash_and_remount(machine)
        os.close(descriptor)
        if how == "fsync of the directory":
            assert (root / "renamed").exists() and (root / "file").exists()
        else:
            assert (root / "file").read_bytes() == b"first second"


def test_without_fsync_nothing_of_a_file_is_torn(tmp_path: Path) -> None:
    """Committed by itself after the interval; what comes after that may be lost, in the order it was made."""
    with machine_at(tmp_path) as machine:
        machine.mkfs()
        root = machine.mount("-o", "commit_interval=0.3s,recovery_point=1h")
        (root / "early").write_bytes(b"e" * 100_000)
        commits = machine.status()["file_system"]["commits"]
        wait_until(lambda: machine.status()["file_system"]["commits"] > commits)
        for number in range(300):
            with (root / "new").open("wb") as file:
                file.write(b"%d " % number * 500)
            (root / "new").rename(root / f"{number:03}")
        root = crash_and_remount(machine)
        assert (root / "early").read_bytes() == b"e" * 100_000
        names = sorted(path.name for path in root.iterdir() if path.name.isdigit())
        assert names == [f"{number:03}" for number in range(len(names))]
        for name in names:
            assert (root / name).read_bytes() == b"%d " % int(name) * 500


def test_sync_survives_the_loss_of_the_machine(crashing: Machine) -> None:
    tree = crashing.mount_point / "tree"
    tree.mkdir()
    make_everything(tree)
    crashing.cubefs("sync", crashing.mount_point)
    before = facts(tree)
    (crashing.mount_point / "later").write_text("not synced")
    crashing.kill()
    shutil.rmtree(crashing.cache)
    root = crashing.mount("-o", NEVER)
    assert facts(tree) == before
    assert not (root / "later").exists()
    crashing.umount()
    audit(crashing)


def test_snapshot_create_survives_the_loss_of_the_machine_mkdir_a_crash(crashing: Machine) -> None:
    root = crashing.mount_point
    (root / "file").write_text("in both")
    crashing.cubefs("snapshot", "create", root, "by the command")
    (root / "file").write_text("in the second")
    (root / "snapshots" / "by mkdir").mkdir()
    (root / "file").write_text("in none")
    root = crash_and_remount(crashing)
    assert (root / "snapshots" / "by the command" / "file").read_text() == "in both"
    assert (root / "snapshots" / "by mkdir" / "file").read_text() == "in the second"
    crashing.kill()
    shutil.rmtree(crashing.cache)
    root = crashing.mount()
    assert (root / "snapshots" / "by the command" / "file").read_text() == "in both"


def test_unlinked_but_open_files_are_gone_after_a_crash(crashing: Machine) -> None:
    root = crashing.mount_point
    with (root / "file").open("w+b") as file:
        file.write(os.urandom(3 * MIB))
        file.flush()
        (root / "file").unlink()
        crashing.cubefs("sync", root)
        assert crashing.status()["file_system"]["inodes"] == 2
        root = crash_and_remount(crashing)
    assert [path.name for path in root.iterdir()] == ["snapshots"]
    crashing.cubefs("sync", root)
    fields = crashing.status()["file_system"]
    assert fields["inodes"] == 1 and fields["live_bytes"] == 0
    crashing.umount()
    audit(crashing)


def test_kill_9_in_the_middle_of_rsync(tmp_path: Path) -> None:
    """Three times, at a different moment each; then once more, undisturbed."""
    source = tmp_path / "source"
    source.mkdir()
    make_everything(source)
    for number in range(6):
        (source / f"large {number}").write_bytes(os.urandom(10 * MIB))
    command = ["rsync", "-aHX", "--sparse", "--delete", f"{source}/"]
    with machine_at(tmp_path / "machine") as machine:
        machine.root.mkdir()
        machine.mkfs()
        for pause_s in (0.15, 0.4, 0.8):
            root = machine.mount("-o", "commit_interval=0.1s")
            with subprocess.Popen([*command, root / "tree"], stderr=subprocess.DEVNULL) as rsync:
                time.sleep(pause_s)
                machine.kill()
                rsync.wait(30)
        root = machine.mount()
        subprocess.run([*command, root / "tree"], check=True)
        assert_same(source, root / "tree")
        machine.umount()
        audit(machine)
        shutil.rmtree(machine.cache)
        root = machine.mount()
        assert_same(source, root / "tree")


def test_kill_9_of_many_writers_keeps_what_each_had_synced(tmp_path: Path) -> None:
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
    with machine_at(tmp_path) as machine:
        machine.mkfs()
        root = machine.mount("-o", NEVER)
        notes = [tmp_path / f"note {number}" for number in range(3)]
        writers = []
        for number, note in enumerate(notes):
            note.touch()
            arguments = [sys.executable, "-c", program, root / f"file {number}", note]
            writers.append(subprocess.Popen(arguments, stderr=subprocess.DEVNULL))
        wait_until(lambda: all(int(note.read_bytes() or b"0") >= 200 for note in notes))
        machine.kill()
        for writer in writers:
            assert writer.wait(30) != 0
        root = machine.mount()
        for number, note in enumerate(notes):
            synced = int(note.read_bytes())
            lines = (root / f"file {number}").read_bytes().split(b"\n")
            assert len(lines) > synced
            whole = lines[:-1] if len(lines[-1]) != 9 else lines
            assert whole == [b"%09d" % line for line in range(len(whole))]
