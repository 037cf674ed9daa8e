"""The control socket of a mount: where it listens, and what it answers to which command.

The socket is 0600: only the mount's owner and root reach it.
Must never: hold up the event loop, or believe a request.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import trio

from cubefs.app import limiting, snapshots
from cubefs.app.conversation import Answer, Conversation, Fields
from cubefs.app.mounted import Mounted
from cubefs.errors import UsageError

XATTR = b"user.cubefs.control"  # of the root inode: tells the commands where the socket is

FINISH_TIMEOUT_S = 5.0  # for the last answers, after everything is stored
_BACKLOG = 16


def listen(path: Path) -> trio.SocketListener:
    """Bind the control socket, replacing one that a dead daemon left; we hold the cache directory's lock.

    The path is given through /proc/self/fd because sun_path holds 107 bytes only (unix(7)).
    """
    path.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        os.fchmod(sock.fileno(), 0o600)  # before bind: Linux gives the mode to the file
        sock.bind(f"/proc/self/fd/{directory}/{path.name}")
        sock.listen(_BACKLOG)
    finally:
        os.close(directory)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


class ControlServer:
    """Answers `status`, `sync`, `limit`, `snapshot-create`, `snapshot-list`, `snapshot-remove` and `umount`."""

    def __init__(self, mounted: Mounted) -> None:
        """Serve for one mount."""
        self._mounted = mounted
        self._conversations = 0
        self._conversation_ended = trio.Event()
        self._commands: dict[str, Answer] = {
            "status": self._status,
            "sync": self._sync,
            "limit": self._limit,
            "umount": self._umount,
            "snapshot-create": self._snapshot_create,
            "snapshot-list": self._snapshot_list,
            "snapshot-remove": self._snapshot_remove,
        }

    async def serve(self, listener: trio.SocketListener) -> None:
        """Answer until cancelled; closes the listener."""
        await trio.serve_listeners(self._accept, [listener])

    async def wait_finished(self) -> None:
        """Give the conversations in progress a moment for their last word."""
        with trio.move_on_after(FINISH_TIMEOUT_S):
            while self._conversations:
                self._conversation_ended = trio.Event()
                await self._conversation_ended.wait()

    async def _accept(self, stream: trio.SocketStream) -> None:
        self._conversations += 1
        try:
            await Conversation(stream).hold(self._answer)
        finally:
            self._conversations -= 1
            self._conversation_ended.set()

    async def _answer(self, request: Fields, conversation: Conversation) -> Fields:
        command = self._commands.get(str(request.get("command")))
        if command is None:
            raise UsageError("the mount is served by another version of cubefs, which has no such command")
        return await command(request, conversation)

    async def _status(self, request: Fields, conversation: Conversation) -> Fields:
        return await self._mounted.status()

    async def _sync(self, request: Fields, conversation: Conversation) -> Fields:
        await self._mounted.sync_kernel_pages()
        await conversation.reporting("storing", self._mounted.progress, self._mounted.fs.sync())
        return {}

    async def _limit(self, request: Fields, conversation: Conversation) -> Fields:
        given = request.get("limits")
        if not isinstance(given, dict) or not set(given) <= set(limiting.WORDS):
            raise UsageError("the mount is served by another version of cubefs, which knows other limits")
        return self._mounted.change_limits({word: str(value) for word, value in given.items()})

    async def _umount(self, request: Fields, conversation: Conversation) -> Fields:
        """Store while the mount is still there; what is written meanwhile is stored after unmounting."""
        if self._mounted.is_mounted:
            await self._sync(request, conversation)
            await conversation.say({"phase": "unmounting"})
            await self._mounted.unmount()
        await conversation.reporting("draining", self._mounted.progress, self._mounted.wait_drained())
        return {}

    async def _snapshot_create(self, request: Fields, conversation: Conversation) -> Fields:
        name = request.get("name")
        answer = await snapshots.create(self._mounted.fs, None if name is None else os.fsencode(str(name)))
        await conversation.say({"phase": "taken", **answer})
        await conversation.reporting("storing", self._mounted.progress, self._mounted.fs.sync())
        return answer

    async def _snapshot_list(self, request: Fields, conversation: Conversation) -> Fields:
        return {"snapshots": snapshots.listing(self._mounted.fs)}

    async def _snapshot_remove(self, request: Fields, conversation: Conversation) -> Fields:
        await snapshots.remove(self._mounted.fs, os.fsencode(str(request.get("name", ""))))
        return {}
