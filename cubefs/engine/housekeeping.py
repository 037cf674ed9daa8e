"""Work that namespace operations leave for later: extents of detached bodies, history of deleted snapshots.

Must never: hold the loop for more than one bounded step, or run a step while the gate is shut.
"""

from __future__ import annotations

from collections import defaultdict

import trio

from cubefs.db.blocks import Blocks
from cubefs.db.database import Database
from cubefs.db.extents import Extents, RefDeltas
from cubefs.db.snapshots import Snapshots
from cubefs.engine.gate import Gate
from cubefs.errors import CubefsError

STEP_ROWS = 500  # some milliseconds of the loop


class Housekeeper:
    """Runs the steps in the background."""

    def __init__(
        self, *, database: Database, extents: Extents, blocks: Blocks, snapshots: Snapshots, gate: Gate
    ) -> None:
        self._db = database
        self._extents = extents
        self._blocks = blocks
        self._snapshots = snapshots
        self._gate = gate
        self._wake = trio.Event()
        self._wake.set()  # an earlier mount may have left work
        self._idle = trio.Event()
        self._is_stopped = False

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()
        if self._idle.is_set():
            self._idle = trio.Event()

    async def wait_idle(self) -> None:
        """Wait until nothing is left to do."""
        await self._idle.wait()

    async def finish(self, timeout_s: float) -> None:
        """Stop for good once idle, or after `timeout_s`: nothing changes after this."""
        with trio.move_on_after(timeout_s):
            await self.wait_idle()
        self._is_stopped = True

    async def run(self) -> None:
        """Work until cancelled or finished."""
        while not self._is_stopped:
            await self._wake.wait()
            self._wake = trio.Event()
            try:
                while not self._is_stopped and await self._step():
                    await trio.lowlevel.checkpoint()
            except CubefsError as error:
                self._gate.fail(error)
                return
            if not self._wake.is_set():
                self._idle.set()

    async def _step(self) -> bool:
        """Do one bounded step; return whether there was anything to do."""
        await self._gate.wait_open()
        if self._is_stopped:
            return False
        deltas: RefDeltas = defaultdict(int)
        with self._db.operation():
            if self._extents.retire_step(limit=STEP_ROWS, deltas=deltas):
                worked = True
            else:
                worked = self._snapshots.delete_step(limit=STEP_ROWS, deltas=deltas)
            self._blocks.change_refs(deltas)
        return worked
