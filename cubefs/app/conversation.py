"""One connection on the control socket, seen from the daemon: JSON lines, one request, progress, one answer.

    request   {"command": "sync", ...}
    progress  {"progress": {"phase": "storing", "left_bytes": 1234, "store_error": null}}    any number
    answer    {"ok": {...}} or {"error": {"message": "...", "exit_code": 8}}

Must never: outlive its client. One that hangs up cancels what it asked for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from cubefs.app.edge import exit_code_of, line_for, root_cause
from cubefs.errors import CubefsError

REQUEST_MAX_BYTES = 64 * 1024
REQUEST_TIMEOUT_S = 10.0
PROGRESS_INTERVAL_S = 0.25

_log = logging.getLogger(__name__)

Fields = dict[str, Any]
Answer = Callable[[Fields, "Conversation"], Awaitable[Fields]]


class Conversation:
    """Reads the request, sends progress, sends the answer."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        """Talk over `stream`, which the caller closes."""
        self._stream = stream
        self._sending = trio.Lock()

    async def hold(self, answer: Answer) -> None:
        """Read one request and answer it. Raises nothing: a client that has gone needs no answer."""
        try:
            request = await self._read_request()
            if request is None:
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_on_hang_up, nursery.cancel_scope)
                await self._send(await self._outcome(request, answer))
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            _log.debug("a client of the control socket has gone")

    async def say(self, progress: Fields) -> None:
        """Send a progress line."""
        await self._send({"progress": progress})

    async def reporting(self, phase: str, progress: Callable[[], Fields], work: Awaitable[None]) -> None:
        """Await `work`, sending meanwhile how far it is."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick, phase, progress)
            await work
            nursery.cancel_scope.cancel()

    async def _tick(self, phase: str, progress: Callable[[], Fields]) -> None:
        while True:
            await self.say({"phase": phase, **progress()})
            await trio.sleep(PROGRESS_INTERVAL_S)

    async def _outcome(self, request: Fields, answer: Answer) -> Fields:
        try:
            return {"ok": await answer(request, self)}
        except Exception as group:
            error = root_cause(group)
            if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError):
                raise
            if not isinstance(error, CubefsError):
                _log.error("the command %s failed", request.get("command"), exc_info=error)
            return {"error": {"message": line_for(error), "exit_code": exit_code_of(error)}}

    async def _read_request(self) -> Fields | None:
        """Return the request, {} for one that is none, None when the client goes or takes too long."""
        received = b""
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            while not received.endswith(b"\n"):
                part = await self._stream.receive_some(REQUEST_MAX_BYTES)
                received += part
                if not part or len(received) > REQUEST_MAX_BYTES:
                    return None
            try:
                request = json.loads(received)
            except ValueError:
                return {}
            return request if isinstance(request, dict) else {}
        return None

    async def _cancel_on_hang_up(self, scope: trio.CancelScope) -> None:
        while await self._stream.receive_some(REQUEST_MAX_BYTES):
            pass  # nothing more is expected of the client
        scope.cancel()

    async def _send(self, fields: Fields) -> None:
        async with self._sending:
            await self._stream.send_all(json.dumps(fields).encode("ascii") + b"\n")
