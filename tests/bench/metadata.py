"""Costs of metadata at sizes that nobody wants to build by writing files: the file layer without FUSE.

Each size is a file system in a scratch directory: made by mkfs, opened once, filled by SQL (synthetic.py),
opened again and measured.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from contrib.demo.scratch import StepError
from cubefs.engine.unlock import unlock
from cubefs.format.keys import KdfParams
from cubefs.fs.filesystem import FileSystem, FsOptions, open_filesystem
from cubefs.mkfs.make import make_file_system
from cubefs.model import ROOT_INODE, SNAPSHOT_SHIFT, Caller, Chunking
from cubefs.store import open_store
from tests.bench import synthetic
from tests.bench.synthetic import BIG_DIRECTORY, BIG_FILE_NAME, Shape, file_name, parent_of, shape_of

PASSPHRASE = "not a secret: the file system lives for a minute"
QUICK_KDF = KdfParams(memory_kib=64, iterations=1, lanes=1)  # what is measured does not depend on it
PAGE_ENTRIES = 100
SNAPSHOT = "snapshot"
CALLER = Caller(uid=0, gid=0, umask=0o022)
OPEN_FLAGS = 0o2  # O_RDWR
HEARTBEAT_S = 0.001
RETIRE_MAX_S = 300.0
SQLITE_MAGIC = b"SQLite format 3\x00"


class Effort(NamedTuple):
    """How much to measure."""

    snapshot_inodes: tuple[int, ...]
    operation_inodes: tuple[int, ...]
    repetitions: int  # of each operation
    snapshots: int
    big_file_extents: int


FULL = Effort((1_000, 100_000, 1_000_000), (10_000, 1_000_000), 3_000, 7, 1_000_000)
QUICK = Effort((1_000, 10_000), (10_000,), 300, 3, 20_000)


class Sample(NamedTuple):
    """One measured figure of a file system of some size."""

    inodes: int  # 0: the figure is not about a number of inodes
    what: str
    seconds: float  # the median
    worst_seconds: float


def measure_metadata(directory: Path, effort: Effort) -> Iterator[Sample]:
    """Measure everything, one size after the other; `directory` must be empty and on the disk to measure."""
    for inodes in sorted({*effort.snapshot_inodes, *effort.operation_inodes}):
        place = directory / f"inodes-{inodes}"
        place.mkdir()
        samples: list[Sample] = []
        trio.run(_measure_size, place, shape_of(inodes), effort, samples)
        yield from samples
    place = directory / "extents"
    place.mkdir()
    samples = []
    trio.run(_measure_unlink, place, effort.big_file_extents, samples)
    yield from samples


async def _measure_size(place: Path, shape: Shape, effort: Effort, samples: list[Sample]) -> None:
    await _prepare(place, shape)
    async with _opened(place) as fs:
        if shape.inodes in effort.snapshot_inodes:
            samples.append(await _measure_snapshots(fs, shape, effort))
        if shape.inodes in effort.operation_inodes:
            async for sample in _measure_operations(fs, shape, effort):
                samples.append(sample)


async def _measure_snapshots(fs: FileSystem, shape: Shape, effort: Effort) -> Sample:
    """Take snapshots with some changes before each."""
    seconds: list[float] = []
    for number in range(effort.snapshots):
        await _create_files(fs, [b"before snapshot %d, %d" % (number, i) for i in range(100)])
        with _timed(seconds):
            await fs.snapshot_create(b"bench-%d" % number)
    return _sample(shape, SNAPSHOT, seconds)


async def _measure_operations(fs: FileSystem, shape: Shape, effort: Effort) -> AsyncIterator[Sample]:
    chance = random.Random(shape.inodes)
    numbers = [chance.randrange(shape.files) for _ in range(effort.repetitions)]
    oldest = fs.snapshot_list()[0].number << SNAPSHOT_SHIFT
    calls: dict[str, Callable[[int], object]] = {
        "lookup": lambda number: fs.lookup(parent_of(shape, number), file_name(number)),
        "lookup in the oldest snapshot": lambda number: fs.lookup(
            oldest | parent_of(shape, number), file_name(number)
        ),
        "getattr": lambda number: fs.getattr(shape.first_file + number),
        "getattr in the oldest snapshot": lambda number: fs.getattr(oldest | (shape.first_file + number)),
    }
    for what, call in calls.items():
        seconds: list[float] = []
        for number in numbers:
            with _timed(seconds):
                call(number)
        yield _sample(shape, what, seconds)
    for what, high in (("readdir page", 0), ("readdir page of the oldest snapshot", oldest)):
        yield _sample(shape, what, _page_times(fs, high | BIG_DIRECTORY, pages=effort.repetitions))
    names = [b"created %d" % number for number in range(effort.repetitions)]
    yield _sample(shape, "create", await _create_files(fs, names))
    seconds = []
    for name in names:
        with _timed(seconds):
            await fs.rename(BIG_DIRECTORY, name, BIG_DIRECTORY, b"renamed " + name)
    yield _sample(shape, "rename", seconds)


async def _create_files(fs: FileSystem, names: list[bytes]) -> list[float]:
    """Create files in the big directory; return the seconds of each call."""
    seconds: list[float] = []
    for name in names:
        with _timed(seconds):
            handle, _ = await fs.create(BIG_DIRECTORY, name, 0o644, OPEN_FLAGS, CALLER)
        fs.release(handle)
    return seconds


def _page_times(fs: FileSystem, directory: int, *, pages: int) -> list[float]:
    """Read a directory page by page, from its start again when it ends."""
    seconds: list[float] = []
    after_id = 0
    for _ in range(pages):
        with _timed(seconds):
            page = fs.readdir(directory, after_id, PAGE_ENTRIES)
        after_id = page[-1].next_id if page else 0
    return seconds


async def _measure_unlink(place: Path, extents: int, samples: list[Sample]) -> None:
    """Unlink a file that all snapshots see, and watch what its extents cost afterwards."""
    shape = shape_of(10_000)
    await _prepare(place, shape, big_file_extents=extents)
    async with _opened(place) as fs:
        seconds: list[float] = []
        late: list[float] = []
        started = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_loop, late)
            with _timed(seconds):
                await fs.unlink(ROOT_INODE, BIG_FILE_NAME)
            while fs.engine.database.execute("SELECT count(*) FROM detached").get:
                if time.monotonic() - started > RETIRE_MAX_S:
                    raise StepError(f"the extents were not retired within {RETIRE_MAX_S:.0f} s")
                await trio.sleep(0.1)
            retired_s = time.monotonic() - started
            nursery.cancel_scope.cancel()
    of_file = f"of a file of {extents:,} extents"
    samples.append(Sample(0, f"unlink {of_file}", seconds[0], seconds[0]))
    samples.append(Sample(0, f"until the extents {of_file} are retired", retired_s, retired_s))
    samples.append(Sample(0, "event loop late meanwhile", statistics.median(late), max(late)))


async def _watch_loop(late: list[float]) -> None:
    """Note how much later than asked for the event loop goes on."""
    while True:
        started = time.monotonic()
        await trio.sleep(HEARTBEAT_S)
        late.append(time.monotonic() - started - HEARTBEAT_S)


async def _prepare(place: Path, shape: Shape, *, big_file_extents: int = 0) -> None:
    """Make a file system of this shape."""
    async with _opened(place, create=True):
        pass
    synthetic.fill(_find_database(place / "cache"), shape, big_file_extents=big_file_extents)


@asynccontextmanager
async def _opened(place: Path, *, create: bool = False) -> AsyncIterator[FileSystem]:
    store = open_store(f"local://{place / 'store'}", create=create)
    if create:
        make_file_system(
            store, passphrase=PASSPHRASE, chunking=Chunking.CONTENT, kdf=QUICK_KDF, now_ns=time.time_ns()
        )
        (place / "cache").mkdir()
    superblock, _, keyring = unlock(store, PASSPHRASE)
    async with open_filesystem(
        FsOptions(), store=store, superblock=superblock, keyring=keyring, cache_dir=place / "cache"
    ) as fs:
        yield fs


def _find_database(cache: Path) -> Path:
    """Return the SQLite file in a cache directory that nobody uses (see cubefs/db/database.py on locks)."""
    for path in sorted(cache.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC:
                    return path
    raise StepError(f"no database in {cache}")


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - started)


def _sample(shape: Shape, what: str, seconds: list[float]) -> Sample:
    return Sample(shape.inodes, what, statistics.median(seconds), max(seconds))
