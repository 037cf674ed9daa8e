"""Runs a FileSystem in a trio loop of its own thread, for callers that are not asynchronous.

A hypothesis state machine is synchronous, the file system is not: every attribute of the driver is the file
system's method of that name, called in the loop and waited for. No FUSE, no kernel between.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio

from cubefs.engine.unlock import unlock
from cubefs.format.keys import KdfParams, Keyring
from cubefs.format.superblock import Superblock
from cubefs.fs.filesystem import FileSystem, FsOptions, open_filesystem
from cubefs.fsck.report import Finding
from cubefs.fsck.run import audit
from cubefs.mkfs.make import make_file_system
from cubefs.model import Chunking
from cubefs.store import Store, open_store

TINY_KDF = KdfParams(memory_kib=8, iterations=1, lanes=1)  # the least that Argon2 takes: microseconds
PASSPHRASE = "a passphrase for tests"
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 20.0  # a call that takes longer hangs


@dataclass(frozen=True)
class Place:
    """A file system on disk: its store, its keys, and the cache of one machine."""

    store_dir: Path
    cache_dir: Path
    superblock: Superblock
    keyring: Keyring

    def with_empty_cache(self, name: str) -> Place:
        """Return the same file system as another machine sees it."""
        return replace(self, cache_dir=self.cache_dir.parent / name)

    def store(self) -> Store:
        """Open the store."""
        return open_store(f"local://{self.store_dir}")


def make_place(directory: Path, chunking: Chunking = Chunking.CONTENT) -> Place:
    """Make a file system below `directory`."""
    store = open_store(f"local://{directory / 'store'}", create=True)
    make_file_system(store, passphrase=PASSPHRASE, chunking=chunking, kdf=TINY_KDF, now_ns=time.time_ns())
    superblock, _, keyring = unlock(store, PASSPHRASE)
    return Place(directory / "store", directory / "cache", superblock, keyring)


def copy_place(place: Place, directory: Path) -> Place:
    """Copy the store of a file system that is not open; the cache begins empty."""
    shutil.copytree(place.store_dir, directory / "store")
    return replace(place, store_dir=directory / "store", cache_dir=directory / "cache")


def audit_findings(place: Place, *, data: bool) -> list[Finding]:
    """Return what fsck finds in a store that nobody has open, notes included."""
    report = audit(
        place.store(),
        keyring=place.keyring,
        superblock=place.superblock,
        superblock_bytes=place.superblock.encode(),
        data=data,
        cache_dir=place.cache_dir if place.cache_dir.exists() else None,
    )
    return list(report.findings)


@contextlib.asynccontextmanager
async def opened(place: Place, options: FsOptions | None = None) -> AsyncIterator[FileSystem]:
    """Open the file system of a place in the running loop."""
    place.cache_dir.mkdir(parents=True, exist_ok=True)
    async with open_filesystem(
        options or FsOptions(),
        store=place.store(),
        superblock=place.superblock,
        keyring=place.keyring,
        cache_dir=place.cache_dir,
    ) as filesystem:
        yield filesystem


class Driver:
    """One open file system. `close()` drains and closes it."""

    def __init__(self, place: Place, options: FsOptions | None = None) -> None:
        self.place = place
        self.options = options or FsOptions()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._filesystem: FileSystem | None = None
        self._thread = threading.Thread(target=self._run, name="trio loop", daemon=True)
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError("the file system does not open")
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # whatever it is belongs to the thread that waits
            self._failure = error
        finally:
            self._ready.set()

    async def _main(self) -> None:
        async with opened(self.place, self.options) as self._filesystem:
            self._token = trio.lowlevel.current_trio_token()
            self._leave = trio.Event()
            self._ready.set()
            await self._leave.wait()

    @property
    def is_open(self) -> bool:
        """Whether calls can be made."""
        return self._thread.is_alive() and self._failure is None

    @property
    def filesystem(self) -> FileSystem:
        """The file system itself, for use inside `run`."""
        assert self._filesystem is not None
        return self._filesystem

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `function` in the loop, wait for what it returns, await that where it is awaitable."""

        async def call() -> Any:
            with trio.fail_after(CALL_TIMEOUT_S):
                outcome = function(*args, **kwargs)
                return await outcome if inspect.isawaitable(outcome) else outcome

        try:
            return trio.from_thread.run(call, trio_token=self._token)
        except (trio.RunFinishedError, trio.Cancelled):
            self._thread.join()
            raise self._failure or RuntimeError("the file system is closed") from None

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        method = getattr(self.filesystem, verb)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run(method, *args, **kwargs)

        return call

    def copy_as_after_a_crash(self, target: Path) -> Place:
        """Copy store and cache as a process killed at this moment would leave them.

        The loop stands still while it copies: nothing is half written but by workers, as in a real crash.
        The database goes before its WAL: a checkpoint in between copies pages that the WAL still holds.
        """
        place = Place(target / "store", target / "cache", self.place.superblock, self.place.keyring)

        def copy() -> None:
            def database_first(path: Path) -> tuple[bool, str]:
                return path.name.endswith(("-wal", "-shm")), path.name

            for source, copied in (
                (self.place.cache_dir, place.cache_dir),
                (self.place.store_dir, place.store_dir),
            ):
                for path in sorted(source.rglob("*"), key=database_first):
                    destination = copied / path.relative_to(source)
                    if path.is_dir():
                        destination.mkdir(parents=True, exist_ok=True)
                    elif not path.name.endswith("-shm"):  # rebuilt from the WAL by the next opener
                        destination.parent.mkdir(parents=True, exist_ok=True)
                        copy_where_present(path, destination)

        self.run(copy)
        return place

    def close(self) -> None:
        """Drain, close cleanly and end the loop; raises what the file system raises."""
        if self._thread.is_alive() and self._token is not None:
            self.run(self._leave.set)
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def stop_quietly(self) -> None:
        """End the loop if it still runs, whatever it says: the test has failed already."""
        with contextlib.suppress(BaseException):
            self.close()


def copy_where_present(source: Path, destination: Path) -> None:
    """Copy a file unless a worker has removed it since it was listed."""
    try:
        shutil.copyfile(source, destination)
    except FileNotFoundError:
        destination.unlink(missing_ok=True)
