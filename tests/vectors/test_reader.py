"""The stand-alone reader restores from a real store what the file system showed, and refuses a tampered one."""

from __future__ import annotations

import ast
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cubefs.engine.unlock import unlock
from cubefs.fs.filesystem import FileSystem
from cubefs.mkfs.make import make_file_system
from cubefs.model import MIB, ROOT_INODE, SNAPDIR_INODE, Chunking, SetAttr
from cubefs.store import open_store
from tests.support.calls import ME, list_names, make_file, read_all, truncate, write_at
from tests.support.driver import PASSPHRASE, TINY_KDF, Place, opened

READER = Path(__file__).resolve().parent / "reader.py"
NOISE = random.Random(5).randbytes(12 * MIB)
IS_ROOT = os.geteuid() == 0
HOLE_BYTES = 3 << 30
ODD_NAMES = (b"n" * 255, b"\xff\xfe not utf-8", b"new\nline", b" ", b"-rf")


class Shown(NamedTuple):
    """One entry of a tree, as the file system shows it or as it was restored."""

    mode: int
    owner: tuple[int, int]
    size_bytes: int
    mtime_ns: int
    rdev: int
    same_as: bytes  # the first path of the same inode, for hard links
    xattrs: dict[bytes, bytes]
    content: bytes  # of a regular file (beyond holes), target of a symlink


async def shown_by(fs: FileSystem, root: int) -> dict[bytes, Shown]:
    """Return everything below `root`, path → what it is."""
    found: dict[bytes, Shown] = {}
    first: dict[int, bytes] = {}
    waiting = [(b".", root)]
    while waiting:
        path, inode = waiting.pop(0)
        attr = fs.getattr(inode)
        kind = stat.S_IFMT(attr.mode)
        data = b""
        if kind == stat.S_IFREG:
            data = await read_all(fs, inode, offset=max(0, attr.size_bytes - 32 * MIB))
        elif kind == stat.S_IFLNK:
            data = fs.readlink(inode)
        found[path] = Shown(
            mode=attr.mode,
            owner=(attr.uid, attr.gid),
            size_bytes=0 if kind == stat.S_IFDIR else attr.size_bytes,
            mtime_ns=attr.mtime_ns,
            rdev=attr.rdev,
            same_as=first.setdefault(inode, path),
            xattrs={name: fs.getxattr(inode, name) for name in fs.listxattr(inode)},
            content=data,
        )
        if kind == stat.S_IFDIR:
            names = [name for name in list_names(fs, inode) if inode != ROOT_INODE or name != b"snapshots"]
            waiting += [(path + b"/" + name, fs.lookup(inode, name).ino) for name in sorted(names)]
    return found


def restored_at(directory: Path) -> dict[bytes, Shown]:
    """Return everything below a directory, path → what it is."""
    found: dict[bytes, Shown] = {}
    first: dict[int, bytes] = {}
    waiting = [b"."]
    top = os.fsencode(directory)
    while waiting:
        path = waiting.pop(0)
        full = os.path.join(top, path)  # noqa: PTH118
        info = os.lstat(full)
        data = b""
        if stat.S_ISREG(info.st_mode):
            with open(full, "rb") as file:  # noqa: PTH123
                file.seek(max(0, info.st_size - 32 * MIB))
                data = file.read()
        elif stat.S_ISLNK(info.st_mode):
            data = os.readlink(full)  # noqa: PTH115
        names = [os.fsencode(name) for name in os.listxattr(full, follow_symlinks=False)]
        found[path] = Shown(
            mode=info.st_mode,
            owner=(info.st_uid, info.st_gid),
            size_bytes=0 if stat.S_ISDIR(info.st_mode) else info.st_size,
            mtime_ns=info.st_mtime_ns,
            rdev=info.st_rdev,
            same_as=first.setdefault(info.st_ino, path),
            xattrs={
                name: os.getxattr(full, name, follow_symlinks=False) for name in names if name.startswith(b"user.")
            },
            content=data,
        )
        if stat.S_ISDIR(info.st_mode):
            waiting += [path + b"/" + name for name in sorted(os.listdir(full))]  # noqa: PTH208
    return found


