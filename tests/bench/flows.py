"""What every contender goes through in a round: the same steps, the same checks, the same cold start.

Two flows: file systems that are mounted (cubefs, the floor) and backup programs with commands of their own.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from contrib.demo.scratch import Scratch, StepError, disk_use_bytes
from tests.bench.rows import Results, Row
from tests.bench.trees import Inputs, check_same_tree


class Places(NamedTuple):
    """Where one contender works in one round; all of it is removed afterwards."""

    disk: Path  # stores, repositories, caches
    memory: Path  # restores, and what the floor is backed by


class Where(NamedTuple):
    """A store that is not on the disk: its address as a contender wants it, and what lets it in."""

    address: str
    environment: Mapping[str, str]


class MountedSystem(Protocol):
    """A file system that is written through its mount."""

    name: str
    rows: tuple[Row, ...]

    def create(self, places: Places) -> None:
        """Make an empty file system."""

    def mount(self) -> float:
        """Mount in a new process with an empty cache; return the seconds until it answers."""

    def unmount(self) -> None:
        """Unmount, end the process, forget the cache."""

    def live(self) -> Path:
        """Return the directory to write into."""

    def saved(self) -> Path:
        """Return the directory to restore from."""

    def sync(self) -> float:
        """Return the seconds until everything is in the store."""

    def snapshot(self) -> float:
        """Take a snapshot; return the seconds."""

    def stored_bytes(self) -> int:
        """Return the disk use of the store."""

    def peak_bytes(self) -> int:
        """Return the highest resident memory of this round's processes."""


class BackupProgram(Protocol):
    """A program that backs up and restores by commands."""

    name: str
    rows: tuple[Row, ...]

    def create(self, places: Places) -> None:
        """Make an empty repository."""

    def back_up(self, name: str, source: Path) -> float:
        """Back up one file or directory under `name`; return the seconds."""

    def forget_cache(self) -> None:
        """Remove what the program keeps outside the repository."""

    def restore(self, name: str, target: Path) -> float:
        """Restore into `target` what was backed up under `name`; return the seconds."""

    def stored_bytes(self) -> int:
        """Return the disk use of the repository."""

    def peak_bytes(self) -> int:
        """Return the highest resident memory of this round's processes."""


class Round(NamedTuple):
    """What a flow needs beside the contender."""

    scratch: Scratch
    inputs: Inputs
    places: Places
    results: Results


def drop_kernel_caches() -> None:
    """Write everything back, then forget it: pages, dentries, inodes. Needs root."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as error:
        raise StepError(f"cannot drop the kernel's caches ({error.strerror}): run as root") from None


def mounted_round(system: MountedSystem, round_: Round) -> None:
    """Take one contender that is mounted through all its rows."""
    scratch, inputs, places, results = round_

    def take(row: Row, action: Callable[[], float]) -> None:
        if row in system.rows:
            results.take(system.name, row, action)

    system.create(places)
    system.mount()
    os.sync()
    take(Row.TREE_IN, lambda: rsync(scratch, inputs.tree, system.live() / "tree"))
    take(Row.TREE_AGAIN, lambda: rsync(scratch, inputs.tree, system.live() / "tree"))
    take(Row.TREE_SYNC, system.sync)
    take(Row.SNAPSHOT, system.snapshot)
    system.sync()
    take(Row.STORED, system.stored_bytes)
    os.sync()
    take(Row.FILE_IN, lambda: copy(scratch, inputs.file, system.live() / inputs.file.name))
    take(Row.FILE_SYNC, system.sync)
    system.snapshot()
    take(Row.PEAK, system.peak_bytes)
    system.unmount()

    def tree_out() -> float:
        drop_kernel_caches()
        seconds = rsync(scratch, system.saved() / "tree", places.memory / "tree")
        check_same_tree(scratch, inputs.tree, places.memory / "tree")
        return seconds

    def file_out() -> float:
        drop_kernel_caches()
        seconds = copy(scratch, system.saved() / inputs.file.name, places.memory / inputs.file.name)
        check_same_file(inputs.file, places.memory / inputs.file.name)
        return seconds

    for row, action in ((Row.TREE_OUT, tree_out), (Row.FILE_OUT, file_out)):
        if os.geteuid() == 0:
            drop_kernel_caches()
        take(Row.MOUNT, system.mount) if Row.MOUNT in system.rows else system.mount()
        take(row, action)
        take(Row.PEAK, system.peak_bytes)
        system.unmount()


def program_round(program: BackupProgram, round_: Round) -> None:
    """Take one contender that has its own commands through all its rows."""
    scratch, inputs, places, results = round_

    def take(row: Row, action: Callable[[], float]) -> None:
        results.take(program.name, row, action)

    program.create(places)
    os.sync()
    take(Row.TREE_IN, lambda: program.back_up("first", inputs.tree))
    take(Row.TREE_AGAIN, lambda: program.back_up("again", inputs.tree))
    take(Row.STORED, program.stored_bytes)
    os.sync()
    take(Row.FILE_IN, lambda: program.back_up("file", inputs.file))

    def tree_out() -> float:
        program.forget_cache()
        drop_kernel_caches()
        seconds = program.restore("first", places.memory)
        check_same_tree(scratch, inputs.tree, places.memory / inputs.tree.name)
        return seconds

    def file_out() -> float:
        program.forget_cache()
        drop_kernel_caches()
        seconds = program.restore("file", places.memory)
        check_same_file(inputs.file, places.memory / inputs.file.name)
        return seconds

    take(Row.TREE_OUT, tree_out)
    take(Row.FILE_OUT, file_out)
    take(Row.PEAK, program.peak_bytes)


def empty(places: Places) -> None:
    """Remove what a contender left in its places."""
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that `action` took."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


def used_bytes(path: Path) -> int:
    """Return the disk use of a store, everything written back: delayed allocation would hide some."""
    os.sync()
    return disk_use_bytes(path)


def rsync(scratch: Scratch, source: Path, target: Path) -> float:
    """Copy a tree as users do; return the seconds."""
    return scratch.run(["rsync", "-a", f"{source}/", f"{target}/"]).seconds


def copy(scratch: Scratch, source: Path, target: Path) -> float:
    """Copy a file as users do; return the seconds."""
    return scratch.run(["cp", source, target]).seconds


def check_same_file(expected: Path, actual: Path) -> None:
    """Raise StepError when a restored file is not the same; remove it when it is."""
    if not filecmp.cmp(expected, actual, shallow=False):
        raise StepError(f"the restored {expected.name} differs")
    actual.unlink()
