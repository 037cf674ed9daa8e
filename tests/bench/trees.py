"""Makes what is backed up: many small real files, and one big file of real data. Repeatable on one machine."""

from __future__ import annotations

import itertools
import shutil
import sysconfig
import tarfile
from pathlib import Path
from typing import NamedTuple

from contrib.demo.realfiles import python_library, real_files
from contrib.demo.scratch import Scratch, StepError

SMALL_FILE_MAX_BYTES = 256 * 1024
BIG_FILE_MEMBER_MAX_BYTES = 64 * 1024 * 1024


class Sizes(NamedTuple):
    """How much to measure with."""

    tree_files: int  # at least, where the machine has them
    file_mean_bytes: int  # of the small files, about
    file_bytes: int  # of the big file, about


FULL = Sizes(tree_files=15_200, file_mean_bytes=16_700, file_bytes=800_000_000)
QUICK = Sizes(tree_files=1_500, file_mean_bytes=16_700, file_bytes=80_000_000)


class Inputs(NamedTuple):
    """The source of all copies: `directory` holds `tree` and `big.tar`."""

    directory: Path
    tree_files: int
    tree_entries: int  # directories included
    tree_bytes: int
    file_bytes: int

    @property
    def tree(self) -> Path:
        """The small files."""
        return self.directory / "tree"

    @property
    def file(self) -> Path:
        """The big file."""
        return self.directory / "big.tar"


def make_inputs(directory: Path, sizes: Sizes) -> Inputs:
    """Write both inputs below `directory`."""
    tree = directory / "tree"
    tree_files, tree_bytes = _make_tree(tree, sizes)
    tree_entries = sum(1 for _ in tree.rglob("*")) + 1
    file_bytes = _make_big_file(directory / "big.tar", sizes.file_bytes)
    return Inputs(directory, tree_files, tree_entries, tree_bytes, file_bytes)


def check_same_tree(scratch: Scratch, expected: Path, actual: Path) -> None:
    """Raise StepError when a restored tree is not the same in contents, modes, owners or times."""
    command = ["rsync", "-a", "--checksum", "--dry-run", "--delete", "--itemize-changes"]
    found = scratch.run([*command, f"{expected}/", f"{actual}/"]).stdout.splitlines()
    if found:
        raise StepError(f"the restored tree differs in {len(found)} entries, the first: {found[0]}")


def _make_tree(tree: Path, sizes: Sizes) -> tuple[int, int]:
    """Copy whole directories of small files, passing over those that would move the mean away; count them."""
    roots = [
        python_library(),
        *(Path(name) for name in ("/usr/share/doc", "/usr/include", "/usr/lib/python3")),
        Path(sysconfig.get_path("purelib")),
        *(Path(name) for name in ("/usr/share", "/usr/lib")),
    ]
    count = total_bytes = 0
    found = real_files(roots, max_bytes=SMALL_FILE_MAX_BYTES - 1)
    for directory, group in itertools.groupby(found, key=lambda file: file.path.parent):
        files = list(group)
        directory_bytes = sum(file.size_bytes for file in files)
        is_below = total_bytes < sizes.file_mean_bytes * count
        if is_below == (directory_bytes < sizes.file_mean_bytes * len(files)) and count:
            continue
        target = tree / directory.relative_to("/")
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy2(file.path, target)
        count += len(files)
        total_bytes += directory_bytes
        if count >= sizes.tree_files:
            break
    return count, total_bytes


def _make_big_file(path: Path, size_bytes: int) -> int:
    """Write a tar of the machine's own programs and libraries: what people's images and archives are like."""
    written_bytes = 0
    roots = [Path(name) for name in ("/usr/bin", "/usr/lib", "/usr/share", "/usr")]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for found in real_files(roots, max_bytes=BIG_FILE_MEMBER_MAX_BYTES):
            if written_bytes >= size_bytes:
                break
            archive.add(found.path, recursive=False)
            written_bytes += found.size_bytes
    return path.stat().st_size
