"""cubefs as a contender: its real commands, the cache and (unless told otherwise) the store on the peers' disk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from contrib.demo.scratch import Scratch, StepError, mounts_below, peak_rss_bytes, venv_command
from tests.bench.flows import Places, Where, timed, used_bytes
from tests.bench.rows import Row

ENVIRONMENT = {"CUBEFS_PASSPHRASE": "not a secret: the file system lives for a minute"}


class Cubefs:
    """cubefs, mounted in the foreground so that its process is ours to watch and to end."""

    name = "cubefs"
    rows: tuple[Row, ...] = tuple(Row)

    def __init__(self, scratch: Scratch, *, where: Where | None = None, options: Sequence[str] = ()) -> None:
        """Store in `where` instead of a directory on the disk, mount with these `-o` options."""
        self._scratch = scratch
        self._where = where
        self._options = [word for option in options for word in ("-o", option)]
        self._environment = {**ENVIRONMENT, **(where.environment if where else {})}
        self._child: subprocess.Popen[bytes] | None = None
        self._peak_bytes = 0
        self._snapshots = 0

    def create(self, places: Places) -> None:
        """Make an empty file system."""
        self._store = places.disk / "store"
        self._url = self._where.address if self._where else f"local://{self._store}"
        self._cache = places.disk / "cache"
        self._log = places.disk / "log"
        self._mount_point = places.disk / "mount"
        self._mount_point.mkdir()
        self._peak_bytes = self._snapshots = 0
        self._command("mkfs.cubefs", self._url)

    def mount(self) -> float:
        """Mount in a new process with an empty cache; return the seconds until it answers."""
        shutil.rmtree(self._cache, ignore_errors=True)
        command: list[str | Path] = [venv_command("cubefs"), "mount", self._url, self._mount_point]
        command += ["--cache-dir", self._cache, "--foreground", *self._options]

        def wait() -> None:
            self._child = self._scratch.start(command, log=self._log, environment=self._environment)
            self._scratch.wait_mounted(self._mount_point, self._child, log=self._log)

        return timed(wait)

    def unmount(self) -> None:
        """Unmount, end the process, forget the cache."""
        if self._child is None:
            return
        self.peak_bytes()
        self._command("cubefs", "umount", self._mount_point)
        if mounts_below(self._mount_point):
            raise StepError("cubefs umount returned, but it is still mounted")
        self._scratch.wait_ended(self._child)
        self._child = None
        shutil.rmtree(self._cache)

    def live(self) -> Path:
        """Return the root of the live tree."""
        return self._mount_point

    def saved(self) -> Path:
        """Return the newest snapshot, where users restore from."""
        return self._mount_point / "snapshots" / str(self._snapshots)

    def sync(self) -> float:
        """Return the seconds until everything is in the store."""
        return self._command("cubefs", "sync", self._mount_point)

    def snapshot(self) -> float:
        """Take a snapshot; return the seconds."""
        self._snapshots += 1
        return timed(self.saved().mkdir)

    def stored_bytes(self) -> int:
        """Return the disk use of the store, which must be a directory."""
        return used_bytes(self._store)

    def peak_bytes(self) -> int:
        """Return the highest resident memory of this round's daemons."""
        if self._child is not None:
            self._peak_bytes = max(self._peak_bytes, peak_rss_bytes(self._child.pid))
        return self._peak_bytes

    def _command(self, name: str, *arguments: str | Path) -> float:
        done = self._scratch.run([venv_command(name), *arguments], environment=self._environment)
        return done.seconds
