"""A store in a local directory: one file per object, names as paths.

Must never: retry, or touch anything outside its directory.

Write order, and what a crash leaves:
1. write and fsync `.tmp-<random>` in the store's directory   a temporary file, removed a day later
2. make the object's directories, fsync their parents         empty directories, used by the next put
3. rename (put) or link (put_new) to the final name           the object, perhaps not yet durable
4. fsync the object's directory                               the object
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cubefs.errors import (
    ObjectExistsError,
    ObjectMissingError,
    StoreDeniedError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from cubefs.model import MIB
from cubefs.store import base
from cubefs.store.base import ObjectInfo, Pace
from cubefs.store.pace import PART_BYTES, Unpaced, receive

FREE_PART_BYTES = 16 * MIB  # moved at a time while there is no limit: a disk does that in a moment
TEMPORARY_PREFIX = ".tmp-"
TEMPORARY_AGE_NS = 24 * 3600 * 10**9  # older ones belong to nobody any more: no put takes a day
FILE_MODE = 0o600  # sealed, but still nobody else's business
DIRECTORY_MODE = 0o700

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})
# of network and removable file systems, and of a machine short of something for the moment
_UNAVAILABLE = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
    | {errno.EBUSY, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENODEV, errno.ENXIO}
)
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


class LocalStore:
    """The driver for `local:///directory`. Implements `base.Store`."""

    def __init__(self, root: Path, *, clock: Callable[[], int] = time.time_ns, pace: Pace | None = None) -> None:
        """Open the store in the existing directory `root` (absolute)."""
        self._root = root
        self._clock = clock
        self._pace = pace or Unpaced()
        self._lock = threading.Lock()
        self._durable: set[str] = {""}  # directories whose own entry is known to be on disk
        self._swept = False
        with self._translated(""):
            self._identity = self._find_identity()
        if self._identity is None:
            raise StoreError(f"store directory does not exist: {root}")

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Rename a durable temporary file to the name."""
        self._create(name, data, lambda temporary: temporary.rename(self._root / name))

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """Link a durable temporary file to the name."""
        self._create(name, data, lambda temporary: self._link(temporary, name))

    def get(self, name: str, *, newest: bool = False) -> bytes:
        """Read the whole file."""
        base.check_name(name)
        with self._translated(name), (self._root / name).open("rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > base.OBJECT_MAX_BYTES:
                raise StoreError(f"{name} in {self.describe()} is {size_bytes} bytes long: not one of ours")
            return self._read(file, size_bytes)

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """Read a range of the file."""
        base.check_name(name)
        base.check_range(name, start=start, length=length)
        with self._translated(name), (self._root / name).open("rb", buffering=0) as file:
            file.seek(start)
            data = self._read(file, length)
        if len(data) != length:
            raise StoreError(f"{name} in {self.describe()} ends before byte {start + length}")
        return data

    def head(self, name: str, *, newest: bool = False) -> ObjectInfo:
        """Ask the file system for size and time."""
        base.check_name(name)
        with self._translated(name):
            status = (self._root / name).stat()
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a file")
            return ObjectInfo(name, status.st_size, status.st_mtime_ns)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Walk the directories, each sorted as its objects' full names are."""
        base.check_prefix(prefix)
        with self._translated(prefix):
            self._check_root()
            directory = prefix.rpartition("/")[0]
            yield from self._walk(directory + "/" if directory else "", prefix, start_after)

    def delete(self, name: str) -> None:
        """Unlink the file. Its directory stays: the next put may be about to use it."""
        base.check_name(name)
        with contextlib.suppress(ObjectMissingError), self._translated(name):
            path = self._root / name
            path.unlink()
            _fsync_directory(path.parent)

    def delete_many(self, names: Iterable[str]) -> None:
        """Unlink one after the other."""
        for name in names:
            self.delete(name)

    def describe(self) -> str:
        """Return the URL."""
        return f"local://{self._root}"

    def now_ns(self) -> int:
        """Return this machine's time."""
        return self._clock()

    def free_bytes(self) -> int | None:
        """Return what the directory's file system has free for us; 0 when it cannot say."""
        try:
            status = os.statvfs(self._root)
        except OSError:
            return 0
        return status.f_bavail * status.f_frsize

    def _read(self, file: io.FileIO, length: int) -> bytes:
        """Read the next `length` bytes, fewer where the file ends: as fast as they may come."""
        rest_bytes = length

        def read(size: int) -> bytes:
            nonlocal rest_bytes
            part = file.read(min(size, rest_bytes))
            rest_bytes -= len(part)
            return part

        return receive(read, length=length, pace=self._pace, free_part_bytes=FREE_PART_BYTES)

    def _find_identity(self) -> tuple[int, int] | None:
        """Return what tells the store's directory from an empty mount point of the same path."""
        try:
            status = self._root.stat()
        except FileNotFoundError:
            return None
        return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None

    def _check_root(self) -> None:
        """Raise StoreUnavailableError when the directory is gone or its disk is not mounted any more."""
        identity = self._find_identity()
        if identity is None:
            raise StoreUnavailableError(f"store directory does not exist any more: {self._root}")
        if identity != self._identity:
            raise StoreUnavailableError(f"store directory was replaced or its disk unmounted: {self._root}")

    def _create(self, name: str, data: bytes | memoryview, place: Callable[[Path], object]) -> None:
        """Do the four steps of a put; `place` gives the temporary file its final name."""
        base.check_name(name)
        with self._translated(name, missing=StoreError), self._temporary(data) as temporary:
            try:
                parent = self._make_parents(name)
                place(temporary)
            except FileNotFoundError:  # somebody removed directories that we thought were there: once more
                self._check_root()
                with self._lock:
                    self._durable = {""}
                parent = self._make_parents(name)
                place(temporary)
            _fsync_directory(parent)

    @contextlib.contextmanager
    def _temporary(self, data: bytes | memoryview) -> Iterator[Path]:
        """Write `data` durably to a temporary file, removed at the end if it still has that name."""
        self._check_root()
        self._sweep()
        path = self._root / f"{TEMPORARY_PREFIX}{secrets.token_hex(12)}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                rest = memoryview(data).cast("B")
                while rest:
                    is_limited = self._pace.is_limited_up()
                    part = rest[: PART_BYTES if is_limited else FREE_PART_BYTES]
                    if is_limited:
                        self._pace.sending(len(part))
                    rest = rest[os.write(descriptor, part) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield path
        finally:
            with contextlib.suppress(OSError):
                path.unlink()

    def _link(self, temporary: Path, name: str) -> None:
        """Give the file its final name unless that is taken (link(2) never replaces)."""
        try:
            os.link(temporary, self._root / name)
        except FileExistsError:
            raise ObjectExistsError(f"{name} exists already in {self.describe()}") from None
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise StoreError(
                    f"the file system under {self.describe()} has no hard links, without which no object can "
                    "be created exclusively: use another one"
                ) from error
            raise

    def _make_parents(self, name: str) -> Path:
        """Make the directories of `name`, each durable before anything is put into it; return the last.

        A directory found there may be one that another thread or a crashed process has only just made: the
        first use in this process syncs its parent, whoever made it.
        """
        parent = ""
        for component in name.split("/")[:-1]:
            directory = f"{parent}{component}/"
            if directory not in self._durable:
                with contextlib.suppress(FileExistsError):
                    (self._root / directory).mkdir(mode=DIRECTORY_MODE)
                _fsync_directory(self._root / parent)
                with self._lock:
                    self._durable.add(directory)
            parent = directory
        return self._root / parent

    def _sweep(self) -> None:
        """Once per process, before the first write: remove temporary files that a crash left long ago."""
        with self._lock:
            if self._swept:
                return
            self._swept = True
        oldest_ns = self._clock() - TEMPORARY_AGE_NS
        with os.scandir(self._root) as entries:
            for entry in entries:
                if entry.name.startswith(TEMPORARY_PREFIX):
                    with contextlib.suppress(FileNotFoundError):
                        if entry.stat(follow_symlinks=False).st_mtime_ns < oldest_ns:
                            Path(entry.path).unlink()

    def _walk(self, directory: str, prefix: str, start_after: str) -> Iterator[ObjectInfo]:
        """Yield a directory's objects in order of their full names, as a store without directories would."""
        try:
            with os.scandir(self._root / directory) as entries:
                names = sorted(_sort_key(entry) for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            full = directory + name
            # a directory is passed over when all its names are at or before start_after
            passed = full <= start_after and not (name.endswith("/") and start_after.startswith(full))
            inside = full.startswith(prefix) or (name.endswith("/") and prefix.startswith(full))
            if passed or not inside or not base.is_name(full.removesuffix("/")):
                continue
            if name.endswith("/"):
                yield from self._walk(full, prefix, start_after)
            else:
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    status = (self._root / full).stat()
                    if stat.S_ISREG(status.st_mode):
                        yield ObjectInfo(full, status.st_size, status.st_mtime_ns)

    @contextlib.contextmanager
    def _translated(self, name: str, *, missing: type[StoreError] = ObjectMissingError) -> Iterator[None]:
        """Turn the operating system's errors into the store's: none leaves this module.

        `missing`: what it means that a path is not there.
        """
        try:
            yield
        except OSError as error:
            number, where = error.errno, f"{name or 'the directory'} in {self.describe()}"
            if number in _MISSING and name:
                self._check_root()
                what = "no object" if missing is ObjectMissingError else "no place for"
                raise missing(f"{what} {where}") from error
            if number in _FULL:
                raise StoreFullError(f"no room for {where}: {error.strerror}") from error
            if number in _DENIED:
                raise StoreDeniedError(f"no permission for {where}: {error.strerror}") from error
            if number in _UNAVAILABLE:
                raise StoreUnavailableError(f"{where}: {error.strerror}") from error
            raise StoreError(f"{where}: {error.strerror}") from error


def _sort_key(entry: os.DirEntry[str]) -> str:
    """Return a name that sorts where its objects do: `a-b` stands before `a/b`, though `a` < `a-b`."""
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
