"""The programs that people back up, restore and work with: rsync, cp, tar, git, find, diff."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compare import assert_same
from tests.support.mounting import Machine
from tests.support.sharedmount import new_directory, remount, shared_mount
from tests.support.trees import IS_ROOT, churn, make_everything


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with shared_mount(tmp_path_factory) as machine:
        yield machine


@pytest.fixture
def here(shared: Machine, request: pytest.FixtureRequest) -> Path:
    return new_directory(shared, request)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of everything, on the local disk; tests do not change it."""
    path = tmp_path_factory.mktemp("source") / "tree"
    path.mkdir()
    make_everything(path)
    return path


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program that must succeed and say nothing on stderr; return its stdout."""
    environment = {**os.environ, "LC_ALL": "C", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b""), f"{command}: {result.stderr.decode(errors='replace')}"
    return result.stdout.decode(errors="surrogateescape")


# -- rsync ----------


def test_rsync_in_again_and_out(source: Path, here: Path, tmp_path: Path) -> None:
    target = here / "tree"
    run("rsync", "-aHX", "--sparse", f"{source}/", target)
    assert_same(source, target)
    assert run("rsync", "-aHXi", "--sparse", "--delete", f"{source}/", target) == ""  # nothing to do
    assert run("rsync", "-aHXic", "--delete", f"{source}/", target) == ""  # also by checksums
    back = tmp_path / "back"
    run("rsync", "-aHX", "--sparse", f"{target}/", back)
    assert_same(source, back)


def test_rsync_brings_a_changed_tree_up_to_date(here: Path, tmp_path: Path) -> None:
    origin, target = tmp_path / "origin", here / "copy"
    origin.mkdir()
    make_everything(origin)
    for generation, way in enumerate(([], ["--inplace", "--no-whole-file"], ["--no-whole-file"]), start=1):
        run("rsync", "-aHX", *way, "--delete", f"{origin}/", target)
        assert run("rsync", "-aHXi", "--delete", f"{origin}/", target) == ""
        churn(origin, seed=generation, steps=60)
    run("rsync", "-aHX", "--sparse", "--delete", f"{origin}/", target)
    assert run("rsync", "-aHXic", "--delete", f"{origin}/", target) == ""


def test_rsync_with_link_dest_makes_hard_links(source: Path, here: Path) -> None:
    run("rsync", "-aHX", f"{source}/", here / "first")
    run("rsync", "-aHX", f"--link-dest={here / 'first'}", f"{source}/", here / "second")
    assert (here / "first" / "noise 5").stat().st_ino == (here / "second" / "noise 5").stat().st_ino


@pytest.mark.parametrize("snapdir", ["hidden", "listed"])
def test_rsync_with_delete_into_the_root_leaves_snapshots_alone(
    tmp_path_factory: pytest.TempPathFactory, source: Path, tmp_path: Path, snapdir: str
) -> None:
    excluded = [] if snapdir == "hidden" else ["--exclude=/snapshots"]
    with shared_mount(tmp_path_factory, "-o", f"snapdir={snapdir}") as machine:
        root = machine.mount_point
        (root / "goes").mkdir()
        (root / "goes" / "file").write_text("soon deleted")
        (root / "snapshots" / "one").mkdir()
        for _ in range(2):
            run("rsync", "-aHX", "--delete", *excluded, f"{source}/", f"{root}/")
            assert (root / "snapshots" / "one" / "goes" / "file").read_text() == "soon deleted"
        assert run("rsync", "-aHXi", "--delete", *excluded, f"{source}/", f"{root}/") == ""
        assert ("snapshots" in {path.name for path in root.iterdir()}) == (snapdir == "listed")
        if snapdir == "hidden":
            run("cp", "-a", "--sparse=always", root, tmp_path / "copy of the root")
            assert_same(source, tmp_path / "copy of the root")
            assert "snapshots" not in run("find", root)
            assert [path.name for path in (root / "snapshots").iterdir()] == ["one"]


def test_restoring_from_a_snapshot(shared: Machine, source: Path, here: Path, tmp_path: Path) -> None:
    run("rsync", "-aHX", "--sparse", f"{source}/", here / "tree")
    shared.cubefs("snapshot", "create", shared.mount_point, "to restore")
    run("rm", "-rf", here / "tree")
    taken = shared.mount_point / "snapshots" / "to restore" / here.name / "tree"
    run("cp", "-a", "--sparse=always", taken, tmp_path / "by cp")
    run("rsync", "-aHX", "--sparse", f"{taken}/", tmp_path / "by rsync")
    run("cp", "-a", "--sparse=always", taken, here / "back in the live tree")
    for copy in (tmp_path / "by cp", tmp_path / "by rsync"):
        assert_same(source, copy)
    assert run("rsync", "-aHXic", "--delete", f"{source}/", here / "back in the live tree") == ""


# -- cp and tar ----------


def test_cp_in_and_out(source: Path, here: Path, tmp_path: Path) -> None:
    run("cp", "-a", source, here / "tree")
    assert_same(source, here / "tree")
    run("cp", "-a", "--sparse=always", here / "tree", tmp_path / "back")
    assert_same(source, tmp_path / "back")


def test_tar_in_and_out(source: Path, here: Path, tmp_path: Path) -> None:
    quiet = ["--warning=no-file-ignored", "--warning=no-timestamp"]  # sockets; the years 1901 to 2200
    everything = ["--xattrs", "--xattrs-include=*", "--sparse", "--format=posix", *quiet]
    time_ns = source.stat().st_mtime_ns
    archive = tmp_path / "archive.tar"
    run("tar", *everything, "-C", source, "-cf", archive, ".")
    (here / "tree").mkdir()
    run("tar", *everything, "-C", here / "tree", "-xpf", archive)
    run("rsync", "-a", source / "socket", here / "tree")
    os.utime(here / "tree", ns=(time_ns, time_ns))
    assert_same(source, here / "tree")
    run("tar", *everything, "-C", here / "tree", "-cf", here / "again.tar", ".")
    (tmp_path / "back").mkdir()
    run("tar", *everything, "-C", tmp_path / "back", "-xpf", here / "again.tar")
    run("rsync", "-a", source / "socket", tmp_path / "back")
    os.utime(tmp_path / "back", ns=(time_ns, time_ns))
    assert_same(source, tmp_path / "back")


# -- git ----------


def test_git(shared: Machine, here: Path, tmp_path: Path) -> None:
    """Clone into the mount, work there, pack, and look again after a remount from an empty cache."""
    origin = tmp_path / "origin"
    origin.mkdir()
    (origin / "src").mkdir()
    for number in range(150):
        (origin / "src" / f"file{number}.txt").write_text(f"{number}\n" * (number % 40 + 1))
    (origin / "run.sh").write_text("#!/bin/sh\necho hello from $0\n")
    (origin / "run.sh").chmod(0o755)
    (origin / "link").symlink_to("src/file1.txt")
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    run("git", "init", "-q", "-b", "main", cwd=origin)
    run("git", "add", ".", cwd=origin)
    run("git", *identity, "commit", "-qm", "first", cwd=origin)

    clone = here / "clone"
    run("git", "clone", "-q", origin, clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    run("git", "fsck", "--strict", "--no-progress", cwd=clone)
    assert run(clone / "run.sh").startswith("hello from")
    (clone / "src" / "file3.txt").write_text("changed\n")
    (clone / "src" / "file4.txt").unlink()
    (clone / "new.txt").touch()
    expected = {" M src/file3.txt", " D src/file4.txt", "?? new.txt"}
    assert set(run("git", "status", "--porcelain", cwd=clone).splitlines()) == expected
    run("git", "add", "-A", cwd=clone)
    run("git", *identity, "commit", "-qm", "second", cwd=clone)
    run("git", "switch", "-q", "-c", "branch", "HEAD~1", cwd=clone)
    run("git", "gc", "--aggressive", "--quiet", "--prune=now", cwd=clone)
    remount(shared, empty_cache=True)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    run("git", "fsck", "--strict", "--no-progress", cwd=clone)
    run("git", "switch", "-q", "main", cwd=clone)
    assert (clone / "src" / "file3.txt").read_text() == "changed\n"
    assert not (clone / "src" / "file4.txt").exists()


# -- programs that live in it ----------


def test_a_database_in_write_ahead_mode(here: Path) -> None:
    """It needs byte-range locks, fsync and memory shared between processes: SQLite with a WAL."""
    program = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=30)
for number in range(40):
    with connection:
        connection.execute("INSERT INTO line VALUES (?, ?)", (sys.argv[2], number))
"""
    path = here / "database"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
        connection.execute("CREATE TABLE line (writer TEXT, number INTEGER)")
        connection.commit()
        writers = [subprocess.Popen([sys.executable, "-c", program, path, name]) for name in "ab"]
        assert [writer.wait(60) for writer in writers] == [0, 0]
        assert connection.execute("SELECT count(*) FROM line").fetchone() == (80,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_program_runs_from_it(here: Path) -> None:
    run("cp", "--dereference", "/bin/echo", here / "program")
    assert run(here / "program", "it runs") == "it runs\n"


# -- looking ----------


def test_find_and_diff_see_the_same_tree(source: Path, here: Path) -> None:
    run("cp", "-a", source, here / "tree")
    tests: list[list[str]] = [
        ["-printf", r"%P %y %m %s %n %l %T@\0"],
        ["-type", "f", "-size", "+100k", "-printf", r"%P\0"],
        ["-perm", "-4000", "-printf", r"%P\0"],
        ["-newermt", "2000-01-01", "-printf", r"%P\0"],
        ["-empty", "-type", "f", "-printf", r"%P\0"],
        ["-links", "3", "-printf", r"%P\0"],
    ]
    if IS_ROOT:
        tests.append(["-uid", "+999", "-printf", r"%P %U %G\0"])
    for test in tests:
        # a directory's size, link count and what counts as empty are each file system's own
        only = ["!", "-type", "d", *test]
        expected = sorted(run("find", source, *only).split("\0"))
        assert len(expected) > 1, test
        assert sorted(run("find", here / "tree", *only).split("\0")) == expected
    directories = sorted(run("find", source, "-type", "d", "-printf", r"%P %m\0").split("\0"))
    assert sorted(run("find", here / "tree", "-type", "d", "-printf", r"%P %m\0").split("\0")) == directories
    excluded = [f"--exclude={name}" for name in ("fifo", "socket", "null", "disk")]  # diff would wait for a fifo
    assert run("diff", "-r", "--no-dereference", *excluded, source, here / "tree") == ""


def test_find_with_noleaf_and_without_finds_the_same(here: Path) -> None:
    """find without -noleaf trusts the link counts of directories to know when it has seen all of them."""
    for name in ("a/b/c", "a/d", "e"):
        (here / name).mkdir(parents=True)
        (here / name / "file").touch()
    assert sorted(run("find", here).split()) == sorted(run("find", here, "-noleaf").split())


def test_a_large_directory(here: Path) -> None:
    run("sh", "-c", 'i=0; while [ $i -lt 3000 ]; do : > "file $i"; i=$((i+1)); done', cwd=here)
    assert run("ls", "-f", here).count("file ") == 3000
    run("sh", "-c", "rm -f *7", cwd=here)
    assert len(list(here.iterdir())) == 2700
    run("rm", "-rf", here)
    assert not here.exists()