def comparable(tree: dict[bytes, Shown], *, has_xattrs: bool) -> dict[bytes, Shown]:
    """Leave out what this machine or user cannot restore."""
    mine = (os.geteuid(), os.getegid())
    return {
        path: entry._replace(
            owner=entry.owner if IS_ROOT else mine,
            xattrs=entry.xattrs if has_xattrs else {},
        )
        for path, entry in tree.items()
    }


# -- the store ------------------------------------------------------------------------------------------------


class Made(NamedTuple):
    """A store with two snapshots, and what each view showed."""

    place: Place
    recovery_key: str
    shown: dict[bytes | None, dict[bytes, Shown]]


async def fill(fs: FileSystem) -> None:
    """Make one of everything."""
    await make_file(fs, b"empty")
    await make_file(fs, b"small", b"a few bytes\n")
    await make_file(fs, b"large", NOISE)
    await make_file(fs, b"compressible", b"the same line, again and again\n" * 100_000)
    await make_file(fs, b"the same as large", NOISE)
    sparse = await make_file(fs, b"sparse", b"start")
    await write_at(fs, sparse, HOLE_BYTES, b"end")
    await truncate(fs, sparse, HOLE_BYTES + 100_000)
    await write_at(fs, await make_file(fs, b"overwritten", NOISE[:5_000_000]), 2_000_000, b"another middle" * 1000)
    directory = (await fs.mkdir(ROOT_INODE, b"directory", 0o750, ME)).ino
    for number in range(300):
        await make_file(fs, b"file %d" % number, NOISE[number * 7 : number * 40], parent=directory)
    deep = directory
    for number in range(20):
        deep = (await fs.mkdir(deep, b"%d" % number, 0o700, ME)).ino
    for name in ODD_NAMES:
        await make_file(fs, name, name, parent=deep)
    await fs.link(fs.lookup(ROOT_INODE, b"small").ino, deep, b"hard link")
    await fs.symlink(deep, b"symlink", b"../\xfe/nowhere", ME)
    await fs.mknod(ROOT_INODE, b"fifo", stat.S_IFIFO | 0o644, 0, ME)
    await fs.mknod(ROOT_INODE, b"socket", stat.S_IFSOCK | 0o600, 0, ME)
    if IS_ROOT:
        await fs.mknod(ROOT_INODE, b"device", stat.S_IFCHR | 0o666, os.makedev(1, 3), ME)
        await fs.mknod(ROOT_INODE, b"block device", stat.S_IFBLK | 0o660, os.makedev(259, 65_537), ME)
    small = fs.lookup(ROOT_INODE, b"small").ino
    await fs.setattr(small, SetAttr(mode=0o4751, uid=1234, gid=5678), ME)
    await fs.setattr(small, SetAttr(mode=0o4751, mtime_ns=1_000_000_000_123_456_789), ME)
    await fs.setattr(directory, SetAttr(mtime_ns=987_654_321), ME)
    await fs.setxattr(small, b"user.colour", b"\0blue\xff")
    await fs.setxattr(directory, b"user.empty", b"")
    await fs.setattr(await make_file(fs, b"read only", b"x"), SetAttr(mode=0o400), ME)


