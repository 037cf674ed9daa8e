"""Everything that users do wrong before anything is mounted: one clear line, the documented exit code, no loss.

The commands are real; each test ends by proving that what was there before still is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.mounting import Machine, small_disk, wait_until


def assert_unharmed(machine: Machine) -> None:
    """Mount and find the file."""
    assert (machine.mount() / "precious").read_text() == "data"
    machine.umount()


def refused(machine: Machine, *command: str | Path, code: int, says: str, **options: object) -> str:
    """Run a command that must fail with one line; return that line."""
    result = machine.run(*map(str, command), **options)  # type: ignore[arg-type]
    line = result.error_line()
    assert result.code == code, line
    assert says in line
    assert result.out == ""
    return line


# -- which file system -------------------------------------------------------------------------------------


def test_wrong_passphrase(filled: Machine) -> None:
    wrong = {"CUBEFS_PASSPHRASE": "wrong"}
    command = ("cubefs", "mount", filled.url, filled.mount_point)
    line = refused(filled, *command, code=3, says="wrong passphrase", environment=wrong)
    assert "wrong " not in line.replace("wrong passphrase", "")  # the passphrase itself is not repeated
    refused(filled, *command, code=3, says="wrong", environment={"CUBEFS_PASSPHRASE": "AAAAAAA-" * 7 + "AAAAAAA"})
    assert not os.path.ismount(filled.mount_point)
    assert_unharmed(filled)


def test_no_store_there(machine: Machine) -> None:
    machine.mount_point.mkdir()
    refused(machine, "cubefs", "mount", machine.url, machine.mount_point, code=4, says="mkfs.cubefs")
    assert not (machine.root / "store").exists()


def test_a_store_without_a_file_system(machine: Machine) -> None:
    machine.mount_point.mkdir()
    (machine.root / "store").mkdir()
    machine.objects().put("holiday.jpg", b"\xff\xd8")
    refused(machine, "cubefs", "mount", machine.url, machine.mount_point, code=4, says="no cubefs file system")
    assert machine.object_names() == ["holiday.jpg"]


def test_something_else_in_place_of_the_superblock(filled: Machine) -> None:
    store = filled.objects()
    original = store.get("cubefs")
    store.put("cubefs", bytes(100))
    refused(filled, "cubefs", "mount", filled.url, filled.mount_point, code=4, says=filled.url)
    store.put("cubefs", original)
    assert_unharmed(filled)


def test_a_newer_format_version(filled: Machine) -> None:
    store = filled.objects()
    original = store.get("cubefs")
    store.put("cubefs", original.replace(b"version 1\n", b"version 7\n"))
    line = refused(filled, "cubefs", "mount", filled.url, filled.mount_point, code=5, says="7")
    assert "1" in line and "newer" in line
    store.put("cubefs", original)
    assert_unharmed(filled)


def test_mkfs_over_an_existing_file_system(filled: Machine) -> None:
    line = refused(filled, "mkfs.cubefs", filled.url, code=6, says="never overwrites")
    assert filled.url in line
    # it is found out before a passphrase is asked for
    refused(filled, "mkfs.cubefs", filled.url, code=6, says="holds", environment={"CUBEFS_PASSPHRASE": None})
    assert_unharmed(filled)


# -- where to mount ----------------------------------------------------------------------------------------


def test_mount_point_missing(filled: Machine) -> None:
    refused(filled, "cubefs", "mount", filled.url, filled.root / "nowhere", code=7, says="mkdir")
    assert_unharmed(filled)


def test_mount_point_is_a_file(filled: Machine) -> None:
    file = filled.root / "file"
    file.write_text("mine")
    refused(filled, "cubefs", "mount", filled.url, file, code=7, says="not a directory")
    assert file.read_text() == "mine"


def test_mount_point_not_empty(filled: Machine) -> None:
    (filled.mount_point / "mine").write_text("mine")
    refused(filled, "cubefs", "mount", filled.url, filled.mount_point, code=7, says="nonempty")
    filled.mount("-o", "nonempty")
    assert not (filled.mount_point / "mine").exists()
    filled.umount()
    assert (filled.mount_point / "mine").read_text() == "mine"


def test_already_mounted(filled: Machine) -> None:
    target = filled.mount()
    refused(filled, "cubefs", "mount", filled.url, target, code=7, says="already mounted")
    other_name = filled.root / "link"
    other_name.symlink_to(target)
    refused(filled, "cubefs", "mount", filled.url, other_name, code=7, says="already mounted")
    assert (target / "precious").read_text() == "data"


def test_the_mount_would_hide_its_own_store_or_cache(filled: Machine) -> None:
    target = filled.mount_point
    inside = target / "cache"
    refused(
        filled, "cubefs", "mount", filled.url, target, "--cache-dir", inside, code=2, says="inside the mount point"
    )
    if filled.remote is None:
        inside_store = filled.store / "packs"
        refused(filled, "cubefs", "mount", filled.url, inside_store, "-o", "nonempty", code=2, says="store")
    refused(filled, "cubefs", "mount", filled.url, filled.root, "-o", "nonempty", code=2, says="inside")
    # through a symlink as well
    (filled.root / "innocent").symlink_to(target)
    through = filled.root / "innocent" / "cache"
    refused(filled, "cubefs", "mount", filled.url, target, "--cache-dir", through, code=2, says="inside")
    assert not inside.exists()
    assert_unharmed(filled)


def test_a_misspelt_option(filled: Machine) -> None:
    command = ("cubefs", "mount", filled.url, filled.mount_point, "-o", "snapdirr=hidden")
    refused(filled, *command, code=2, says="snapdirr=hidden")
    assert_unharmed(filled)


@pytest.mark.parametrize("command", ["umount", "status", "sync"])
def test_commands_for_mounts_on_what_is_none(machine: Machine, command: str) -> None:
    machine.mount_point.mkdir()
    refused(machine, "cubefs", command, machine.mount_point, code=7, says="not the mount point of a cubefs")
    refused(machine, "cubefs", command, machine.root / "nowhere", code=7, says="does not exist")


# -- the cache directory -----------------------------------------------------------------------------------


def test_cache_directory_of_another_file_system(filled: Machine) -> None:
    assert_unharmed(filled)  # makes the cache directory
    other = f"local://{filled.root}/other"
    filled.cubefs("mkfs", other)
    line = refused(filled, "cubefs", "mount", other, filled.mount_point, code=7, says="another file system")
    assert str(filled.cache) in line
    assert_unharmed(filled)


def test_cache_directory_full_of_other_things(filled: Machine) -> None:
    home = filled.root / "home"
    home.mkdir(mode=0o755)
    (home / "thesis.tex").write_text("mine")
    command = ("cubefs", "mount", filled.url, filled.mount_point, "--cache-dir", home)
    refused(filled, *command, code=2, says="thesis.tex")
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]
    assert home.stat().st_mode & 0o777 == 0o755


def test_second_mount_of_the_same_cache(filled: Machine) -> None:
    target = filled.mount()
    second = filled.root / "second"
    second.mkdir()
    line = refused(filled, "cubefs", "mount", filled.url, second, code=7, says="is in use")
    assert str(target) in line
    assert (target / "precious").read_text() == "data"


def test_cache_directory_that_cannot_be_made(filled: Machine) -> None:
    (filled.root / "file").write_text("")
    impossible = filled.root / "file" / "cache"
    command = ("cubefs", "mount", filled.url, filled.mount_point, "--cache-dir", impossible)
    refused(filled, *command, code=9, says=str(impossible))


@pytest.mark.usefixtures("as_root")
def test_cache_disk_full_at_mount(filled: Machine) -> None:
    disk = filled.root / "disk"
    small_disk(disk, size="64k")
    subprocess.run(["dd", "if=/dev/zero", f"of={disk}/fill"], capture_output=True, check=False)
    (disk / "cache").mkdir()
    command = ("cubefs", "mount", filled.url, filled.mount_point, "--cache-dir", disk / "cache")
    line = refused(filled, *command, code=9, says="full")
    assert str(disk / "cache") in line
    assert not os.path.ismount(filled.mount_point)
    # and a disk that has room for the lock, but not for the database
    (disk / "fill").unlink()
    refused(filled, *command, code=9, says="full")
    assert not os.path.ismount(filled.mount_point)
    assert_unharmed(filled)


@pytest.mark.usefixtures("as_root")
def test_cache_disk_full_while_writing(filled: Machine) -> None:
    disk = filled.root / "disk"
    small_disk(disk, size="160M")
    filled.cache = disk / "cache"
    target = filled.mount("--cache-dir", filled.cache)
    (disk / "others").write_bytes(bytes(50 * 2**20))
    kept = 0
    with pytest.raises(OSError, match="No space left on device"):
        for kept in range(400):
            (target / f"{kept:03}").write_bytes(os.urandom(2**20))
            if kept % 8 == 0:
                os.sync()
    assert kept > 10
    (disk / "others").unlink()
    wait_until(lambda: not filled.status()["file_system"]["cache_disk_full"])
    (target / "afterwards").write_text("fine")
    filled.umount()
    target = filled.mount("--cache-dir", filled.cache)
    assert all((target / f"{number:03}").stat().st_size == 2**20 for number in range(kept))
    assert (target / "afterwards").read_text() == "fine"
    assert (target / "precious").read_text() == "data"


# -- the store ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("as_root")
def test_mkfs_in_a_store_that_is_full(machine: Machine) -> None:
    small_disk(machine.store, size="8k")
    (machine.store / "fill").touch()
    subprocess.run(["dd", "if=/dev/zero", f"of={machine.store}/fill"], capture_output=True, check=False)
    refused(machine, "mkfs.cubefs", machine.url, code=8, says="no room")
    assert not (machine.store / "cubefs").exists()


@pytest.mark.usefixtures("as_root")
def test_a_store_that_cannot_be_written(machine: Machine) -> None:
    small_disk(machine.store, size="1M")
    subprocess.run(["mount", "-o", "remount,ro", machine.store], check=True)
    refused(machine, "mkfs.cubefs", machine.url, code=8, says="ermission")


@pytest.mark.usefixtures("as_root")
def test_store_full_while_mounted_waits_and_loses_nothing(machine: Machine) -> None:
    small_disk(machine.store, size="4M")
    machine.mkfs()
    target = machine.mount()
    content = os.urandom(6 * 2**20)
    (target / "big").write_bytes(content)
    syncing = machine.start("cubefs", "sync", target)
    assert syncing.stderr is not None
    line = syncing.stderr.readline()
    assert (line.startswith("cubefs: the store fails, trying again") and "full" in line) or "no room" in line, line
    assert syncing.poll() is None
    assert (target / "big").read_bytes() == content  # everything goes on meanwhile
    subprocess.run(["mount", "-o", "remount,size=64M", machine.store], check=True)
    assert syncing.wait(60) == 0
    machine.umount()
    shutil.rmtree(machine.cache)
    assert (machine.mount() / "big").read_bytes() == content
