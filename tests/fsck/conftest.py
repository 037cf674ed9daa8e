"""A real file system, made once per session and copied for each test, and a short way to audit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from cubefs.format.pack import PackIndex, read_pack
from cubefs.fsck.report import Finding, Report
from cubefs.fsck.run import audit
from cubefs.model import Chunking
from cubefs.store import Store
from tests.support.calls import ME as CALLER
from tests.support.calls import make_file, write_at
from tests.support.content import content
from tests.support.driver import Place, copy_place, make_place, opened

LONG_BYTES = 3 * 1024 * 1024  # with fixed chunking one block, in three frames of noise
NOISE = 3  # kind of content


@dataclass(frozen=True)
class Audited:
    """A file system that nobody has open."""

    place: Place

    def audit(self, *, data: bool = True, store: Store | None = None, cache: bool = False, **more: Any) -> Report:
        """Run fsck on it."""
        place = self.place
        return audit(
            store or place.store(),
            keyring=place.keyring,
            superblock=place.superblock,
            superblock_bytes=place.superblock.encode(),
            data=data,
            cache_dir=place.cache_dir if cache else None,
            **more,
        )

    def packs(self) -> list[Path]:
        """Return the pack files in the order in which they were stored."""
        packs = [path for path in (self.place.store_dir / "packs").rglob("*") if path.is_file()]
        return sorted(packs, key=lambda path: path.stat().st_mtime_ns)

    def index(self, pack: Path) -> PackIndex:
        """Return what a pack says it holds."""
        return read_pack(pack.read_bytes(), pack_key=self.place.keyring.pack_key, uuid=self.place.superblock.uuid)

    def objects(self, prefix: str) -> list[Path]:
        """Return the files of the objects below a prefix, sorted."""
        return sorted(path for path in (self.place.store_dir / prefix).rglob("*") if path.is_file())

    def name(self, path: Path) -> str:
        """Return an object's name."""
        return path.relative_to(self.place.store_dir).as_posix()


def affected(finding: Finding) -> dict[bytes, tuple[bytes, ...]]:
    """Return the paths that a finding names, each with its views: snapshots, then `live`."""
    return {path.path: path.snapshots + ((b"live",) if path.is_live else ()) for path in finding.affects.paths}


async def _use(place: Place) -> None:
    """Make three packs: of `docs`, of `long.bin` and a name that is not UTF-8, of the new `docs/a.txt`.

    `monday` has the first only, `tuesday` and the present have all but `docs/b.txt`.
    """
    async with opened(place) as fs:
        docs = (await fs.mkdir(1, b"docs", 0o755, CALLER)).ino
        a = await make_file(fs, b"a.txt", content(NOISE, 5000), parent=docs)
        await make_file(fs, b"b.txt", content(NOISE, 6000, 10_000), parent=docs)
        await fs.sync()
        await fs.snapshot_create(b"monday")
        await make_file(fs, b"long.bin", content(NOISE, LONG_BYTES, 1_000_000))
        await make_file(fs, b"caf\xe9", content(NOISE, 700, 50_000))
        await fs.symlink(1, b"link", b"docs/a.txt", CALLER)
        await fs.setxattr(docs, b"user.colour", b"blue")
        await fs.sync()
        await write_at(fs, a, 0, content(NOISE, 5000, 70_000))
        await fs.unlink(docs, b"b.txt")
        await fs.snapshot_create(b"tuesday")
        await fs.rename(1, b"link", docs, b"moved")
        await fs.sync()


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """The file system that the copies are made of: leave it alone."""
    place = make_place(tmp_path_factory.mktemp("fsck"), Chunking.FIXED)
    trio.run(_use, place)
    return Audited(place)


@pytest.fixture
def used(pristine: Audited, tmp_path: Path) -> Audited:
    """A copy of a file system with three packs and two snapshots; its cache is empty."""
    return Audited(copy_place(pristine.place, tmp_path / "copy"))


@pytest.fixture
def flip() -> Callable[[Path, int], None]:
    """Return a function that flips one bit of a file."""

    def flip_bit(path: Path, offset: int) -> None:
        data = bytearray(path.read_bytes())
        data[offset] ^= 0x10
        path.write_bytes(data)

    return flip_bit
