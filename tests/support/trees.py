"""Makes trees of everything that a file system can hold, and changes them as years of use would, repeatably.

The same seed makes and changes two trees alike, on any file system: one in a mount, one beside it to compare with.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

KIB = 1024
MIB = 1024 * KIB
SPARSE_BYTES = 40 * MIB
IS_ROOT = os.geteuid() == 0
NOT_UTF8 = b"caf\xe9 \xff\x01\x7f"
LONGEST = bytes(sorted({*range(1, 256)} - {ord("/")})) + b"!"  # 255 bytes: every byte that a name may have
SECOND_NS = 10**9


def make_everything(root: Path, *, seed: int = 1) -> None:
    """Fill the directory `root` with every kind of entry, some 15 MB."""
    rng = random.Random(seed)
    for number, size in enumerate((0, 1, 4095, 4096, 4097, 200 * KIB, MIB, 3 * MIB + 17)):
        (root / f"noise {number}").write_bytes(rng.randbytes(size))
    (root / "text").write_bytes(b"".join(b"line %d of the text\n" % number for number in range(100_000)))
    (root / "zeros").write_bytes(bytes(2 * MIB))
    many = root / "many"
    many.mkdir()
    for number in range(60):
        (many / f"{number:03}.txt").write_bytes(rng.randbytes(rng.randrange(3000)))
    _add_sparse(root / "sparse", rng)
    _add_names_and_links(root)
    _add_special_files(root)
    _add_modes(root)
    _add_xattrs(root)
    if IS_ROOT:
        for number, path in enumerate(sorted(many.iterdir())[:9]):
            os.chown(path, 1000 + number, 2000 + number)
        os.chown(root / "dangling", 77, 88, follow_symlinks=False)
    set_times(root, rng)


def set_times(root: Path, rng: random.Random) -> None:
    """Give every entry, `root` too, a time of its own between 1901 and 2200."""
    for path in [*reversed(_entries(root)), os.fspath(root)]:
        time_ns = rng.randrange(-(2**31) * SECOND_NS, 7_258_118_400 * SECOND_NS)
        os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)


def _entries(root: Path, *, of: Callable[[os.DirEntry[str]], bool] = lambda entry: True) -> list[str]:
    """Return the entries below `root` that `of` picks, in the same order on every file system, parents first."""
    found: list[str] = []
    pending = [os.fspath(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if of(entry):
                    found.append(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return sorted(found)


def _is_file(entry: os.DirEntry[str]) -> bool:
    return entry.is_file(follow_symlinks=False)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)


def _add_sparse(path: Path, rng: random.Random) -> None:
    with path.open("wb") as file:
        for offset in (123, 9 * MIB, 20 * MIB - 1):
            file.seek(offset)
            file.write(rng.randbytes(70_000))
        file.truncate(SPARSE_BYTES)


def _add_names_and_links(root: Path) -> None:
    for name in (NOT_UTF8, LONGEST, b"two\nlines", b" ", b"-rf", b"*", "Köln 東京".encode()):
        (root / os.fsdecode(name)).write_bytes(b"named " + name)
    deep = root / "deep"
    for level in range(8):
        deep = deep / f"level {level}"
    deep.mkdir(parents=True)
    (deep / "hard link").hardlink_to(root / "text")
    (root / "hard link").hardlink_to(root / "text")
    (root / "link").symlink_to("text")
    (root / "dangling").symlink_to("../nowhere")
    (root / "long link").symlink_to("x/" * 2000)
    (root / "link to directory").symlink_to("deep")
    (root / "empty directory").mkdir()


def _add_special_files(root: Path) -> None:
    os.mkfifo(root / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as unix:
        here = os.open(root, os.O_RDONLY)  # a socket's address is at most 108 bytes long
        try:
            unix.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
    if IS_ROOT:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))


def _add_modes(root: Path) -> None:
    for mode in (0o4755, 0o2711, 0o1644, 0o400, *([0o000] if IS_ROOT else [])):
        path = root / f"mode {mode:04o}"
        path.write_text(f"{mode:o}")
        path.chmod(mode)
    for mode in (0o1777, 0o2775, 0o700):
        path = root / f"directory mode {mode:04o}"
        path.mkdir()
        path.chmod(mode)


def _add_xattrs(root: Path) -> None:
    os.setxattr(root / "text", "user.value", b"with\x00zero")
    os.setxattr(root / "text", "user.empty", b"")
    os.setxattr(root / "many", "user.on a directory", b"x" * 1500)
    if IS_ROOT:
        os.setxattr(root / "text", "trusted.secret", b"1")
        os.setxattr(root / "dangling", "trusted.of a symlink", b"2", follow_symlinks=False)


# -- changing ----------


def churn(root: Path, *, seed: int, steps: int = 120) -> None:
    """Change the tree at random; the same tree and seed give the same changes."""
    rng = random.Random(seed)
    for _ in range(steps):
        rng.choice(_CHANGES)(root, rng)
    set_times(root, rng)


def _files(root: Path) -> list[str]:
    files = _entries(root, of=_is_file)
    return files if IS_ROOT else [path for path in files if os.access(path, os.R_OK | os.W_OK)]


def _pick_file(root: Path, rng: random.Random) -> Path:
    return Path(rng.choice(_files(root)))


def _pick_directory(root: Path, rng: random.Random) -> Path:
    return Path(rng.choice([os.fspath(root), *_entries(root, of=_is_directory)]))


def _new_name(root: Path, rng: random.Random) -> Path:
    return _pick_directory(root, rng) / f"new {rng.getrandbits(48):012x}"


def _add_file(root: Path, rng: random.Random) -> None:
    size = rng.choice((0, 10, 5000, 300 * KIB))
    _new_name(root, rng).write_bytes(rng.randbytes(size))


def _add_copy(root: Path, rng: random.Random) -> None:
    shutil.copyfile(_pick_file(root, rng), _new_name(root, rng))


def _add_directory(root: Path, rng: random.Random) -> None:
    _new_name(root, rng).mkdir()


def _add_link(root: Path, rng: random.Random) -> None:
    _new_name(root, rng).hardlink_to(_pick_file(root, rng))


def _add_symlink(root: Path, rng: random.Random) -> None:
    _new_name(root, rng).symlink_to(f"to/{rng.random()}")


def _overwrite(root: Path, rng: random.Random) -> None:
    path = _pick_file(root, rng)
    with path.open("r+b", buffering=0) as file:  # how much a buffer holds depends on the file system
        for _ in range(rng.randrange(1, 5)):
            file.seek(rng.randrange(path.stat().st_size + 1))
            file.write(rng.randbytes(rng.choice((1, 100, 5000, 40_000))))


def _append(root: Path, rng: random.Random) -> None:
    with _pick_file(root, rng).open("ab") as file:
        file.write(rng.randbytes(rng.choice((1, 1000, 200_000))))


def _truncate(root: Path, rng: random.Random) -> None:
    path = _pick_file(root, rng)
    size = path.stat().st_size
    os.truncate(path, rng.choice((0, size // 2, size + 100_000, max(0, size - 1))))


def _remove(root: Path, rng: random.Random) -> None:
    Path(rng.choice(_entries(root, of=lambda entry: not _is_directory(entry)))).unlink()


def _remove_tree(root: Path, rng: random.Random) -> None:
    path = _pick_directory(root, rng)
    if path != root and len(_entries(path)) < 20:
        shutil.rmtree(path)


def _rename(root: Path, rng: random.Random) -> None:
    source, target = Path(rng.choice(_entries(root))), _new_name(root, rng)
    if source not in target.parents:
        source.rename(target)


def _rename_over(root: Path, rng: random.Random) -> None:
    files = _files(root)
    Path(rng.choice(files)).replace(rng.choice(files))


def _change_attributes(root: Path, rng: random.Random) -> None:
    path = rng.choice((_pick_file, _pick_directory))(root, rng)
    path.chmod(rng.choice((0o600, 0o644, 0o755)) | (0o111 if path.is_dir() else 0))
    if IS_ROOT:
        os.chown(path, rng.randrange(5000), rng.randrange(5000))


def _change_xattrs(root: Path, rng: random.Random) -> None:
    path = rng.choice((_pick_file, _pick_directory))(root, rng)
    for name in sorted(os.listxattr(path)):
        if name.startswith("user.") and rng.random() < 0.5:
            os.removexattr(path, name)
    os.setxattr(path, f"user.{rng.randrange(4)}", rng.randbytes(rng.choice((0, 5, 1000))))


_CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    _add_file,
    _add_file,
    _add_copy,
    _add_directory,
    _add_link,
    _add_symlink,
    _overwrite,
    _overwrite,
    _append,
    _truncate,
    _remove,
    _remove,
    _remove_tree,
    _rename,
    _rename,
    _rename_over,
    _change_attributes,
    _change_xattrs,
)
