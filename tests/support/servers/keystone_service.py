"""The program: OpenStack Keystone with an SQLite database of its own, on a free port of the loopback interface.

Run with an interpreter that has the package `keystone`. Its own `keystone-manage` prepares the database, in
forked children: importing Keystone takes two seconds, which are paid once.
Must never: leave anything behind.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from tests.support.servers.foreground import Foreground, announce, die_with_parent, forget_foreground
from tests.support.servers.swift_config import write_ini

HOST = "127.0.0.1"
REGION = "RegionOne"
POLL_INTERVAL_S = 0.05
ADMIN = "admin"
ADMIN_PASSWORD = "admins-secret"


class ServiceError(Exception):
    """Keystone cannot start."""


class Server(ThreadingMixIn, WSGIServer):
    """Serves each connection in a thread of its own, so that an idle one keeps nobody waiting."""

    daemon_threads = True
    request_queue_size = 256


class Handler(WSGIRequestHandler):
    """Finds out nobody's name, and logs nothing: Keystone has a log of its own."""

    def address_string(self) -> str:
        """Return the address as it is."""
        return str(self.client_address[0])

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def write_configuration(directory: Path, *, token_life_s: int) -> Path:
    """Write keystone.conf."""
    conf = directory / "keystone.conf"
    for name in ("fernet", "credential"):
        (directory / name).mkdir(mode=0o700)
    write_ini(
        conf,
        {
            "DEFAULT": {"log_file": directory / "keystone.log"},
            "database": {"connection": f"sqlite:///{directory / 'keystone.db'}"},
            "token": {"provider": "fernet", "expiration": token_life_s},
            "fernet_tokens": {"key_repository": directory / "fernet"},
            "credential": {"key_repository": directory / "credential"},
            "identity": {"password_hash_rounds": 4},  # the least that bcrypt takes
            # without it every token costs a hundred queries; one process notices at once what is revoked
            "cache": {"enabled": "true", "backend": "dogpile.cache.memory"},
            "oslo_policy": {"enforce_scope": "false"},
        },
    )
    return conf


def manage(conf: Path, log: Path, *arguments: str) -> None:
    """Run keystone-manage in a child. Raises ServiceError."""
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            forget_foreground()
            die_with_parent()
            log_fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log_fd, 1)
            os.dup2(log_fd, 2)
            from keystone.cmd import manage as program

            sys.argv = ["keystone-manage", "--config-file", str(conf), *arguments]
            program.main()
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)  # the parent's work after the fork is not ours
    _, waited = os.waitpid(pid, 0)
    if waited:
        raise ServiceError(f"keystone-manage {arguments[0]} failed:\n{log.read_text(errors='replace')[-3000:]}")


def prepare(directory: Path, conf: Path, url: str) -> None:
    """Make keys, the database, the user admin, and the catalogue's entry of Keystone itself."""
    log = directory / "manage.log"
    owner = ("--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid()))
    manage(conf, log, "db_sync")
    manage(conf, log, "fernet_setup", *owner)
    manage(conf, log, "credential_setup", *owner)
    first = ("--bootstrap-username", ADMIN, "--bootstrap-password", ADMIN_PASSWORD)
    manage(conf, log, "bootstrap", *first, "--bootstrap-public-url", url, "--bootstrap-region-id", REGION)


def serve(directory: Path, foreground: Foreground, *, token_life_s: int) -> None:
    """Serve until told to end."""
    started_s = time.monotonic()
    import keystone.cmd.manage  # noqa: F401  for the children
    from keystone.server import wsgi

    with Server((HOST, 0), Handler) as server:
        url = f"http://{HOST}:{server.server_port}/v3"
        conf = write_configuration(directory, token_life_s=token_life_s)
        prepare(directory, conf, url)
        os.environ["OS_KEYSTONE_CONFIG_FILES"] = str(conf)
        sys.argv = ["keystone"]  # Keystone reads the command line
        server.set_app(wsgi.initialize_public_application())
        thread = threading.Thread(target=server.serve_forever, args=(POLL_INTERVAL_S,), daemon=True)
        thread.start()
        took_s = round(time.monotonic() - started_s, 3)
        announce(url=url, region=REGION, admin=ADMIN, password=ADMIN_PASSWORD, start_s=took_s)
        while not foreground.is_over(limit_s=60.0):
            pass
        server.shutdown()
        thread.join()


def main() -> int:
    """Parse the command line and serve; return the exit status."""
    parser = argparse.ArgumentParser(description="Keystone on loopback")
    parser.add_argument("--directory", type=Path, required=True, help="empty; removed at the end")
    parser.add_argument("--token-life-s", type=int, default=3600, help="how long a token is good for")
    options = parser.parse_args()
    directory: Path = options.directory.resolve()
    foreground = Foreground()
    try:
        serve(directory, foreground, token_life_s=options.token_life_s)
    except (ServiceError, OSError, ImportError) as error:
        print(f"keystone_service: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
