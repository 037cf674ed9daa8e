"""`cubefs umount`, `sync`, `status`: commands for a mounted file system, through its control socket.

Must never: report done before the daemon says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cubefs.app import arguments, cache, client, daemon, kernel, status
from cubefs.app.display import ProgressLine, format_bytes, say
from cubefs.errors import CubefsError, MountPointError, UserInterruptError
from cubefs.visible import safe

UMOUNT_SUMMARY = "store everything, unmount, wait until the process has ended"
UMOUNT_DESCRIPTION = """\
Store everything that was written, unmount DIR and return when the process behind it has ended: from then on any
machine with the passphrase can mount the file system and sees everything. Ctrl-C while it stores leaves DIR
mounted.
"""
SYNC_SUMMARY = "return when everything written so far is in the store"
SYNC_DESCRIPTION = """\
Return when everything that was written to DIR before is in the store and read back from it: it then survives the
loss of this machine. (fsync(2) returns when data is safe on the local disk.)
"""
STATUS_SUMMARY = "show what the mount is doing"
STATUS_DESCRIPTION = """\
Show the state of the mount on DIR: its process, its log, its cache, and what is not stored yet.
"""
_POLL_S = 0.5
REMIND_S = 60.0  # between lines that say why it still takes so long

_PHASES = {
    "storing": "storing, {left} left",
    "draining": "unmounted, storing the rest, {left} left",
    "unmounting": "unmounting",
    "taken": "snapshot taken, storing it",
}


def add_umount_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `cubefs umount`."""
    arguments.add_directory(parser)
    parser.set_defaults(run=run_umount)


def add_sync_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `cubefs sync`."""
    arguments.add_directory(parser)
    parser.set_defaults(run=run_sync)


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `cubefs status`."""
    arguments.add_directory(parser)
    arguments.add_json(parser)
    parser.set_defaults(run=run_status)


class ProgressView:
    """Shows the daemon's progress, and remembers how far it got."""

    def __init__(self) -> None:
        """Show on stderr, where that is a terminal."""
        self.line = ProgressLine()
        self.phase = ""
        self._tell_again_s = 0.0

    def __call__(self, progress: dict[str, Any]) -> None:
        """Take one progress message of the daemon."""
        self.phase = str(progress.get("phase"))
        self._tell_trouble(progress.get("store_error"))
        left = format_bytes(int(progress.get("left_bytes", 0)))
        self.line.show(_PHASES.get(self.phase, "{left} left").format(left=left))

    def _tell_trouble(self, store_error: str | None) -> None:
        """Say why it takes so long, terminal or not: at first, then rarely (each attempt has its own object)."""
        now_s = time.monotonic()
        if store_error and now_s >= self._tell_again_s:
            self._tell_again_s = now_s + REMIND_S
            self.line.clear()
            say(f"the store fails, trying again until it works (Ctrl-C to stop waiting): {store_error}")


@contextlib.contextmanager
def shown_progress(interrupted: dict[str, str]) -> Iterator[ProgressView]:
    """Show progress; an interrupt becomes the line that `interrupted` has for the phase it came in."""
    view = ProgressView()
    try:
        yield view
    except KeyboardInterrupt:
        view.line.clear()
        raise UserInterruptError(interrupted.get(view.phase, interrupted[""])) from None
    finally:
        view.line.clear()


def run_umount(namespace: argparse.Namespace) -> int:
    """Store, unmount, wait for the end of the process."""
    directory: Path = namespace.directory
    where = safe(directory)
    interrupted = {
        "": f"interrupted: {where} is still mounted, and goes on storing",
        "unmounting": f"interrupted: {where} is being unmounted, what is left is stored in the background",
        "draining": f"interrupted: {where} is unmounted, what is left is stored in the background",
    }
    with shown_progress(interrupted) as view:
        try:
            with client.connected(directory) as connection, _process(connection.process) as process:
                connection.ask("umount", on_progress=view)
                view.phase = "draining"
                while process is not None and not daemon.is_process_gone(process, timeout_s=_POLL_S):
                    pass
        except MountPointError:
            # after a plain umount(8) the process may still be storing: wait for it, too
            if not _wait_for_drain(directory, view):
                raise
    return 0


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A descriptor that tells when the process ends; None when it cannot be seen from here."""
    try:
        process = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield process
    finally:
        os.close(process)


def _wait_for_drain(directory: Path, view: ProgressView) -> bool:
    """Wait for a daemon that was unmounted from `directory` before; False when there is none."""
    target = Path(os.path.realpath(directory))
    if kernel.find_mount(target) is not None:
        return False
    found = cache.find_draining(target)
    if found is None:
        return False
    path, holder = found
    view.phase = "draining"
    say(f"{safe(directory)} is unmounted already; waiting for process {holder.pid}, which is storing the rest")
    with _process(holder.pid) as process:
        while process is not None and cache.is_locked(path):
            daemon.is_process_gone(process, timeout_s=_POLL_S)
    return True


def run_sync(namespace: argparse.Namespace) -> int:
    """Wait until everything is stored."""
    note = "interrupted: storing goes on in the background"
    with shown_progress({"": note}) as view, client.connected(namespace.directory) as connection:
        connection.ask("sync", on_progress=view)
    return 0


def run_status(namespace: argparse.Namespace) -> int:
    """Print the status."""
    with client.connected(namespace.directory) as connection:
        fields = connection.ask("status")
    try:
        print(json.dumps(fields, indent=2) if namespace.json else "\n".join(status.lines(fields)))
    except (KeyError, TypeError) as error:
        raise CubefsError("the mount is served by another version of cubefs; try --json") from error
    return 0
