"""The life of a mount, from opening the file system to the last byte stored. Runs the event loop.

1. open the file system             a failure from here to 3 ends the process, nothing is mounted
2. mount, see that it answers
3. tell whoever waits (the command, systemd)
4. serve, until somebody unmounts or a signal asks for the end
5. drain: store what is left        killed here: the next mount goes on, nothing acknowledged is lost
6. end; the kernel lets go of the cache directory's lock

The first signal unmounts and drains, a second one stops the drain.
Must never: report ready before the mount answers, or leave it mounted with nobody behind it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import FrameType

import trio

from cubefs.app import control, kernel
from cubefs.app.cache import State
from cubefs.app.daemon import notify_service_manager
from cubefs.app.display import format_bytes
from cubefs.app.edge import root_cause
from cubefs.app.mounted import Mounted, MountPlan
from cubefs.app.options import MountOptions
from cubefs.errors import CubefsError, MountPointError, UserInterruptError
from cubefs.fs.filesystem import FsOptions, open_filesystem
from cubefs.fuse import session
from cubefs.fuse.operations import Operations
from cubefs.model import ROOT_INODE
from cubefs.store import open_store
from cubefs.store.meter import Meter
from cubefs.store.throttle import Throttle
from cubefs.visible import safe

ANSWER_TIMEOUT_S = 60.0  # for the first stat(2) through the new mount; it needs nothing but the event loop
# SIGHUP: a terminal that is closed ends a foreground mount; the daemon ignores it
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)

_log = logging.getLogger(__name__)


def serve(plan: MountPlan, ready: Callable[[], None]) -> int:
    """Mount, call `ready`, serve and drain; return the exit code. In the main thread, without an event loop.

    Raises what prevented mounting or storing.
    """
    kernel.raise_file_limit()
    kernel.give_memory_back()
    os.umask(0o077)  # what the daemon makes is nobody else's business; callers' umasks come with their requests
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _too_late)
    return trio.run(_Life(plan, ready).run)


def _too_late(number: int, frame: FrameType | None) -> None:
    """What trio hands on a signal to that comes when nobody waits for signals any more: we are ending already."""


class _Life:
    """The steps above, and the signals that hurry them along."""

    def __init__(self, plan: MountPlan, ready: Callable[[], None]) -> None:
        self._plan = plan
        self._ready = ready
        self._mounted: Mounted | None = None
        self._scope = trio.CancelScope()

    async def run(self) -> int:
        """Run all steps; returns the exit code."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals, nursery)
            with self._scope:
                await self._serve_file_system(nursery)
            nursery.cancel_scope.cancel()
        if self._scope.cancelled_caught:
            raise UserInterruptError(self._what_was_interrupted())
        _log.info("everything is stored; end of the process")
        return 0

    def _what_was_interrupted(self) -> str:
        if self._mounted is None or self._mounted.state is State.STARTING:
            return "interrupted: nothing is mounted"
        return "interrupted: what is not stored yet waits in the cache directory, the next mount goes on"

    async def _serve_file_system(self, nursery: trio.Nursery) -> None:
        """Steps 1 to 5."""
        plan = self._plan
        meter = Meter()
        throttle = Throttle(plan.options.limits, meter=meter)
        store = await trio.to_thread.run_sync(partial(open_store, plan.store_url, throttle=throttle))
        server = None
        failure: CubefsError | None = CubefsError("the drain was stopped; the next mount goes on")
        try:
            async with open_filesystem(
                fs_options(plan.options),
                store=store,
                superblock=plan.superblock,
                keyring=plan.keyring,
                cache_dir=plan.cache.path,
                meter=meter,
            ) as fs:
                mounted = self._mounted = Mounted(plan, fs, throttle)
                fs.virtual_xattrs[control.XATTR] = os.fsencode(plan.cache.control)
                fs.before_snapshot = mounted.sync_kernel_pages
                server = control.ControlServer(mounted)
                nursery.start_soon(server.serve, control.listen(plan.cache.control))
                await self._serve_session(mounted)
                self._begin_drain(mounted)
            mounted.check_not_failed()
            failure = None
        except Exception as group:
            error = root_cause(group)
            failure = error if isinstance(error, CubefsError) else CubefsError(f"the mount has failed: {error}")
            raise
        finally:
            if self._mounted is not None and server is not None:
                self._mounted.end_drain(failure)
                with trio.CancelScope(shield=True):
                    await server.wait_finished()
            plan.cache.control.unlink(missing_ok=True)

    async def _serve_session(self, mounted: Mounted) -> None:
        """Steps 2 to 4."""
        plan = self._plan
        options = session.mount_options(
            source=plan.store_url,
            allow_other=plan.allow_other,
            read_only=plan.options.read_only,
            kernel=plan.options.kernel,
        )
        device_before = plan.mount_point.stat().st_dev
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(session.run, Operations(mounted.fs), plan.mount_point, options))
                device = await self._wait_answering(mounted, device_before)
                await mounted.in_worker(session.tune_kernel, device)
                mounted.enter(State.MOUNTED)
                _log.info("%s is mounted on %s", plan.store_url, safe(plan.mount_point))
                notify_service_manager("READY=1", f"MAINPID={os.getpid()}", f"STATUS=mounted on {plan.mount_point}")
                self._ready()
        finally:
            mounted.session_over.set()

    async def _wait_answering(self, mounted: Mounted, device_before: int) -> int:
        """Return the mount's device once stat(2) shows our root there."""
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            found = await mounted.in_worker(mounted.mount_point.stat)
            if found.st_dev != device_before and found.st_ino == ROOT_INODE:
                return found.st_dev
            raise MountPointError(f"something else was mounted on {safe(mounted.mount_point)} at the same time")
        raise MountPointError(f"the mount on {safe(mounted.mount_point)} does not answer")

    def _begin_drain(self, mounted: Mounted) -> None:
        try:
            mounted.enter(State.DRAINING)
        except CubefsError as error:  # a note for others; storing matters more
            _log.warning("%s", error)
        _log.info(
            "unmounted from %s; %s left to store", safe(mounted.mount_point), format_bytes(mounted.left_bytes())
        )
        notify_service_manager("STOPPING=1", "STATUS=unmounted, storing what is left")

    async def _watch_signals(
        self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        wanted = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        with trio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            await self._obey(signals, nursery)

    async def _obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        asked = False
        async for number in signals:
            name = signal.Signals(number).name
            mounted = self._mounted
            if asked or mounted is None or mounted.state is State.STARTING:
                _log.info("%s: ending now", name)
                self._scope.cancel()
                continue
            asked = True
            _log.info(
                "%s: unmounting, then storing what is left; once more ends at once (what was acknowledged is safe)",
                name,
            )
            if mounted.is_mounted:
                nursery.start_soon(mounted.unmount_at_any_rate)


def fs_options(options: MountOptions) -> FsOptions:
    """Translate what `-o` said; what it did not say keeps the file system's default."""
    given = {
        "cache_limit_bytes": options.cache_limit_bytes,
        "dirty_limit_bytes": options.dirty_limit_bytes,
        "commit_interval_s": options.commit_interval_s,
        "recovery_point_s": options.recovery_point_s,
        "read_timeout_s": options.read_timeout_s,
        "verify": options.verify,
        "settle_s": options.settle_s,
    }
    return FsOptions(
        snapdir_hidden=options.snapdir_hidden,
        read_only=options.read_only,
        **{key: value for key, value in given.items() if value is not None},  # type: ignore[arg-type]
    )