async def change(fs: FileSystem) -> None:
    """Change some of everything."""
    directory = fs.lookup(ROOT_INODE, b"directory").ino
    await write_at(fs, fs.lookup(ROOT_INODE, b"large").ino, 3_000_000, b"changed" * 1000)
    await truncate(fs, fs.lookup(ROOT_INODE, b"the same as large").ino, 1_500_000)
    await truncate(fs, fs.lookup(ROOT_INODE, b"overwritten").ino, 0)
    await write_at(fs, fs.lookup(ROOT_INODE, b"sparse").ino, HOLE_BYTES // 2, b"middle")
    for number in range(0, 300, 3):
        await fs.unlink(directory, b"file %d" % number)
    await fs.rename(directory, b"file 1", ROOT_INODE, b"moved")
    await fs.rename(directory, b"file 2", directory, b"file 4")
    await fs.unlink(ROOT_INODE, b"fifo")
    await fs.setxattr(fs.lookup(ROOT_INODE, b"small").ino, b"user.colour", b"red")
    await fs.removexattr(directory, b"user.empty")
    await fs.setattr(directory, SetAttr(mode=0o711), ME)
    link = fs.lookup(ROOT_INODE, b"moved").ino
    await fs.link(link, directory, b"moved too")


@pytest.fixture(scope="module", params=Chunking)
def chunking(request: pytest.FixtureRequest) -> Chunking:
    """Return each kind of chunking in turn."""
    mode: Chunking = request.param
    return mode


@pytest.fixture
async def made(chunking: Chunking, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Make the store once for each kind of chunking."""
    if chunking not in _MADE:
        _MADE[chunking] = await make(tmp_path_factory.mktemp(chunking.value), chunking)
    return _MADE[chunking]


_MADE: dict[Chunking, Made] = {}


async def make(directory: Path, chunking: Chunking) -> Made:
    """Write from one machine, then from another, which rebuilds the database first."""
    store = open_store(f"local://{directory / 'store'}", create=True)
    done = make_file_system(store, passphrase=PASSPHRASE, chunking=chunking, kdf=TINY_KDF, now_ns=time.time_ns())
    superblock, _, keyring = unlock(store, PASSPHRASE)
    place = Place(directory / "store", directory / "cache", superblock, keyring)
    shown: dict[bytes | None, dict[bytes, Shown]] = {}
    async with opened(place) as fs:
        await fill(fs)
        await fs.snapshot_create(b"full")
        await fs.sync()
        await change(fs)
        await fs.snapshot_create(b"changed")
    async with opened(place.with_empty_cache("elsewhere")) as fs:
        shown[b"full"] = await shown_by(fs, fs.lookup(SNAPDIR_INODE, b"full").ino)
        shown[b"changed"] = await shown_by(fs, fs.lookup(SNAPDIR_INODE, b"changed").ino)
        await change_once_more(fs)
        await fs.sync()
        shown[None] = await shown_by(fs, ROOT_INODE)
    return Made(place, done.recovery_key_text, shown)


async def change_once_more(fs: FileSystem) -> None:
    """Change what no snapshot sees."""
    await fs.unlink(ROOT_INODE, b"large")
    await make_file(fs, b"after all snapshots", NOISE[::-1][:2_000_000])
    await write_at(fs, fs.lookup(ROOT_INODE, b"compressible").ino, 1_000_000, b"x")


# -- reading it -----------------------------------------------------------------------------------------------


def run_reader(
    store: Path, out: Path, *arguments: str | bytes, passphrase: str = PASSPHRASE
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CUBEFS_PASSPHRASE": passphrase}
    command = [sys.executable, "-I", os.fspath(READER), os.fspath(store), os.fspath(out), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", timeout=120)


@pytest.mark.parametrize("snapshot", [b"full", b"changed", None])
async def test_restores_what_the_file_system_showed(made: Made, snapshot: bytes | None, tmp_path: Path) -> None:
    options = [] if snapshot is None else ["--snapshot", snapshot]
    done = run_reader(made.place.store_dir, tmp_path / "out", *options)
    has_xattrs = "not supported" not in done.stderr  # user xattrs on the disk of this machine
    assert done.returncode == (0 if has_xattrs else 1), done.stderr
    expected = comparable(made.shown[snapshot], has_xattrs=has_xattrs)
    found = comparable(restored_at(tmp_path / "out"), has_xattrs=has_xattrs)
    assert list(found) == list(expected)
    for path, entry in expected.items():
        assert found[path] == entry, path
    assert os.lstat(tmp_path / "out" / "sparse").st_blocks * 512 < 2 * MIB


async def test_restores_what_was_written(made: Made, tmp_path: Path) -> None:
    """As above, without believing what the file system showed."""
    out = tmp_path / "out"
    run_reader(made.place.store_dir, out, "--snapshot", "full")
    found = restored_at(out)
    assert found[b"./large"].content == found[b"./the same as large"].content == NOISE
    assert (
        found[b"./overwritten"].content == NOISE[:2_000_000] + b"another middle" * 1000 + NOISE[2_014_000:5_000_000]
    )
    assert found[b"./sparse"].content == bytes(32 * MIB - 100_000) + b"end" + bytes(100_000 - 3)
    for number in range(300):
        assert found[b"./directory/file %d" % number].content == NOISE[number * 7 : number * 40]
    assert found[b"./small"].mtime_ns == 1_000_000_000_123_456_789
    assert found[b"./small"].mode == stat.S_IFREG | 0o4751
    changed = tmp_path / "changed"
    run_reader(made.place.store_dir, changed, "--snapshot", "changed")
    found = restored_at(changed)
    assert found[b"./large"].content == NOISE[:3_000_000] + b"changed" * 1000 + NOISE[3_007_000:]
    assert found[b"./the same as large"].content == NOISE[:1_500_000]
    assert b"./directory/file 0" not in found
    assert found[b"./moved"].content == found[b"./directory/moved too"].content == NOISE[7:40]


async def test_a_recovery_key_opens_too(made: Made, tmp_path: Path) -> None:
    done = run_reader(made.place.store_dir, tmp_path / "out", passphrase=made.recovery_key.lower())
    assert done.returncode in (0, 1), done.stderr
    assert (tmp_path / "out" / "after all snapshots").stat().st_size == 2_000_000


async def test_refuses_wrong_passphrase_and_unknown_snapshot(made: Made, tmp_path: Path) -> None:
    done = run_reader(made.place.store_dir, tmp_path / "out", passphrase="wrong")
    assert (done.returncode, done.stderr.strip()) == (2, "refused: wrong passphrase: no key slot opens")
    done = run_reader(made.place.store_dir, tmp_path / "out", "--snapshot", "none")
    assert "there are: 'full', 'changed'" in done.stderr
    assert run_reader(tmp_path, tmp_path / "out").stderr.startswith("refused: not cubefs")
    assert not (tmp_path / "out").exists()


def flip_a_pack(store: Path) -> None:
    """Flip one bit in the middle of the largest pack."""
    path = max((store / "packs").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def flip_a_log_object(store: Path) -> None:
    path = sorted((store / "meta").iterdir())[0]
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def remove_a_log_object(store: Path) -> None:
    sorted((store / "meta").iterdir())[0].unlink()


def swap_log_objects(store: Path) -> None:
    first, second = sorted((store / "meta").iterdir())[:2]
    first_data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_data)


def change_the_superblock(store: Path) -> None:
    data = (store / "cubefs").read_bytes()
    (store / "cubefs").write_bytes(data[:-2] + (b"0" if data[-2:-1] != b"0" else b"1") + b"\n")


def remove_the_manifests(store: Path) -> None:
    for path in (store / "base").glob("*/manifest"):
        path.unlink()


@pytest.mark.parametrize(
    "tamper",
    [
        flip_a_pack,
        flip_a_log_object,
        remove_a_log_object,
        swap_log_objects,
        change_the_superblock,
        remove_the_manifests,
    ],
)
async def test_refuses_a_tampered_store(made: Made, tamper: Callable[[Path], None], tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(made.place.store_dir, store)
    tamper(store)
    done = run_reader(store, tmp_path / "out", "--snapshot", "full")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("refused: damaged: "), done.stderr


def test_the_reader_does_not_import_cubefs() -> None:
    parts = {path.stem: path for path in READER.parent.glob("reader*.py")}
    allowed = {*sys.stdlib_module_names, *parts, "blake3", "zstandard", "cryptography"}
    for path in parts.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path
