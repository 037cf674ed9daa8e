"""Commits: the order of steps that makes what was acknowledged durable, and their schedule.

    settle   seal what the commit must include                                (gate open, most of the work)
    sync     fdatasync the packs                                              (gate open)
    gate     shut; settle and sync the remainder, which is nearly nothing
    cut      complete the open pack, so that the commit can be shipped        (only when one is wanted)
    COMMIT   rows and changeset in one SQLite transaction
    gate     open
    WAL      fdatasync in a worker, then acknowledge

Must never: acknowledge before the WAL is synced, or COMMIT a row that names frames not yet synced.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from cubefs.db.database import Database, DatabaseLostError, checkpoint
from cubefs.engine.filestate import FileState
from cubefs.engine.gate import Gate
from cubefs.engine.packs import sync_directory
from cubefs.engine.sealing import Sealer
from cubefs.errors import CubefsError, LocalDiskError
from cubefs.model import MIB

log = logging.getLogger(__name__)

BATCH_ROWS = 12_000  # generating a changeset of this takes some 30 ms of the loop
WAL_CHECKPOINT_BYTES = 32 * MIB
_LOOK_S = 0.2  # how often a busy file system is checked against the bounds above
_PACKS_WAITING = 4  # closed packs wait for a commit before they are uploaded: do not keep the uplink idle


@dataclass
class _Request:
    """Somebody waits for a commit that begins after now."""

    everything: bool
    cut: bool
    action: Callable[[], None] | None
    done: trio.Event = field(default_factory=trio.Event)
    number: int = 0
    error: BaseException | None = None


class Committer:
    """The only caller of `Database.commit`. Concurrent requests share one commit."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        gate: Gate,
        dirty_states: Callable[[], list[FileState]],
        is_pressed: Callable[[], bool],
        clock_ns: Callable[[], int],
        interval_s: float,
        recovery_point_s: float,
    ) -> None:
        self._db = database
        self._sealer = sealer
        self._gate = gate
        self._dirty_states = dirty_states
        self._is_pressed = is_pressed
        self._clock_ns = clock_ns
        self._interval_s = interval_s
        self._recovery_point_s = recovery_point_s
        self._requests: list[_Request] = []
        self._wake = trio.Event()
        self._limiter = trio.CapacityLimiter(2)
        self._wal = _WalSync(database.path)
        self._truncate_wal = False
        self._last_commit_s = trio.current_time()
        self._last_cut_s = trio.current_time()
        self._is_uncut = True  # something committed may not have been offered for shipping yet
        self.packs_waiting_count = 0  # closed since the last commit
        self.commit_count = 0
        self.on_committing: Callable[[], None] = lambda: None  # in the stretch of the COMMIT
        self.on_commit: Callable[[int, bool], None] = lambda number, cut: None  # when it is durable

    async def commit(
        self, *, everything: bool = False, cut: bool = False, action: Callable[[], None] | None = None
    ) -> int:
        """Return when all changes so far are on the local disk; the number of the last commit that shipped any.

        everything: also data of files that nothing has relied on yet. cut: the commit may be shipped.
        action: runs inside the transaction while the gate is shut; its exception is raised here, the commit
        goes on without it.
        """
        self._gate.check()
        request = _Request(everything, cut, action)
        self._requests.append(request)
        self._wake.set()
        await request.done.wait()
        if request.error is not None:
            raise request.error
        return request.number

    async def run(self) -> None:
        """Commit when asked, and by time and size, until cancelled."""
        try:
            while True:
                with trio.move_on_after(_LOOK_S if self._db.changed_rows else self._interval_s):
                    await self._wake.wait()
                self._wake = trio.Event()
                await self._turn()
        finally:
            self._wal.close()

    async def _turn(self) -> None:
        requests, self._requests = self._requests, []
        now = trio.current_time()
        is_time = now - self._last_commit_s >= self._interval_s
        is_pressed = self.packs_waiting_count > 0 and self._is_pressed()  # writers wait for these to be uploaded
        is_big = self._db.changed_rows > BATCH_ROWS or self.packs_waiting_count >= _PACKS_WAITING or is_pressed
        is_cut_due = now - self._last_cut_s >= self._recovery_point_s
        has_work = bool(self._db.changed_rows) or any(self._dirty_states()) or (is_cut_due and self._is_uncut)
        if self._gate.failure is not None:
            self._finish(requests, error=self._gate.failure)
            return
        if not requests and not ((is_time or is_big) and has_work):
            return
        everything = is_time or any(request.everything for request in requests)
        cut = any(request.cut for request in requests) or is_cut_due
        try:
            number = await self._commit(everything, cut, requests)
        except BaseException as error:
            if isinstance(error, CubefsError):
                self._gate.fail(error)
            elif isinstance(error, Exception):
                self._gate.fail(CubefsError(f"commit failed: {error!r}"))
            self._finish(requests, error=self._gate.failure or LocalDiskError("stopped"))
            if not isinstance(error, Exception):
                raise
            return
        self._finish(requests, number=number)

    def _finish(self, requests: Iterable[_Request], *, number: int = 0, error: CubefsError | None = None) -> None:
        for request in requests:
            request.number = number
            if error is not None and request.error is None:
                request.error = type(error)(str(error))
            request.done.set()

    def _wanted(self, everything: bool) -> list[FileState]:
        return [state for state in self._dirty_states() if everything or state.is_wanted]

    async def _commit(self, everything: bool, cut: bool, requests: list[_Request]) -> int:
        await self._sealer.settle(self._wanted(everything))
        await self._sealer.sync_packs()
        self._gate.shut()
        try:
            await self._sealer.settle(self._wanted(everything))
            async with self._sealer.pack_lock:
                if cut:
                    await self._sealer.close_pack()
                await self._sealer.sync_packs()
                self._gate.check()
                self._run_actions(requests)
                self.packs_waiting_count = 0
                committed = self._db.commit(cut=cut, time_ns=self._clock_ns(), truncate_wal=self._truncate_wal)
                self.on_committing()
                self._truncate_wal = False
                self._is_uncut = not cut and (self._is_uncut or committed.number > 0)
                if cut:
                    self._db.mark_cut()
        finally:
            self._gate.open()
        await self._wal_sync()
        self.commit_count += 1
        self._last_commit_s = trio.current_time()
        if cut:
            self._last_cut_s = self._last_commit_s
        self.on_commit(committed.number, cut)
        return self._db.last_number

    def _run_actions(self, requests: list[_Request]) -> None:
        for request in requests:
            if request.action is not None:
                try:
                    with self._db.operation():
                        request.action()
                except DatabaseLostError:
                    raise
                except CubefsError as error:
                    request.error = error

    async def _wal_sync(self) -> None:
        wal_bytes = await trio.to_thread.run_sync(self._wal.sync, limiter=self._limiter)
        if wal_bytes > WAL_CHECKPOINT_BYTES:
            await trio.to_thread.run_sync(checkpoint, self._db.path, limiter=self._limiter)
            self._truncate_wal = True


class _WalSync:
    """Syncs SQLite's write-ahead log through a descriptor of its own.

    Safe for SQLite's locks: those are on the database file and its -shm, never on the -wal.
    """

    def __init__(self, database: Path) -> None:
        self._path = database.with_name(database.name + "-wal")
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        self._is_entry_synced = False

    def sync(self) -> int:
        """Make the log durable; return its size. Raises LocalDiskError: final."""
        try:
            os.fdatasync(self._descriptor)
            if not self._is_entry_synced:  # this mount may have made the WAL and the directory of the packs
                sync_directory(self._path.parent)
                self._is_entry_synced = True
            return os.fstat(self._descriptor).st_size
        except OSError as error:
            raise LocalDiskError(f"cannot sync {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
