"""Numbers for people and for statvfs: sizes, what is not stored yet, counters.

Must never: change anything, or take longer than a look at small tables (statfs is asked often).
"""

from __future__ import annotations

from typing import Any

import trio

from cubefs.db.contents import count_contents
from cubefs.engine.engine import Engine
from cubefs.fs.views import Views
from cubefs.model import StatFs

_BLOCK_BYTES = 4096
_UNBOUNDED_BYTES = 1 << 50  # an object store without a known limit: say 1 PiB is free
_FILES_MAX = 1 << 40  # inode numbers
_REMEMBER_S = 2.0
NOT_CHECKED = "the store could not be reached when mounting: whether another machine has written since"


class Reports:
    """Answers `df` and `cubefs status`."""

    def __init__(self, engine: Engine, views: Views) -> None:
        self._engine = engine
        self._views = views
        self._statfs: StatFs | None = None
        self._statfs_s = 0.0

    def statfs(self) -> StatFs:
        """Return sizes for statvfs(3): used is what the packs take, free is what the store has left."""
        now = trio.current_time()
        if self._statfs is None or now - self._statfs_s > _REMEMBER_S:
            used = self._stored_bytes()
            free = self._engine.store.free_bytes()
            free = _UNBOUNDED_BYTES if free is None else free
            files = self._engine.database.last_id("inode")
            self._statfs = StatFs(
                block_bytes=_BLOCK_BYTES,
                blocks=(used + free) // _BLOCK_BYTES,
                blocks_free=free // _BLOCK_BYTES,
                files=_FILES_MAX,
                files_free=_FILES_MAX - files,
            )
            self._statfs_s = now
        return self._statfs

    def _stored_bytes(self) -> int:
        return self._engine.blocks.stored_bytes() + self._engine.files.limit.used_bytes

    async def status(self) -> dict[str, Any]:
        """Return everything a person or a monitor may want to know, as JSON values.

        What takes counting is as of the last commit, and counted in a worker.
        """
        contents = await trio.to_thread.run_sync(count_contents, self._engine.database.path)
        return {
            **self.counters(),
            "inodes": contents.inodes,
            "logical_bytes": contents.logical_bytes,
            "plain_bytes": contents.plain_bytes,
            "live_bytes": contents.live_bytes,
            "dead_bytes": contents.plain_bytes - contents.live_bytes,
            "stored_bytes": contents.stored_bytes,
        }

    def counters(self) -> dict[str, Any]:
        """Return the part of `status` that needs no counting. Never yields."""
        engine = self._engine
        outbox_count, outbox_bytes = engine.outbox.size()
        waiting_ns = engine.outbox.first_waiting_ns()
        reads = engine.reader.statistics()
        troubles = (engine.uploader.trouble, engine.shipper.trouble, engine.reader.trouble)
        return {
            "uuid": engine.uuid.hex(),
            "store": engine.store.describe(),
            "state": "failed" if engine.gate.failure else "writable",
            "failure": str(engine.gate.failure) if engine.gate.failure else None,
            "read_only": engine.options.read_only,
            "snapshots": len(self._views.all()),
            "open_files": engine.files.open_count,
            "dirty_bytes": engine.files.limit.used_bytes,
            "dirty_limit_bytes": engine.files.limit.limit_bytes,
            "writers_waiting": engine.files.limit.waiting_count,
            "writers_waiting_for_store": engine.local.waiting_count,
            "readers_waiting_for_store": engine.reader.waiting_count,
            "cache_bytes": engine.local.total_bytes,
            "cache_limit_bytes": engine.local.limit_bytes,
            "cache_disk_full": engine.disk.is_full,
            "unstored_packs": len(engine.uploader.unstored),
            "unstored_bytes": engine.local.dirty_bytes,
            "unshipped_commits": outbox_count,
            "unshipped_bytes": outbox_bytes,
            "unshipped_since_ns": waiting_ns,
            "log_seq": engine.shipper.seq,
            "commits": engine.committer.commit_count,
            "uploaded_packs": engine.uploader.uploaded_count,
            "uploaded_bytes": engine.uploader.uploaded_bytes,
            "parallel_uploads": engine.uploader.parallel_uploads,
            "verify": str(engine.options.verify),
            "settle_s": engine.options.settle_s,
            "not_checked": NOT_CHECKED if engine.shipper.is_unchecked else None,
            "store_error": engine.store_error,
            "store_error_since_ns": min((t.since_ns for t in troubles if t.since_ns is not None), default=None),
            "store_traffic": dict(engine.meter.statistics()),
            "packs_fetched": reads.packs_fetched,
            "bytes_fetched": reads.bytes_fetched,
            "frames_decoded": reads.frames_decoded,
            "damaged_reads": reads.damaged_count,
        }
