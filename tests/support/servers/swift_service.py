"""The program: OpenStack Swift all in one, with its own S3 API, on free ports of the loopback interface.

Run with an interpreter that has the package `swift`: `python -m tests.support.servers.swift_service`.
The four servers are the unmodified ones of the distribution, forked from this process: it has imported them
once, and has bound their sockets, so that nobody can take a port in between and early clients just wait.
Must never: leave a server behind.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.servers import swift_hooks
from tests.support.servers.foreground import Foreground, announce, die_with_parent, forget_foreground
from tests.support.servers.swift_config import (
    HOST,
    REGION,
    SERVERS,
    KeystoneLogin,
    SwiftConfig,
    find_xattr_problem,
)

BACKLOG_COUNT = 4096
READY_LIMIT_S = 45.0
STOP_LIMIT_S = 5.0
LOG_TAIL_BYTES = 3000


class ServiceError(Exception):
    """The service cannot start, or lost one of its servers."""


def bind(port: int) -> socket.socket:
    """Return a listening socket; port 0 is any free one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind((HOST, port))
    listener.listen(BACKLOG_COUNT)
    return listener


def import_servers() -> None:
    """Pay for the imports once, before the servers are forked."""
    import swift.account.server
    import swift.common.db
    import swift.common.middleware.s3api.s3api
    import swift.common.middleware.tempauth
    import swift.common.wsgi
    import swift.container.server
    import swift.obj.server
    import swift.proxy.server  # noqa: F401


def serve(server: str, conf: Path, listener: socket.socket, *, fsync: bool) -> int:
    """Be one of the servers until SIGTERM; runs in the forked child."""
    if not fsync:
        swift_hooks.drop_fsync()
    import swift.obj.server
    from eventlet.greenio import GreenSocket
    from swift.common import wsgi

    wsgi.get_socket = lambda conf: GreenSocket(listener)
    options = {"global_conf_callback": swift.obj.server.global_conf_callback} if server == "object" else {}
    return int(wsgi.run_wsgi(str(conf), f"{server}-server", verbose=True, **options) or 0)


def log_into(path: Path) -> None:
    """Send what this process prints to a file."""
    log_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null_fd = os.open(os.devnull, os.O_RDONLY)
    for fd, target in ((null_fd, 0), (log_fd, 1), (log_fd, 2)):
        os.dup2(fd, target)
    os.close(log_fd)
    os.close(null_fd)


class Service:
    """The servers as children of this process."""

    def __init__(
        self, directory: Path, *, port: int, fsync: bool, token_life_s: int, keystone: KeystoneLogin | None
    ) -> None:
        self._listeners = {server: bind(port if server == "proxy" else 0) for server in SERVERS}
        self.ports = {server: listener.getsockname()[1] for server, listener in self._listeners.items()}
        self.config = SwiftConfig(directory, self.ports, token_life_s=token_life_s, keystone=keystone)
        self._fsync = fsync
        self.children: dict[int, str] = {}  # pid -> server

    def start(self) -> None:
        """Start the servers and wait until all of them answer."""
        self.config.write()
        import_servers()
        for server in SERVERS:
            self._fork(server)
        for listener in self._listeners.values():
            listener.close()
        deadline = time.monotonic() + READY_LIMIT_S
        for server in SERVERS:
            while not self._answers(server):
                self.check()
                if time.monotonic() > deadline:
                    raise ServiceError(f"the {server} server does not answer{self._words(server)}")
                time.sleep(0.02)

    def _fork(self, server: str) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            self.children[pid] = server
            return
        status = 1
        try:
            forget_foreground()
            die_with_parent()
            log_into(self.config.log(server))
            for other, listener in self._listeners.items():
                if other != server:
                    listener.close()
            status = serve(server, self.config.server_conf(server), self._listeners[server], fsync=self._fsync)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
            print(error, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)  # the parent's work after the fork is not ours

    def _answers(self, server: str) -> bool:
        connection = http.client.HTTPConnection(HOST, self.ports[server], timeout=5)
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _words(self, server: str) -> str:
        with contextlib.suppress(OSError):
            return ":\n" + self.config.log(server).read_text(errors="replace")[-LOG_TAIL_BYTES:]
        return ""

    def _reap(self) -> Iterator[tuple[str, int]]:
        for pid in list(self.children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                yield self.children.pop(pid), os.waitstatus_to_exitcode(status)

    def check(self) -> None:
        """Raise ServiceError where a server has ended."""
        for server, status in self._reap():
            raise ServiceError(f"the {server} server ended with status {status}{self._words(server)}")

    def stop(self) -> None:
        """End the servers, those that do not listen by force."""
        for number, limit_s in ((signal.SIGTERM, STOP_LIMIT_S), (signal.SIGKILL, STOP_LIMIT_S)):
            for pid in self.children:
                os.kill(pid, number)
            deadline = time.monotonic() + limit_s
            while list(self._reap()) or (self.children and time.monotonic() < deadline):
                time.sleep(0.01)


def run(service: Service, foreground: Foreground, facts: Callable[[], dict[str, object]]) -> None:
    """Serve until told to end. Raises ServiceError where that cannot be."""
    try:
        service.start()
        announce(**facts())
        while not foreground.is_over(limit_s=5.0):
            service.check()
    finally:
        service.stop()


def main() -> int:
    """Parse the command line and serve; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, required=True, help="holds users.json; data is kept here")
    parser.add_argument("--remove", action="store_true", help="remove the directory at the end")
    parser.add_argument("--port", type=int, default=0, help="of the proxy server (default: any free one)")
    parser.add_argument("--fsync", action="store_true", help="make stored data survive a power cut")
    parser.add_argument("--token-life-s", type=int, default=86400, help="how long a token is good for")
    parser.add_argument(
        "--keystone", nargs=3, metavar=("URL", "USER", "PASSWORD"), help="whom to ask about tokens; without S3"
    )
    options = parser.parse_args()
    directory: Path = options.directory.resolve()
    started = time.monotonic()
    foreground = Foreground()
    try:
        problem = find_xattr_problem(directory)
        if problem:
            raise ServiceError(problem)
        service = Service(
            directory,
            port=options.port,
            fsync=options.fsync,
            token_life_s=options.token_life_s,
            keystone=KeystoneLogin(*options.keystone) if options.keystone else None,
        )
        run(
            service,
            foreground,
            lambda: {
                "url": f"http://{HOST}:{service.ports['proxy']}",
                "region": REGION,
                "pids": [*service.children, os.getpid()],
                "start_s": round(time.monotonic() - started, 3),
            },
        )
    except (ServiceError, OSError, ValueError, ImportError) as error:
        print(f"swift_service: {error}", file=sys.stderr)
        return 1
    finally:
        if options.remove:
            shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
