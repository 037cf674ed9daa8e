"""What the parts of a daemon share about its one mount: the file system, its state, how to unmount it.

Must never: unmount while something is open in it, unless the process is being ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import trio

from cubefs.app import kernel, limiting
from cubefs.app.cache import CacheDirectory, State
from cubefs.app.options import MountOptions
from cubefs.errors import CubefsError, InUseError
from cubefs.format.keys import Keyring
from cubefs.format.superblock import Superblock
from cubefs.fs.filesystem import FileSystem
from cubefs.fuse import session
from cubefs.store.throttle import Throttle
from cubefs.visible import safe

WORKER_COUNT = 4  # of our own: hung store calls must not keep `cubefs status` waiting
BUSY_WAITS_S = (0.1, 0.2, 0.3, 0.4)  # a program that has just ended may still be letting go of its files
END_GRACE_S = 5.0  # a process that is being ended gives programs that long to close their files

_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class MountPlan:
    """Everything about a mount that is settled before the process goes to the background."""

    store_url: str
    mount_point: Path  # resolved
    options: MountOptions
    allow_other: bool
    cache: CacheDirectory
    superblock: Superblock
    keyring: Keyring


class Mounted:
    """One mount from the time its file system is open to the end of the process."""

    def __init__(self, plan: MountPlan, fs: FileSystem, throttle: Throttle) -> None:
        """Begin in the state STARTING."""
        self.fs = fs
        self._throttle = throttle
        self.mount_point = plan.mount_point
        self.state = State.STARTING
        self.session_over = trio.Event()
        self._plan = plan
        self._limiter = trio.CapacityLimiter(WORKER_COUNT)
        self._since_s = time.monotonic()
        self._drained = trio.Event()
        self._failure: CubefsError | None = None

    @property
    def is_mounted(self) -> bool:
        """Whether programs can reach it."""
        return self.state is State.MOUNTED

    def enter(self, state: State) -> None:
        """Go to `state`, and write that down for those who wait for the cache directory."""
        self.state = state
        self._plan.cache.describe_holder(mount_point=self.mount_point, state=state)

    def end_drain(self, failure: CubefsError | None) -> None:
        """Let go those who wait for the drain: all is stored, or `failure` says why not."""
        self._failure = failure
        self._drained.set()

    async def wait_drained(self) -> None:
        """Wait until everything is stored; raises what prevented it."""
        await self._drained.wait()
        if self._failure is not None:
            raise self._failure

    async def in_worker(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in a worker thread; when cancelled, the thread is left to end by itself."""
        return await trio.to_thread.run_sync(
            lambda: call(*args, **kwargs), abandon_on_cancel=True, limiter=self._limiter
        )

    async def sync_kernel_pages(self) -> None:
        """Have the kernel send what programs stored through mmap: it belongs to a snapshot asked for now."""
        if self.is_mounted:
            await self.in_worker(kernel.sync_kernel_pages, self.mount_point)

    async def unmount(self) -> None:
        """Unmount; returns when the session is over. Raises InUseError when something is open: it stays mounted."""
        with trio.CancelScope(shield=True):  # umount(2) happens or not, whoever still wants it
            for wait_s in BUSY_WAITS_S:
                with contextlib.suppress(InUseError):
                    await self.in_worker(kernel.unmount, self.mount_point)
                    break
                await trio.sleep(wait_s)
            else:
                raise InUseError(await self.in_worker(self._why_in_use))
            await self.session_over.wait()

    def _why_in_use(self) -> str:
        users = kernel.users_of(self.mount_point)
        by = f" by {', '.join(users)}" if users else ""
        return (
            f"{safe(self.mount_point)} is in use{by}: close the files and leave the directories in it,"
            " then try again; it stays mounted"
        )

    async def unmount_at_any_rate(self) -> None:
        """Unmount because the process is to end: with something open in it, detach it and end the session."""
        try:
            await self.in_worker(kernel.sync_kernel_pages, self.mount_point)
            try:
                await self.unmount()
            except InUseError as error:
                _log.warning("%s; detaching it, because this process is to end", str(error).partition(":")[0])
                await self.in_worker(kernel.unmount, self.mount_point, lazily=True)
                with trio.move_on_after(END_GRACE_S):
                    await self.session_over.wait()
        except (CubefsError, OSError) as error:
            _log.warning("cannot unmount in the usual way: %s", error)
        if not self.session_over.is_set():
            session.end()

    def left_bytes(self) -> int:
        """Return how much is accepted but not yet stored."""
        engine = self.fs.engine
        return engine.files.limit.used_bytes + engine.local.dirty_bytes

    def progress(self) -> dict[str, Any]:
        """Return what those who wait are shown.

        Cheap, for it is asked several times a second; and without the database, which may be closed already.
        """
        engine = self.fs.engine
        return {"left_bytes": self.left_bytes(), "store_error": engine.store_error}

    def change_limits(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Change the limits that `given` names, at once; return all, and how the mount adapts to a busy store."""
        if given:
            self._throttle.change(limiting.changed(self._throttle.limits, given))
            _log.info("limits changed: %s", ", ".join(f"{word} {value}" for word, value in given.items()))
        return {"limits": limiting.spelled(self._throttle.limits), "adapting": self._adapting()}

    def _adapting(self) -> dict[str, str]:
        """Return what the throttle does at the moment beyond its limits; nothing while the store is content."""
        now = self._throttle.statistics()
        rates = {"writing": now.writes_per_s, "reading": now.reads_per_s}
        held = {"writing": now.writes_held_s, "reading": now.reads_held_s}
        return {
            **{f"{what} slowed to": f"{rate:.1f} requests/s" for what, rate in rates.items() if rate is not None},
            **{f"{what} held for": f"{wait_s:.0f} s" for what, wait_s in held.items() if wait_s > 0},
        }

    def check_not_failed(self) -> None:
        """Raise when the file system has stopped accepting: then not everything is stored at its end."""
        failure = self.fs.engine.gate.failure
        if failure is not None:
            raise CubefsError(f"not everything is stored: {failure}; mount again, nothing acknowledged is lost")

    async def status(self) -> dict[str, Any]:
        """Return what `cubefs status --json` shows."""
        resident_bytes, peak_bytes = kernel.memory_bytes()
        return {
            "state": self.state.value,
            "mount_point": safe(self.mount_point),
            "store": self._plan.store_url,
            "uuid": self._plan.superblock.uuid.hex(),
            "read_only": self._plan.options.read_only,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._since_s, 1),
            "memory_bytes": resident_bytes,
            "memory_peak_bytes": peak_bytes,
            "cache_dir": safe(self._plan.cache.path),
            "log": safe(self._plan.cache.log),
            "limits": limiting.spelled(self._throttle.limits),
            "adapting": self._adapting(),
            "file_system": await self.fs.status(),
        }
