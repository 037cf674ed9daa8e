"""Opens file systems for tests of the engine: chosen stores, quick retries, and copies as a crash leaves them."""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cubefs.db.audit import Audit
from cubefs.db.audit_check import Severity
from cubefs.fs.filesystem import FileSystem, FsOptions, open_filesystem
from cubefs.store import Store
from cubefs.store.retry import Retrying
from cubefs.store.verify import Patience
from tests.support.driver import Place

QUIET = FsOptions(commit_interval_s=100_000.0, recovery_point_s=100_000.0)  # commits only when asked to
HANG_S = 15.0  # nothing in these tests takes a tenth of it


class CrashError(Exception):
    """Ends a file system without draining it."""


@contextlib.asynccontextmanager
async def running(place: Place, *, store: Store | None = None, **options: Any) -> AsyncIterator[FileSystem]:
    """Open the file system of a place over `store`; a hang fails the test."""
    place.cache_dir.mkdir(parents=True, exist_ok=True)
    with trio.fail_after(HANG_S):
        async with open_filesystem(
            replace(QUIET, **options),
            store=place.store() if store is None else store,
            superblock=place.superblock,
            keyring=place.keyring,
            cache_dir=place.cache_dir,
        ) as filesystem:
            yield filesystem


@contextlib.asynccontextmanager
async def crashing(place: Place, *, store: Store | None = None, **options: Any) -> AsyncIterator[FileSystem]:
    """As `running`, but nothing is drained at the end: what was not committed is lost."""
    with contextlib.suppress(CrashError):
        try:
            async with running(place, store=store, **options) as filesystem:
                yield filesystem
                raise CrashError
        except BaseExceptionGroup as group:
            if group.split(CrashError)[1] is not None:
                raise


def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the store's own retries take milliseconds, and so the pauses of uploads and shipping."""
    quick = functools.partial(Retrying, attempts=2, first_delay_s=0.001, longest_delay_s=0.002)
    monkeypatch.setattr("cubefs.engine.engine.Retrying", quick)
    for module in ("uploading", "shipping", "reading"):
        monkeypatch.setattr(f"cubefs.engine.{module}._PAUSE_FIRST_S", 0.01)
        monkeypatch.setattr(f"cubefs.engine.{module}._PAUSE_MAX_S", 0.1)
    monkeypatch.setattr("cubefs.engine.reading._FETCH_AGAIN_S", 0.01)
    impatient = Patience(0.03, 0.01, 0.01, different_first_s=0.005, again_first_s=0.005)
    monkeypatch.setattr("cubefs.store.verify.PATIENCE", impatient)


def copy_as_killed(place: Place, target: Path) -> Place:
    """Copy store and cache as a process killed at this moment leaves them. Call it in the loop.

    The database goes before its WAL: a checkpoint in between copies pages that the WAL still holds.
    """
    copied = replace(place, store_dir=target / "store", cache_dir=target / "cache")
    copy_store(place.store_dir, copied.store_dir)
    copied.cache_dir.mkdir(parents=True)
    (copied.cache_dir / "packs").mkdir()
    names = ["db.sqlite", "db.sqlite-wal"]
    names += sorted(f"packs/{path.name}" for path in (place.cache_dir / "packs").iterdir())
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(place.cache_dir / name, copied.cache_dir / name)
    return copied


def copy_store(source: Path, target: Path) -> None:
    """Copy the objects of a store in use."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".tmp-*"))


def findings(place: Place, *, is_shipped: bool = False) -> list[str]:
    """Return what the audit of the local database says; it must be closed."""
    with Audit(place.cache_dir / "db.sqlite", is_shipped=is_shipped, uuid=place.superblock.uuid) as audit:
        return [
            f"{violation.check.name}: {violation.row}"
            for violation in audit.violations()
            if violation.check.severity is Severity.ERROR
        ]


async def wait_until(condition: Any, *, poll_s: float = 0.005) -> None:
    """Wait until a condition holds; the caller's deadline ends it."""
    while not condition():  # noqa: ASYNC110 - nobody tells the condition's change
        await trio.sleep(poll_s)


@functools.lru_cache(maxsize=64)
def noise(seed: int, size_bytes: int) -> bytes:
    """Return bytes that neither compress nor repeat; the same arguments give the same."""
    return random.Random(seed).randbytes(size_bytes)


def packs_in(directory: Path) -> Iterable[Path]:
    """Return the local pack files."""
    return sorted(directory.glob("*.pack"))
