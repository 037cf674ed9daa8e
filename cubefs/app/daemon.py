"""Going to the background: fork, and telling the command that waits how it went.

Must never: fork once there are threads or an event loop, or leave the waiting command without an answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cubefs.app import logs
from cubefs.app.edge import EXIT_FAILURE, exit_code_of, line_for, root_cause
from cubefs.errors import CubefsError
from cubefs.visible import safe

ANSWER_MAX_BYTES = 64 * 1024
GIVE_UP_S = 3.0  # after an interrupt, before the child is killed: until it is ready it holds nothing of value

Serve = Callable[[Callable[[], None]], int]


class StartError(CubefsError):
    """The background process reports why it could not mount; its line and its exit code."""

    def __init__(self, line: str, exit_code: int) -> None:
        """Carry over what the child said."""
        super().__init__(line)
        self.exit_code = exit_code


def detach(serve: Serve, *, start_log: Callable[[], None], log: Path) -> int:
    """Run `serve` in a child and return 0 once it calls the function it gets; it then goes on without us.

    `start_log` runs in the child, which has no terminal any more. Raises StartError when the child ends before
    it is ready.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_daemon(serve, writing, start_log)
    os.close(writing)
    try:
        return _await_answer(reading, child=child, log=log)
    except (KeyboardInterrupt, SystemExit):
        _stop(child)
        raise
    finally:
        os.close(reading)


def _await_answer(reading: int, *, child: int, log: Path) -> int:
    answer = b""
    while not answer.endswith(b"\n") and len(answer) < ANSWER_MAX_BYTES:
        part = os.read(reading, ANSWER_MAX_BYTES)
        if not part:
            break
        answer += part
    try:
        fields = json.loads(answer)
    except ValueError:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        raise StartError(f"the mount process {how}; its log is {safe(log)}", EXIT_FAILURE) from None
    if fields["error"] is None:
        return 0
    os.waitpid(child, 0)
    raise StartError(fields["error"], int(fields["exit_code"]))


def _stop(child: int) -> None:
    """Have the child clean up and end; kill it if it does not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    deadline_s = time.monotonic() + GIVE_UP_S
    with contextlib.suppress(ChildProcessError):  # the interrupt came when it had ended by itself
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline_s:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return
            time.sleep(0.05)


def _be_daemon(serve: Serve, writing: int, start_log: Callable[[], None]) -> None:
    """Live and end as the daemon: this never returns into the stack of the command that forked us."""
    code = EXIT_FAILURE
    answered = False

    def answer(error: str | None, exit_code: int) -> None:
        nonlocal answered
        if not answered:
            answered = True
            with contextlib.suppress(OSError):  # the command may have been killed: we serve all the same
                os.write(writing, json.dumps({"error": error, "exit_code": exit_code}).encode() + b"\n")
            os.close(writing)

    try:
        os.setsid()
        os.chdir("/")
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        start_log()
        code = serve(lambda: answer(None, 0))
    except BaseException as group:
        error = root_cause(group)
        code = exit_code_of(error)
        logs.log_end(error)
        answer(line_for(error), code)
    finally:
        logging.shutdown()
        os._exit(code)


def notify_service_manager(*lines: str) -> None:
    """Tell systemd, if it started us (sd_notify(3)): datagrams to the socket that NOTIFY_SOCKET names."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.sendto("\n".join(lines).encode(), "\0" + address[1:] if address.startswith("@") else address)


def is_process_gone(process: int, *, timeout_s: float) -> bool:
    """Wait for a process to end, at most `timeout_s`; it need not be our child. True when it has ended.

    `process` is a descriptor of pidfd_open(2).
    """
    return bool(select.select([process], [], [], timeout_s)[0])
