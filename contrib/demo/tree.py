"""Makes the demo's source tree from real files, adds what backups get wrong, and changes it like a day's work."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from pathlib import Path
from typing import NamedTuple

from contrib.demo.realfiles import python_library, real_files

MIB = 1 << 20
MAX_FILES = 4_000
MAX_TREE_BYTES = 100 * MIB
MAX_FILE_BYTES = 8 * MIB
SPARSE_FILE_BYTES = 64 * MIB
LONGEST_NAME = "n" * 251 + ".txt"
NOT_UTF8_NAME = os.fsdecode(b"caf\xe9 (Latin-1).txt")
SECOND_NS = 1_000_000_000
TIME_NS = 1_700_000_000 * SECOND_NS
BEFORE_1970_NS = -86_400 * SECOND_NS + 123_456_789
AFTER_2038_NS = 4_102_444_800 * SECOND_NS + 987_654_321  # the year 2100


class Source(NamedTuple):
    """What was made."""

    files: int
    directories: int
    content_bytes: int  # see `count`
    oddities: list[str]
    missing: list[str]  # oddities that this machine or this user cannot make, with the reason


class Totals(NamedTuple):
    """Entries of a tree."""

    files: int
    directories: int
    content_bytes: int


def make_source(root: Path) -> Source:
    """Fill the empty directory `root`."""
    copied_bytes = 0
    library = python_library()
    for number, found in enumerate(real_files([library, Path("/usr/share/doc")], max_bytes=MAX_FILE_BYTES)):
        if number >= MAX_FILES or copied_bytes >= MAX_TREE_BYTES:
            break
        inside = found.path.is_relative_to(library)
        name = Path("library") / found.path.relative_to(library) if inside else found.path.relative_to("/usr/share")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(found.path, root / name)
        copied_bytes += found.size_bytes
    shutil.copytree(root / "library" / "asyncio", root / "second copy" / "asyncio")
    shutil.copytree(root / "library" / "encodings", root / "second copy" / "encodings")
    oddities, missing = _add_oddities(root)
    set_times(root)
    return Source(*count(root), oddities, missing)


def count(root: Path) -> Totals:
    """Return how much is in a tree: names, and bytes of data (holes not counted, hard links counted once)."""
    files = content_bytes = directories = 0
    seen: set[tuple[int, int]] = set()
    for directory, below, names in os.walk(root):
        directories += len(below)
        for name in names:
            status = (Path(directory) / name).lstat()
            files += 1
            if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                content_bytes += min(status.st_size, status.st_blocks * 512)
    return Totals(files, directories, content_bytes)


def set_times(root: Path) -> None:
    """Give every entry a time of its own with odd nanoseconds, the root included; the same for the same tree."""
    found = [Path(directory) / name for directory, below, names in os.walk(root) for name in below + names]
    for number, path in enumerate([root, *sorted(found)]):
        odd_ns = {"empty": BEFORE_1970_NS, "mode 0400": AFTER_2038_NS}.get(path.name)
        time_ns = odd_ns or TIME_NS + number * 1_000_000_007
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def change_tree(root: Path) -> str:
    """Change the tree as users do between two backups; the same changes for the same tree. Say what was done.

    Works in place: appends, overwrites, truncates, renames over, deletes. Sets the times itself.
    """
    files = [path for path in _writable_files(root / "library") if path.stat().st_size > 2_000]
    for number, path in enumerate(files):
        match number % 40:
            case 0:
                path.unlink()
            case 1:
                with path.open("ab") as file:
                    file.write(b"appended after the first snapshot\n" * 50)
            case 2:
                with path.open("r+b") as file:
                    file.seek(1_000)
                    file.write(b"OVERWRITTEN")
            case 3:
                os.truncate(path, path.stat().st_size // 2)
            case 4:
                replacement = path.with_name(path.name + ".new")
                replacement.write_bytes(path.read_bytes()[::-1])
                replacement.replace(path)
            case 5:
                path.chmod(0o600)
    shutil.rmtree(root / "second copy" / "encodings")
    (root / "second copy").rename(root / "renamed directory")
    new = root / "new"
    new.mkdir()
    for number in range(100):
        (new / f"note {number}.txt").write_text(f"written after the first snapshot, number {number}\n" * 20)
    odd = root / "oddities"
    with (odd / "sparse").open("r+b") as file:
        file.seek(SPARSE_FILE_BYTES // 3)
        file.write(b"data in what was a hole")
    (odd / "hard link 2").unlink()
    (odd / NOT_UTF8_NAME).write_text("the same name, other words\n")
    set_times(root)
    return "deleted, appended to, overwritten, truncated, replaced, renamed and added files and directories"


def _writable_files(root: Path) -> list[Path]:
    found = (Path(directory) / name for directory, _, names in os.walk(root) for name in names)
    return sorted(path for path in found if path.is_file() and os.access(path, os.W_OK))


def _add_oddities(root: Path) -> tuple[list[str], list[str]]:
    """Add to `root`/oddities what a restore must bring back; return what was added, and what could not be."""
    odd = root / "oddities"
    odd.mkdir()
    missing: list[str] = []
    _add_names_and_links(odd)
    _add_sparse(odd / "sparse")
    modes = [0o4755, 0o2755, 0o1644, 0o400, 0o501, *([0o000] if os.geteuid() == 0 else [])]
    for mode in modes:
        path = odd / f"mode {mode:04o}"
        path.write_text(f"mode {mode:o}\n")
        path.chmod(mode)
    (odd / "like tmp").mkdir()
    (odd / "like tmp").chmod(0o1777)
    os.mkfifo(odd / "fifo")
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.open(odd, os.O_RDONLY)  # the address of a socket is at most 108 bytes long: bind from inside
        try:
            unix.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
    added = ["names that are not UTF-8 or 255 bytes long", "hard links", "symlinks", "a sparse file of 64 MiB"]
    added += ["odd modes", "times before 1970 and after 2038", "a fifo", "a socket"]
    for what, add in (("xattrs", _add_xattrs), ("foreign owners", _add_owners), ("devices", _add_devices)):
        try:
            add(odd)
            added.append(what)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP):
                raise
            missing.append(f"{what} ({os.strerror(error.errno)})")
    return added, missing


def _add_names_and_links(odd: Path) -> None:
    (odd / NOT_UTF8_NAME).write_text("a name from before UTF-8\n")
    (odd / LONGEST_NAME).write_text("the longest name\n")
    (odd / "two\nlines").write_text("a name of two lines\n")
    (odd / "empty").touch()
    (odd / "hard link 1").write_text("one file, three names\n")
    (odd / "hard link 2").hardlink_to(odd / "hard link 1")
    (odd / "deep").mkdir()
    (odd / "deep" / "hard link 3").hardlink_to(odd / "hard link 1")
    (odd / "symlink").symlink_to("hard link 1")
    (odd / "symlink to nothing").symlink_to("../does/not/exist")
    (odd / "symlink to a directory").symlink_to("deep")
    (odd / "long symlink").symlink_to("x/" * 500 + "end")


def _add_sparse(path: Path) -> None:
    """Write a file of three islands in a sea of holes, ending in a hole."""
    with path.open("wb") as file:
        for offset in (0, SPARSE_FILE_BYTES // 2 + 12_345, SPARSE_FILE_BYTES - 5 * MIB):
            file.seek(offset)
            file.write(os.fsencode(__file__) * 500)
        file.truncate(SPARSE_FILE_BYTES)


def _add_xattrs(odd: Path) -> None:
    os.setxattr(odd / "hard link 1", "user.demo", b"value\x00with a zero byte")
    os.setxattr(odd / "hard link 1", "user.empty", b"")
    os.setxattr(odd / "deep", "user.on-a-directory", b"x" * 2_000)


def _add_owners(odd: Path) -> None:
    (odd / "of somebody else").write_text("chown\n")
    os.chown(odd / "of somebody else", 12_345, 54_321)
    os.chown(odd / "symlink to nothing", 12_345, 54_321, follow_symlinks=False)


def _add_devices(odd: Path) -> None:
    os.mknod(odd / "character device", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mknod(odd / "block device", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
