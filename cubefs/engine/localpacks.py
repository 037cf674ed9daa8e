"""Which packs have a local file, how much they take, and which go when there is no room.

Must never: let go of a pack that is not proven to be in the store.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable

import trio

from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.engine.packs import PackFiles
from cubefs.model import PackState

log = logging.getLogger(__name__)

TELL_AFTER_S = 2.0  # a pack at 4 MB/s: nothing stored for longer is worth a line in the log
TELL_AGAIN_NS = 600 * 10**9


class _Local:
    """What is known of one local pack file."""

    __slots__ = ("size_bytes", "state")

    def __init__(self, state: PackState, size_bytes: int) -> None:
        self.state = state
        self.size_bytes = size_bytes


class LocalPacks:
    """The index of local pack files, in the order of their last use."""

    def __init__(
        self, files: PackFiles, database: Database, blocks: Blocks, *, limit_bytes: int, clock_ns: Callable[[], int]
    ) -> None:
        self.files = files
        self._db = database
        self._blocks = blocks
        self._clock_ns = clock_ns
        self.limit_bytes = limit_bytes
        self._packs: OrderedDict[bytes, _Local] = OrderedDict()
        self.total_bytes = 0
        self.dirty_bytes = 0  # of packs that must stay until they are stored
        self._open_bytes = 0  # of them, in the pack being written
        self._used: dict[bytes, int] = {}
        # Proven stored, but the database does not say so durably: without its file, such a pack would look lost
        # after a crash.
        self._uncommitted: set[bytes] = set()
        self._committing: set[bytes] = set()
        self._shrunk = trio.Event()
        self._told_ns = -TELL_AGAIN_NS
        self.waiting_count = 0  # writers who wait until the store has taken more

    def load(self) -> None:
        """Read the index from the database (at mount, after recovery)."""
        for pack in self._blocks.local_packs():
            self.add(pack.salt, pack.state, pack.size_bytes)

    def add(self, salt: bytes, state: PackState, size_bytes: int) -> None:
        """Note a local pack file, or its new state and size."""
        self.remove(salt)
        self._packs[salt] = _Local(state, size_bytes)
        self.total_bytes += size_bytes
        if state is not PackState.STORED:
            self.dirty_bytes += size_bytes
        if state is PackState.OPEN:
            self._open_bytes += size_bytes

    def remove(self, salt: bytes) -> None:
        """Forget a local pack file."""
        old = self._packs.pop(salt, None)
        if old is not None:
            self.total_bytes -= old.size_bytes
            if old.state is not PackState.STORED:
                self.dirty_bytes -= old.size_bytes
            if old.state is PackState.OPEN:
                self._open_bytes -= old.size_bytes

    def has(self, salt: bytes) -> bool:
        """Whether the pack with this salt has a local file."""
        return salt in self._packs

    def is_stored(self, salt: bytes) -> bool:
        """Whether a local pack is known to be in the store too."""
        pack = self._packs.get(salt)
        return pack is not None and pack.state is PackState.STORED

    def touch(self, salt: bytes) -> None:
        """Note that a local pack was used: others are evicted first."""
        if salt in self._packs:
            self._packs.move_to_end(salt)
            self._used[salt] = self._clock_ns()

    def mark_stored(self, salt: bytes) -> None:
        """Note that a pack is proven to be in the store: from now on it may be evicted."""
        pack = self._packs[salt]
        with self._db.operation():
            self._blocks.set_local_state(salt, PackState.STORED, size_bytes=pack.size_bytes)
        self.add(salt, PackState.STORED, pack.size_bytes)
        self._uncommitted.add(salt)
        self._shrunk.set()
        self._shrunk = trio.Event()

    def committing(self) -> None:
        """What the database says so far is in the commit being made."""
        self._committing |= self._uncommitted
        self._uncommitted.clear()

    def committed(self) -> None:
        """The commit is durable."""
        self._committing.clear()

    @property
    def is_full_of_dirty(self) -> bool:
        """Whether complete packs that cannot be evicted take all the room: writers must wait for the store.

        The open pack does not count: nothing but more writing (or time) completes it.
        """
        return self.dirty_bytes - self._open_bytes >= self.limit_bytes

    async def wait_not_full(self) -> None:
        """Wait until packs that cannot be evicted leave room."""
        self.waiting_count += 1
        try:
            while self.is_full_of_dirty:
                await self._tell_and_wait()
        finally:
            self.waiting_count -= 1

    async def _tell_and_wait(self) -> None:
        """Wait for a change; a wait that is longer than a slow line explains is told, now and then."""
        with trio.move_on_after(TELL_AFTER_S):
            await self._shrunk.wait()
            return
        now_ns = self._clock_ns()
        if now_ns - self._told_ns >= TELL_AGAIN_NS:
            self._told_ns = now_ns
            log.warning(
                "writers wait: %d bytes in the cache directory are not stored yet, its limit is %d bytes"
                " (`cubefs status` says what the store answers)",
                self.dirty_bytes,
                self.limit_bytes,
            )

    async def evict(self, *, target_bytes: int | None = None) -> int:
        """Delete stored packs, least recently used first, until at most `target_bytes` are left.

        Returns the bytes freed. The default target is the cache's limit. A pack stays until a commit has
        recorded that it is stored.
        """
        target = self.limit_bytes if target_bytes is None else target_bytes
        if self._used:
            used, self._used = self._used, {}
            self._blocks.touch_local(used)
        spared = self._uncommitted | self._committing
        victims = []
        freed = 0
        for salt, pack in self._packs.items():
            if self.total_bytes - freed <= target:
                break
            if pack.state is PackState.STORED and salt not in spared:
                victims.append(salt)
                freed += pack.size_bytes
        for salt in victims:
            self.remove(salt)
            with self._db.operation():
                self._blocks.delete_local(salt)
        if victims:
            await trio.to_thread.run_sync(self._delete_files, victims)
        return freed

    def _delete_files(self, salts: list[bytes]) -> None:
        for salt in salts:
            try:
                self.files.delete(salt)
            except OSError as error:  # the next mount removes what no row names
                log.warning("cannot delete %s: %s", self.files.path(salt), error.strerror)
