"""What we ask of the kernel without a library for it: mounts, unmounting, syncfs, limits on this process.

Must never: know about file systems' contents, or wait on the event loop (everything here may block).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from cubefs.errors import InUseError, MountPointError
from cubefs.visible import one_line, safe

FS_TYPE = "fuse.cubefs"
NOFILE_MAX = 1 << 20  # more is never used, and some programs walk over all of them
UNMOUNT_TIMEOUT_S = 300  # umount writes back what programs stored through mmap

_MNT_DETACH = 2  # <sys/mount.h>
_PR_SET_DUMPABLE = 4  # <sys/prctl.h>

_M_MMAP_THRESHOLD = -3  # malloc.h
PACK_BUFFER_BYTES = 2 * 1024 * 1024  # above a frame, below what a pack takes on its way
_libc = ctypes.CDLL(None, use_errno=True)  # CDLL releases the GIL around each call


class Mount(NamedTuple):
    """One line of /proc/PID/mountinfo."""

    device: str  # major:minor
    target: Path
    fs_type: str
    source: str


def mounts(process: int | str = "self") -> list[Mount]:
    """Return all mounts that a process sees, in mount order; OSError when there is no such process."""
    found = []
    for line in Path(f"/proc/{process}/mountinfo").read_bytes().splitlines():
        # proc_pid_mountinfo(5): optional fields end with a lone dash
        fields, _, rest = line.partition(b" - ")
        before, after = fields.split(b" "), rest.split(b" ")
        found.append(
            Mount(
                device=before[2].decode("ascii"),
                target=Path(os.fsdecode(_unescaped(before[4]))),
                fs_type=os.fsdecode(_unescaped(after[0])),
                source=os.fsdecode(_unescaped(after[1])),
            )
        )
    return found


def find_mount(target: Path, *, process: int | str = "self") -> Mount | None:
    """Return what is mounted on exactly `target` (resolved, absolute), the topmost if several are."""
    return next((mount for mount in reversed(mounts(process)) if mount.target == target), None)


def _unescaped(field: bytes) -> bytes:
    for code in (b"040", b"011", b"012", b"043", b"134"):  # backslash last: its result must not be read again
        field = field.replace(b"\\" + code, bytes([int(code, 8)]))
    return field


def unmount(target: Path, *, lazily: bool = False) -> None:
    """Unmount `target`; the kernel first sends out what it holds back. With `lazily` also while it is in use.

    Raises InUseError when something is open in it (it then stays mounted), MountPointError for all else.
    """
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(target), _MNT_DETACH if lazily else 0) == 0:
            return
        number = ctypes.get_errno()
        if number == errno.EBUSY:
            raise InUseError(f"{safe(target)} is in use")
        if number == errno.EINVAL and find_mount(target) is None:
            return  # somebody else was faster
        raise MountPointError(f"cannot unmount {safe(target)}: {os.strerror(number)}")
    command = [fusermount(), "-u", *(["-z"] if lazily else []), "--", os.fspath(target)]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=UNMOUNT_TIMEOUT_S, env=_plain_environment()
    )
    if result.returncode != 0:
        said = one_line(os.fsdecode(result.stderr).strip().split("\n")[-1])
        if "busy" in said.lower():
            raise InUseError(f"{safe(target)} is in use")
        raise MountPointError(f"cannot unmount {safe(target)}: {said or 'fusermount3 failed'}")


def fusermount() -> str:
    """Return the path of fusermount3, which mounts for users who are not root."""
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise MountPointError("fusermount3 is not installed: install the package fuse3, or run as root")
    return program


def _plain_environment() -> dict[str, str]:
    # messages in English, and nothing secret handed on
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def sync_kernel_pages(target: Path) -> None:
    """Have the kernel send out pages that programs changed through mmap (syncfs(2)). Run it in a worker: the
    writes come to our own event loop."""
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fspath(target))
    finally:
        os.close(descriptor)


def users_of(target: Path, *, at_most: int = 3) -> list[str]:
    """Return `name (pid)` of processes with something open in `target`, as far as we may see."""
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        if int(process.name) != os.getpid() and _uses(process, target):
            try:
                name = (process / "comm").read_text(errors="replace").strip()
            except OSError:
                continue
            found.append(f"{safe(name)} ({process.name})")
            if len(found) == at_most:
                break
    return found


def _uses(process: Path, target: Path) -> bool:
    try:
        links = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:
        return False
    for link in links:
        try:
            path = link.readlink()  # never stat: that would ask the file system itself
        except OSError:
            continue
        if path == target or target in path.parents:
            return True
    return False


def keep_secrets_in_memory() -> None:
    """No core dumps, and no attaching of debuggers by the same user: both would show the keys."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl(PR_SET_DUMPABLE)")


def forget_variable(name: str) -> None:
    """Overwrite an environment variable where /proc/PID/environ shows it, and remove it."""
    _libc.getenv.restype = ctypes.c_void_p
    where = _libc.getenv(os.fsencode(name))
    if where:
        ctypes.memset(where, 0, len(ctypes.string_at(where)))
    os.environ.pop(name, None)


def raise_file_limit() -> None:
    """Raise the number of files this process may open to what it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = NOFILE_MAX if hard == resource.RLIM_INFINITY else min(hard, NOFILE_MAX)
    if soft == resource.RLIM_INFINITY or soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def give_memory_back() -> None:
    """Have buffers of whole packs returned to the system when they are freed.

    glibc raises its threshold for that to the size of what was freed (mallopt(3)), and the heaps of a dozen threads
    keep such buffers for good. Smaller ones are left to the heaps: asking the kernel for each frame would cost.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, PACK_BUFFER_BYTES)


def memory_bytes() -> tuple[int, int]:
    """Return (resident now, resident at most so far) of this process."""
    sizes = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM"):
            sizes[key] = int(value.split()[0]) * 1024
    return sizes.get("VmRSS", 0), sizes.get("VmHWM", 0)
