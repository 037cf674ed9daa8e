"""The cache directory of one file system on this machine: where it is, whose it is, and the lock on it.

Must never: open what the engine keeps there, or let go of the lock before the process ends.

| file         | what                                                                                        |
|--------------|---------------------------------------------------------------------------------------------|
| `lock`       | flock(2) is held while a process uses the directory; JSON says who (`Holder`)               |
| `owner`      | the uuid of the file system, hexadecimal                                                    |
| `locks`      | URL, superblock and key slots, for mounting while the store is down (remembered.py)         |
| `cubefs.log` | the daemon's log; `cubefs.log.1` is the one before                                          |
| `control`    | the socket for `cubefs status`, `sync`, `snapshot`, `umount`                                |
| others       | the engine's: the database and the packs                                                    |
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cubefs.app import kernel
from cubefs.errors import (
    CacheMismatchError,
    CubefsError,
    InUseError,
    LocalDiskError,
    LocalDiskFullError,
    UsageError,
)
from cubefs.visible import safe

ENVIRONMENT = "CUBEFS_CACHE_DIR"
LOCK = "lock"
OWNER = "owner"
LOG = "cubefs.log"
CONTROL = "control"

POLL_S = 0.1
STARTING_GRACE_S = 2.0  # a holder is given that long to write down who it is, or to exit
HOLDER_MAX_BYTES = 16 * 1024
MODE = 0o700
_TOLERATED = frozenset({LOCK, LOG, f"{LOG}.1", CONTROL, "lost+found"})  # may be there before `owner` is


class State(enum.Enum):
    """What the process holding the lock is doing."""

    STARTING = "starting"
    MOUNTED = "mounted"
    DRAINING = "draining"  # unmounted, still storing


@dataclass(frozen=True)
class Holder:
    """What is written in the lock file."""

    pid: int
    mount_point: str
    state: str  # the value of a State
    host: str


def directory_for(uuid: bytes, *, given: Path | None) -> Path:
    """Return the absolute path of the cache directory: as given, as the environment says, or the usual place."""
    return chosen_directory(given) or base_directory() / uuid.hex()


def chosen_directory(given: Path | None) -> Path | None:
    """Return the cache directory that the user chose (option, environment), absolute; None: the usual one."""
    chosen = given or (Path(value) if (value := os.environ.get(ENVIRONMENT)) else None)
    if chosen is None:
        return None
    return Path(os.path.abspath(chosen.expanduser()))  # noqa: PTH100  (Path.absolute keeps `..`)


def base_directory() -> Path:
    """Return where cache directories are unless said otherwise (XDG Base Directory Specification)."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(configured) if configured.startswith("/") else Path.home() / ".cache") / "cubefs"


class CacheDirectory:
    """A cache directory that this process (and the daemon it forks) holds the lock of."""

    def __init__(self, path: Path, lock: int) -> None:
        """Take over the locked descriptor; use `open_cache` to make one."""
        self.path = path
        self._lock = lock

    @property
    def log(self) -> Path:
        """The daemon's log."""
        return self.path / LOG

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.path / CONTROL

    def describe_holder(self, *, mount_point: Path, state: State) -> None:
        """Write down in the lock file who holds it; a reader may see the old text, never a mixture that parses."""
        holder = Holder(
            pid=os.getpid(), mount_point=os.fspath(mount_point), state=state.value, host=socket.gethostname()
        )
        with _translated(self.path):
            text = json.dumps(asdict(holder)).encode("ascii") + b"\n"
            os.pwrite(self._lock, text, 0)
            os.ftruncate(self._lock, len(text))


def open_cache(path: Path, *, uuid: bytes, mount_point: Path, on_wait: Callable[[Holder], None]) -> CacheDirectory:
    """Create the directory (0700) where missing, lock it, and make sure that it belongs to file system `uuid`.

    Waits for a daemon that is only finishing its uploads, after one call of `on_wait`. Raises InUseError naming
    where it is mounted, CacheMismatchError, UsageError for a directory full of other things, LocalDiskError.
    """
    with _translated(path):
        _make(path)
        _check_owner(path, uuid)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _wait_for(lock, path=path, on_wait=on_wait)
            _check_owner(path, uuid)
            _write_owner(path, uuid)
            cache = CacheDirectory(path, lock)
            cache.describe_holder(mount_point=mount_point, state=State.STARTING)
        except BaseException:
            os.close(lock)
            raise
    return cache


