"""The floor: libfuse's own C example `passthrough_ll`, multi-threaded, over tmpfs.

No file system in user space can be expected to be faster: it does nothing but pass calls on. Its source is the
one that libfuse3-dev installs, unchanged.
"""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

from contrib.demo.scratch import Scratch, StepError, mounts_below, peak_rss_bytes, unmount
from tests.bench.flows import Places, timed
from tests.bench.rows import Row

SPARE_OPEN_FILES = 500  # beside the one that it keeps for every inode that the kernel knows
# The kernel may cache as long as it likes, as cubefs lets it: the floor must not pay for questions that
# cubefs is not asked.
OPTIONS = "cache=always"


def build_floor(source_directory: Path) -> Path:
    """Compile the example and return the program; raise StepError when that is not possible."""
    source = source_directory / "passthrough_ll.c"
    program = source_directory / "passthrough_ll"
    if not source.exists():
        raise StepError("the source of passthrough_ll is missing (contrib/bench-packages fetches it)")
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=False
    ).stdout.split()
    command: list[str | Path] = ["gcc", "-O2", source, *flags, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepError(f"passthrough_ll does not compile: {done.stderr.strip().splitlines()[-1]}")
    return program


def allow_open_files(needed: int) -> None:
    """Raise our limit of open files, which children inherit; raise StepError when it stays below `needed`."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
    except (OSError, ValueError):
        raise StepError(f"passthrough_ll needs {needed} open files, the limit is {hard}") from None


class Floor:
    """passthrough_ll as a contender. It has no store to sync to and no snapshots."""

    name = "passthrough_ll"
    rows: tuple[Row, ...] = (
        Row.TREE_IN,
        Row.TREE_AGAIN,
        Row.MOUNT,
        Row.TREE_OUT,
        Row.FILE_IN,
        Row.FILE_OUT,
        Row.PEAK,
    )

    def __init__(self, scratch: Scratch, source_directory: Path, *, entries: int) -> None:
        """`entries`: how many files and directories will be written at most."""
        self._scratch = scratch
        self._entries = entries
        self._source_directory = source_directory
        self._program: Path | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._peak_bytes = 0

    def create(self, places: Places) -> None:
        """Make the directory it is backed by."""
        self._program = self._program or build_floor(self._source_directory)
        self._backing = places.memory / "backing"
        self._mount_point = places.disk / "mount"
        self._log = places.disk / "log"
        self._backing.mkdir()
        self._mount_point.mkdir()
        self._peak_bytes = 0

    def mount(self) -> float:
        """Mount in a new process."""
        if self._program is None:
            raise StepError("not built")
        allow_open_files(self._entries + SPARE_OPEN_FILES)
        options = f"source={self._backing},{OPTIONS}"
        command: list[str | Path] = [self._program, "-f", "-o", options, self._mount_point]
        child = self._scratch.start(command, log=self._log)
        self._child = child
        return timed(lambda: self._scratch.wait_mounted(self._mount_point, child, log=self._log))

    def unmount(self) -> None:
        """Unmount and wait for the process."""
        if self._child is not None:
            self.peak_bytes()
            unmount(self._mount_point)
            if mounts_below(self._mount_point):
                raise StepError("passthrough_ll is still mounted")
            self._scratch.wait_ended(self._child)

    def live(self) -> Path:
        """Return the mount."""
        return self._mount_point

    def saved(self) -> Path:
        """Return the mount."""
        return self._mount_point

    def sync(self) -> float:
        """Nothing to do."""
        return 0.0

    def snapshot(self) -> float:
        """Nothing to do."""
        return 0.0

    def stored_bytes(self) -> int:
        """Nothing is stored."""
        return 0

    def peak_bytes(self) -> int:
        """Return the highest resident memory of this round's processes."""
        if self._child is not None:
            self._peak_bytes = max(self._peak_bytes, peak_rss_bytes(self._child.pid))
        return self._peak_bytes
