"""Real file systems for tests: made, mounted, used and unmounted with the real commands.

`Machine` is one computer's worth of directories below a temporary one; its store is a directory there, or a
`Remote` one. Whatever a test does to it, `close` ends every process it started and leaves nothing mounted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cubefs.store import Store, open_store

PASSPHRASE = "correct horse battery staple"
PROGRAMS = Path(sys.executable).parent  # where the entry points are installed
TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
FOREIGN = ("CUBEFS_", "XDG_", "AWS_", "ST_", "OS_")  # variables that are the developer's own business


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return stdout, which must be JSON."""
        return json.loads(self.out)

    def error_line(self) -> str:
        """Return the one line that a failed command may write to stderr, without `cubefs: `."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"not exactly one line on stderr: {self.err!r}"
        assert lines[0].startswith("cubefs: "), lines[0]
        assert "Traceback" not in self.err and "internal error" not in self.err, self.err
        return lines[0].removeprefix("cubefs: ")


@dataclass(frozen=True)
class Remote:
    """A store on a server: its URL, and what the environment must hold to reach it."""

    url: str
    environment: Mapping[str, str]
    owner_environment: Mapping[str, str] = field(default_factory=dict)  # changes for who may delete everything
    remarks: Sequence[str] = ()  # in warnings that mkfs always has for such a store: tests do not see those lines


class Machine:
    """A store, a cache directory and a mount point, each made when first used."""

    def __init__(
        self, root: Path, *, environment: Mapping[str, str] | None = None, remote: Remote | None = None
    ) -> None:
        """Keep everything below `root`, but for the store if there is a remote one."""
        self.root = root
        self.remote = remote
        self.url = f"local://{root / 'store'}" if remote is None else remote.url
        self.cache = root / "cache"
        self.mount_point = root / "mnt"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
        self.environment = {
            **kept,
            "CUBEFS_PASSPHRASE": PASSPHRASE,
            "CUBEFS_CACHE_DIR": str(self.cache),
            "XDG_CACHE_HOME": str(root / "xdg"),
            **(remote.environment if remote else {}),
            **(environment or {}),
        }
        self._children: list[subprocess.Popen[Any]] = []

    @property
    def store(self) -> Path:
        """The store's directory; a test that looks there is skipped where the store is on a server."""
        if self.remote is not None:
            pytest.skip("is about the directory of a local store")
        return self.root / "store"

    def objects(self) -> Store:
        """Open the store by its driver, to look into it or to damage it: with the machine's own rights."""
        with changed_environment(self.environment):
            return open_store(self.url)

    def object_names(self) -> list[str]:
        """Return the names of all objects in the store."""
        return [info.name for info in self.objects().list("")]

    def remove_object(self, name: str) -> None:
        """Delete an object, which the machine itself perhaps may not."""
        owner = self.remote.owner_environment if self.remote else {}
        with changed_environment({**self.environment, **owner}):
            open_store(self.url).delete(name)

    # -- commands ------------------------------------------------------------------------------------------

    def run(
        self,
        program: str,
        *arguments: str | bytes | Path,
        environment: Mapping[str, str | None] | None = None,
        timeout_s: float = TIMEOUT_S,
        prefix: Sequence[str] = (),
    ) -> Finished:
        """Run an installed program without a terminal, whatever its exit code; None removes a variable."""
        result = subprocess.run(
            [*prefix, PROGRAMS / program, *arguments],
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            start_new_session=True,  # no controlling terminal, as under cron
        )
        lines = result.stderr.decode().splitlines(keepends=True)
        remarks = self.remote.remarks if self.remote else ()
        said = [line for line in lines if not any(remark in line for remark in remarks)]
        return Finished(result.returncode, result.stdout.decode(), "".join(said))

    def cubefs(self, *arguments: str | bytes | Path, **options: Any) -> Finished:
        """Run `cubefs` and demand success."""
        result = self.run("cubefs", *arguments, **options)
        assert result.code == 0, f"cubefs {arguments} ended with {result.code}: {result.err}"
        return result

    def start(self, program: str, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program that the test ends itself, or `close` does."""
        child = subprocess.Popen(
            [PROGRAMS / program, *arguments],
            env=self._environment(None),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **options,
        )
        self._children.append(child)
        return child

    def _environment(self, changes: Mapping[str, str | None] | None) -> dict[str, str]:
        merged = {**self.environment, **(changes or {})}
        return {key: value for key, value in merged.items() if value is not None}

    # -- the usual steps -----------------------------------------------------------------------------------

    def mkfs(self, *arguments: str) -> str:
        """Make the file system; return its recovery key."""
        made = self.cubefs("mkfs", self.url, "--json", *arguments).json()
        return str(made["recovery_key"])

    def adopt(self, store: Path) -> None:
        """Start with a copy of a store that was made before, in a directory: faster than making one."""
        if self.remote is None:
            shutil.copytree(store, self.store)
            return
        target = self.objects()
        for info in open_store(f"local://{store}").list(""):
            target.put(info.name, (store / info.name).read_bytes())

    def mount(self, *arguments: str | Path, at: Path | None = None) -> Path:
        """Mount (in the background) and return the mount point."""
        target = at or self.mount_point
        target.mkdir(exist_ok=True)
        self.cubefs("mount", self.url, target, *arguments)
        assert os.path.ismount(target)
        return target

    def umount(self, *, at: Path | None = None) -> None:
        """Unmount with `cubefs umount`: everything is stored, the process has ended."""
        target = at or self.mount_point
        self.cubefs("umount", target)
        assert not os.path.ismount(target)

    def status(self, *, at: Path | None = None) -> dict[str, Any]:
        """Return `cubefs status --json`."""
        fields = self.cubefs("status", at or self.mount_point, "--json").json()
        assert isinstance(fields, dict)
        return fields

    def log(self) -> str:
        """Return the daemon's log."""
        return (self.cache / "cubefs.log").read_text()

    def kill(self, *, at: Path | None = None) -> None:
        """End the daemon as a power cut of its process would (kill -9); the mount is dead afterwards."""
        process = int(self.status(at=at)["pid"])
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: not is_running(process))

    # -- tidying up ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Unmount everything below the root and end every process that was started here."""
        for target in reversed(mounts_below(self.root)):
            detach = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
            subprocess.run([*detach, target], check=False, capture_output=True)
        for process in self._daemons():
            _end(process)
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.communicate()

    def _daemons(self) -> list[int]:
        """Return the processes that hold cache directories below the root; their command line names our store."""
        found = []
        for lock in self.root.rglob("lock"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                process = int(json.loads(lock.read_bytes())["pid"])
                if os.fsencode(self.root) in Path(f"/proc/{process}/cmdline").read_bytes():
                    found.append(process)
        return found


@contextlib.contextmanager
def changed_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Let this process have another environment for a moment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def mounts_below(root: Path) -> list[Path]:
    """Return mount points below `root`, in mount order (paths here need no unescaping)."""
    targets = [Path(line.split(" ")[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [target for target in targets if root in target.parents]


def wait_until(condition: Callable[[], bool], *, timeout_s: float = END_TIMEOUT_S) -> None:
    """Wait until `condition` holds; fail after `timeout_s`."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.02)


def is_running(process: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _end(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGTERM)  # unmount and store what is left
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not is_running(process), timeout_s=3)
        os.kill(process, signal.SIGKILL)
        wait_until(lambda: not is_running(process))


def small_disk(path: Path, *, size: str) -> None:
    """Mount a tmpfs, for disks that are full (root only); `Machine.close` unmounts it."""
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", path], check=True)


def tree_of(root: Path, *, skip: Sequence[str] = ()) -> dict[str, bytes]:
    """Return the contents of all regular files below `root`, by relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in skip
    }
