"""The commands' side of the control socket: finds it from the mount point, asks, returns the answer.

Must never: wait without being interruptible, or take a mount's silence for success.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cubefs.app import mountpoint
from cubefs.errors import CubefsError, MountPointError
from cubefs.visible import safe

XATTR = "user.cubefs.control"
LINE_MAX_BYTES = 64 * 1024 * 1024  # the list of all snapshots is one line
_RECEIVE_BYTES = 64 * 1024

Progress = Callable[[dict[str, Any]], None]


class DaemonError(CubefsError):
    """The daemon's answer is an error; its line and its exit code."""

    def __init__(self, line: str, exit_code: int) -> None:
        """Carry over what the daemon said."""
        super().__init__(line)
        self.exit_code = exit_code


class Connection:
    """An open control socket. `process` is the daemon's pid, 0 when it lives in another pid namespace."""

    def __init__(self, sock: socket.socket) -> None:
        """Use a connected socket."""
        self._sock = sock
        self._received = b""
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.process: int = struct.unpack("3i", credentials)[0]

    def ask(self, command: str, *, on_progress: Progress | None = None, **arguments: Any) -> dict[str, Any]:
        """Send one command and return its answer; raises DaemonError for an error."""
        request = json.dumps({"command": command, **arguments}).encode("ascii") + b"\n"
        try:
            self._sock.sendall(request)
            for line in self._lines():
                if "progress" in line:
                    if on_progress is not None:
                        on_progress(line["progress"])
                elif "error" in line:
                    raise DaemonError(str(line["error"]["message"]), int(line["error"]["exit_code"]))
                else:
                    answer = line["ok"]
                    assert isinstance(answer, dict)
                    return answer
        except OSError as error:
            raise CubefsError(f"lost the connection to the mount's process: {error.strerror}") from error
        raise CubefsError("the mount's process ended before it answered; nothing acknowledged is lost, mount again")

    def _lines(self) -> Iterator[dict[str, Any]]:
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if newline:
                self._received = rest
                yield json.loads(line)
                continue
            part = self._sock.recv(_RECEIVE_BYTES)
            if not part or len(self._received) > LINE_MAX_BYTES:
                return
            self._received += part


@contextmanager
def connected(directory: Path) -> Iterator[Connection]:
    """Connect to the process behind the mount on `directory`.

    Raises MountPointError when that is no cubefs mount, or a dead one; CubefsError when we may not.
    """
    path = _find_control(directory)
    try:
        # the path may be longer than sun_path's 107 bytes (unix(7)): reach it through its directory
        parent = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                sock.connect(f"/proc/self/fd/{parent}/{path.name}")
            except BaseException:
                sock.close()
                raise
        finally:
            os.close(parent)
    except PermissionError:
        raise CubefsError(f"no permission: {safe(directory)} was mounted by another user") from None
    except OSError as error:
        raise CubefsError(f"the process behind {safe(directory)} does not answer: {error.strerror}") from error
    with sock:
        yield Connection(sock)


def _find_control(directory: Path) -> Path:
    try:
        return Path(os.fsdecode(os.getxattr(directory, XATTR)))
    except FileNotFoundError:
        raise MountPointError(f"{safe(directory)} does not exist") from None
    except PermissionError:
        raise MountPointError(f"no permission to look into {safe(directory)}") from None
    except OSError as error:
        if error.errno in mountpoint.DEAD:
            raise MountPointError(
                f"the mount on {safe(directory)} is dead, its process has ended: mount it again"
                " (nothing that was acknowledged is lost)"
            ) from None
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOTDIR):
            raise MountPointError(f"{safe(directory)} is not the mount point of a cubefs file system") from None
        raise MountPointError(f"cannot look at {safe(directory)}: {error.strerror}") from error
