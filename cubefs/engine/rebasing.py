"""Writing a new base when the log has grown: mounting elsewhere then costs the base and a short log.

A base is the state of one cut exactly. It is pinned in the stretch after the cut's commit and written once that
cut is the end of the shipped log; when a later cut was shipped together with it, the pin is dropped.
Must never: delete an older base or log object (point-in-time mounts and readers may need them).
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import trio

from cubefs.db.image import PinnedImage, pin
from cubefs.engine import metalog
from cubefs.engine.metalog import Head
from cubefs.errors import CubefsError, LocalDiskFullError
from cubefs.format.keys import Keyring
from cubefs.model import MIB
from cubefs.store.base import Store

log = logging.getLogger(__name__)

LOG_MIN_BYTES = 16 * MIB  # a shorter log replays in a second or two
ROOM_BYTES = 256 * MIB  # must stay free beside a base's copies: running out would end the mount


class Rebaser:
    """Decides when the log outweighs half of its base, and writes the next one."""

    def __init__(self, *, database_path: Path, store: Store, keyring: Keyring, uuid: bytes) -> None:
        self._path = database_path
        self._store = store
        self._keyring = keyring
        self._uuid = uuid
        self._pinned: tuple[int, PinnedImage] | None = None
        self._is_writing = False
        self._idle = trio.Event()

    @staticmethod
    def is_due(head: Head) -> bool:
        """Whether the log since the base has grown enough for a new one."""
        return head.log_bytes > max(LOG_MIN_BYTES, head.base_bytes // 2)

    def pin(self, number: int) -> None:
        """Keep the state of the cut `number`, which has just been committed (unless a base is being written)."""
        self.drop()
        if self._is_writing:
            return
        try:
            self._pinned = (number, pin(self._path))
        except CubefsError as error:
            log.warning("no new base will be written: %s", error)

    def drop(self) -> None:
        """Let go of a pinned state."""
        if self._pinned is not None:
            self._pinned[1].close()
            self._pinned = None

    async def write(self, number: int, head: Head) -> Head:
        """Write the base for `head` if it is the state that was pinned; return the head with the new base.

        A store that fails now only leaves the log longer: the next cut tries again.
        """
        if self._pinned is None or self._pinned[0] != number:
            self.drop()
            return head
        # from here on the image belongs to the worker: a cut made meanwhile must not close it
        image, self._pinned, self._is_writing = self._pinned[1], None, True
        self._idle = trio.Event()
        target = self._path.with_name("base.image")
        try:
            self._check_room()
            await trio.to_thread.run_sync(image.write, target)
            image.close()  # the upload may take long, and a pinned state keeps the WAL from being emptied
            base_bytes = await trio.to_thread.run_sync(self._upload, target, head, abandon_on_cancel=True)
        except CubefsError as error:
            log.warning("no new base was written: %s", error)
            return head
        finally:
            self._is_writing = False
            self._idle.set()
            image.close()
            target.unlink(missing_ok=True)
        log.info("wrote a base of %d bytes at log object %d", base_bytes, head.seq)
        return head._replace(log_bytes=0, base_bytes=base_bytes)

    async def wait_idle(self) -> None:
        """Wait until no base is being written."""
        if self._is_writing:
            await self._idle.wait()

    def _check_room(self) -> None:
        """Raise LocalDiskFullError when the two copies made on the way could fill the disk of the cache."""
        needed = 2 * self._path.stat().st_size + ROOM_BYTES
        if shutil.disk_usage(self._path.parent).free < needed:
            raise LocalDiskFullError(f"it would need {needed} bytes of free space in {self._path.parent}")

    def _upload(self, target: Path, head: Head) -> int:
        return metalog.write_base(
            self._store,
            log_key=self._keyring.log_key,
            uuid=self._uuid,
            seq=head.seq,
            chain_hash=head.chain_hash,
            image=target,
        )