def find_holder(path: Path) -> Holder | None:
    """Return who holds the cache directory, as written in its lock file; None when that says nothing."""
    try:
        with (path / LOCK).open("rb") as file:
            fields = json.loads(file.read(HOLDER_MAX_BYTES))
        return Holder(
            pid=int(fields["pid"]),
            mount_point=str(fields["mount_point"]),
            state=State(fields["state"]).value,
            host=str(fields["host"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_locked(path: Path) -> bool:
    """Return whether some process holds the cache directory."""
    try:
        lock = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def find_draining(mount_point: Path) -> tuple[Path, Holder] | None:
    """Return the cache directory, among those in the usual place, whose daemon was unmounted from `mount_point`
    and is still storing."""
    candidates = [path.parent for path in sorted(base_directory().glob(f"*/{LOCK}"))]
    if configured := os.environ.get(ENVIRONMENT):
        candidates.append(Path(configured))
    for path in candidates:
        holder = find_holder(path)
        if holder is not None and holder.mount_point == os.fspath(mount_point) and is_locked(path):
            return path, holder
    return None


def _make(path: Path) -> None:
    """Make the directory, or make sure that what is there is ours and private."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=MODE)
    mode = path.stat().st_mode
    if not stat.S_ISDIR(mode):
        raise UsageError(f"the cache directory {safe(path)} is not a directory")
    if not (path / OWNER).exists():
        foreign = sorted(set(os.listdir(path)) - _TOLERATED)  # noqa: PTH208
        if foreign:
            raise UsageError(
                f"{safe(path)} holds other things ({safe(foreign[0])} ...): choose an empty directory for the cache"
            )
    if stat.S_IMODE(mode) & 0o077:
        path.chmod(MODE)


def _wait_for(lock: int, *, path: Path, on_wait: Callable[[Holder], None]) -> None:
    """Take the lock; wait while its holder is draining, and a moment for one that has not said what it does."""
    told = False
    patience_s = time.monotonic() + STARTING_GRACE_S
    while not _try_lock(lock, fcntl.LOCK_EX):
        holder = find_holder(path)
        if holder is not None and is_finishing(holder):
            if not told:
                on_wait(holder)
                told = True
        elif holder is not None and _is_alive(holder):
            where = f"process {holder.pid} on {holder.host}"
            verb = "is being mounted" if holder.state == State.STARTING.value else "is mounted"
            raise InUseError(
                f"the cache directory {safe(path)} is in use: the file system {verb} on"
                f" {safe(holder.mount_point)} ({where})"
            )
        elif time.monotonic() > patience_s:
            raise InUseError(f"the cache directory {safe(path)} is in use by another process")
        time.sleep(POLL_S)


def is_finishing(holder: Holder) -> bool:
    """Return whether the holder has been unmounted: it says so, or is about to say so."""
    if holder.state == State.DRAINING.value:
        return True
    if holder.state != State.MOUNTED.value or holder.host != socket.gethostname():
        return False
    try:
        mount = kernel.find_mount(Path(holder.mount_point), process=holder.pid)  # in its namespace, not in ours
    except OSError:
        return False
    return mount is None or mount.fs_type != kernel.FS_TYPE


def _is_alive(holder: Holder) -> bool:
    """Return whether the text in the lock file can be the holder's own, and not its predecessor's."""
    return holder.host != socket.gethostname() or Path(f"/proc/{holder.pid}").exists()


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_owned_by(path: Path, uuid: bytes) -> bool:
    """Return whether `path` is a cache directory of the file system `uuid`."""
    with _translated(path):
        return _find_owner(path) == uuid.hex()


def _find_owner(path: Path) -> str | None:
    try:
        return (path / OWNER).read_bytes()[:64].strip().decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None


def _check_owner(path: Path, uuid: bytes) -> None:
    owner = _find_owner(path)
    if owner is not None and owner != uuid.hex():
        raise CacheMismatchError(
            f"the cache directory {safe(path)} belongs to another file system ({safe(owner)}, not {uuid.hex()}):"
            " choose another one"
        )


def _write_owner(path: Path, uuid: bytes) -> None:
    if (path / OWNER).exists():
        return
    temporary = path / f".{OWNER}-{secrets.token_hex(4)}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, uuid.hex().encode("ascii") + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(path / OWNER)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except CubefsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LocalDiskFullError(
                f"the disk with the cache directory {safe(path)} is full: make room, or choose another --cache-dir"
            ) from error
        raise LocalDiskError(f"cannot use the cache directory {safe(path)}: {error.strerror}") from error
