"""One FUSE session: mounting, serving requests until it is unmounted, closing, and the kernel's own settings.

Must never: know what a request means (that is `operations`), or unmount anything but its own mount. pyfuse3 keeps
its session in globals: one mount per process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyfuse3
import trio

from cubefs.errors import MountPointError
from cubefs.fuse import waiting
from cubefs.model import MIB

FS_SUBTYPE = "cubefs"  # shows as type fuse.cubefs

# pyfuse3 starts another task whenever all are busy, up to the maximum; with its default of 99, reads that wait for
# the store freeze the whole mount. Idle tasks beyond the minimum end, and take their 1 MiB buffers along.
TASKS_MIN_COUNT = 4
TASKS_MAX_COUNT = 4000

READ_AHEAD_KIB = MIB // 1024  # the kernel's default of 128 KiB makes eight requests of one
BACKGROUND_MAX_COUNT = 256  # requests in flight for read-ahead; the kernel's default is 12

_is_open = False  # pyfuse3's session is a global, so this is one too


def mount_options(*, source: str, allow_other: bool, read_only: bool, kernel: Collection[str] = ()) -> set[str]:
    """Return libfuse's options for a mount that shows `source` (the store's URL) as its device.

    default_permissions: the kernel checks mode bits, before it asks us.
    """
    options = {f"fsname={_escaped(source)}", f"subtype={FS_SUBTYPE}", "default_permissions", *kernel}
    if allow_other:
        options.add("allow_other")
    if read_only:
        options.add("ro")
    return options


def _escaped(source: str) -> str:
    """Escape for libfuse, which splits options at commas; pyfuse3 passes on ASCII only."""
    ascii_source = "".join(
        char if char.isascii() and char.isprintable() else "".join(f"%{byte:02x}" for byte in os.fsencode(char))
        for char in source
    )
    return ascii_source.replace("\\", "\\\\").replace(",", "\\,")


async def run(
    operations: pyfuse3.Operations,
    mount_point: Path,
    options: set[str],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount and serve until somebody unmounts, `end` is called, or the task is cancelled; then clean up.

    Started once the mount is in place, before the first request is answered. Raises MountPointError with the
    reason when mounting fails. On the loop.
    """
    waiting.install()
    with _complaints_of_libfuse() as complaints:
        try:
            pyfuse3.init(operations, os.fspath(mount_point), options)
        except RuntimeError as error:
            said = complaints()
            raise MountPointError(f"cannot mount on {os.fsdecode(mount_point)}: {said or error}") from error
    global _is_open
    _is_open = True
    try:
        task_status.started()
        await pyfuse3.main(min_tasks=TASKS_MIN_COUNT, max_tasks=TASKS_MAX_COUNT)
    finally:
        _is_open = False
        # finds out by itself whether the mount is gone already: a later one on the same directory is left alone
        pyfuse3.close(unmount=True)


def end() -> None:
    """Make `run` return once the requests being handled are answered. On the loop; nothing new is accepted."""
    if _is_open:  # pyfuse3 would follow a null pointer
        pyfuse3.terminate()


def tune_kernel(device: int) -> None:
    """Let the kernel ask for more at once, where we may say so (root). `device` is the mount's st_dev.

    Reads and writes files under /sys: for a worker. What cannot be set stays as it is.
    """
    major, minor = os.major(device), os.minor(device)
    _set_if_permitted(Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READ_AHEAD_KIB)
    connection = Path(f"/sys/fs/fuse/connections/{minor}")
    _set_if_permitted(connection / "max_background", BACKGROUND_MAX_COUNT)
    _set_if_permitted(connection / "congestion_threshold", BACKGROUND_MAX_COUNT * 3 // 4)  # the kernel's own ratio


def _set_if_permitted(setting: Path, value: int) -> None:
    try:
        setting.write_text(f"{value}\n")
    except OSError:
        return


@contextmanager
def _complaints_of_libfuse() -> Iterator[Callable[[], str]]:
    """Catch what libfuse and fusermount3 write to stderr; yields a function that returns their last line."""
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as file:
            os.dup2(file.fileno(), 2)

            def last_line() -> str:
                lines = os.pread(file.fileno(), 64 * 1024, 0).decode(errors="replace").strip().splitlines()
                return lines[-1].strip() if lines else ""

            try:
                yield last_line
            finally:
                os.dup2(kept, 2)
    finally:
        os.close(kept)
