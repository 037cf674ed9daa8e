"""The directory to mount on: whether it will do, and tidying up after a mount whose process died.

Must never: unmount anything but a dead cubefs mount.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cubefs.app import kernel
from cubefs.app.display import say
from cubefs.errors import InUseError, MountPointError, UsageError
from cubefs.visible import safe

ADVICE = "choose another place"
# what statvfs says on a mount point whose process is gone (fuse aborts the connection)
DEAD = frozenset({errno.ENOTCONN, errno.ECONNABORTED})


def check(directory: Path, *, nonempty: bool) -> Path:
    """Return the resolved mount point after making sure that it can be mounted on.

    A dead cubefs mount there is removed. Raises MountPointError (missing, no directory, not empty, no permission),
    InUseError (mounted already).
    """
    target = _resolved(directory)
    _remove_dead_mounts(target)
    mount = kernel.find_mount(target)
    if mount is not None and mount.fs_type == kernel.FS_TYPE:
        raise InUseError(
            f"{safe(mount.source)} is already mounted on {safe(target)};"
            f" to unmount it: cubefs umount {safe(target)}"
        )
    try:
        mode = target.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise MountPointError(f"mount point {safe(target)} is not a directory")
        if not nonempty and next(iter(os.scandir(target)), None) is not None:
            raise MountPointError(
                f"mount point {safe(target)} is not empty: choose an empty directory,"
                " or mount over what is in it with -o nonempty"
            )
    except FileNotFoundError:
        raise MountPointError(
            f"mount point {safe(target)} does not exist; make it with: mkdir {safe(target)}"
        ) from None
    except OSError as error:
        raise MountPointError(f"cannot use mount point {safe(target)}: {error.strerror}") from error
    return target


def check_apart(target: Path, *, places: Iterable[tuple[str, Path]]) -> None:
    """Refuse a mount that would hide what it needs itself: each (what, directory) must not meet `target`."""
    for what, place in places:
        resolved = Path(os.path.realpath(place))
        if resolved == target or target in resolved.parents:
            raise UsageError(
                f"{what} {safe(resolved)} is inside the mount point {safe(target)}: choose another place"
            )
        if resolved in target.parents:
            raise UsageError(
                f"the mount point {safe(target)} is inside {what} {safe(resolved)}: choose another place"
            )


def _resolved(directory: Path) -> Path:
    """Resolve without asking the directory itself, which may be a dead mount."""
    path = Path(os.path.abspath(directory))  # noqa: PTH100  (Path.absolute keeps `..`)
    parent = Path(os.path.realpath(path.parent))
    try:
        is_link = stat.S_ISLNK((parent / path.name).lstat().st_mode)
    except OSError:
        is_link = False
    return Path(os.path.realpath(path)) if is_link else parent / path.name


def _remove_dead_mounts(target: Path) -> None:
    while True:
        try:
            os.statvfs(target)  # never answered from the kernel's memory, as stat may be
            return
        except OSError as error:
            if error.errno not in DEAD:
                return
        mount = kernel.find_mount(target)
        if mount is None or mount.fs_type != kernel.FS_TYPE:
            raise MountPointError(
                f"mount point {safe(target)} holds a dead mount that is not cubefs's; unmount it first"
            )
        say(f"removing the dead mount on {safe(target)}: its process has ended")
        kernel.unmount(target, lazily=True)  # nothing can be read from it any more, open or not
