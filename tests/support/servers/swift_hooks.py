"""Owns what runs inside the server processes of Swift besides Swift: a cache, a log, users that come and go.

Named in the servers' configuration, imported by them. Must never: change what Swift answers, but for the users.
"""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
FilterFactory = Callable[[Application], Application]

ABSOLUTE_TIME_S = 30 * 86400  # memcached takes a longer time to live for a point in time
SWEEP_INTERVAL_S = 60.0


class LocalCache:
    """The part of Swift's memcached client that the proxy server uses, in a dictionary: there is one process."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[float, str]] = {}  # key -> (when it expires or 0, JSON)
        self._next_sweep = 0.0

    def _find(self, key: str) -> tuple[float, str] | None:
        entry = self._entries.get(key)
        if entry is not None and 0 < entry[0] <= time.time():
            del self._entries[key]
            return None
        return entry

    def _sweep(self) -> None:
        now = time.time()
        if now > self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL_S
            for key in [key for key, (expires, _) in self._entries.items() if 0 < expires <= now]:
                del self._entries[key]

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        """Return a value, by way of JSON as memcached would: tuples come back as lists."""
        entry = self._find(key)
        return None if entry is None else json.loads(entry[1])

    def set(self, key: str, value: Any, serialize: bool = True, time: float = 0, **_: Any) -> None:
        """Keep a value for `time` seconds, for ever if 0."""
        self._sweep()
        self._entries[key] = (_deadline(time), json.dumps(value))

    def incr(self, key: str, delta: int = 1, time: float = 0) -> int:
        """Add to a counter that is never below 0; the time to live counts for a new one only."""
        entry = self._find(key)
        expires, value = (_deadline(time), 0) if entry is None else (entry[0], int(json.loads(entry[1])))
        value = max(0, value + int(delta))
        self._entries[key] = (expires, json.dumps(value))
        return value

    def decr(self, key: str, delta: int = 1, time: float = 0) -> int:
        """Subtract from a counter."""
        return self.incr(key, -int(delta), time)

    def delete(self, key: str, server_key: str | None = None) -> None:
        """Forget a value, if there is one."""
        self._entries.pop(key, None)

    def set_multi(self, mapping: Mapping[str, Any], server_key: str, serialize: bool = True, **kept: Any) -> None:
        """Keep several values."""
        for key, value in mapping.items():
            self.set(key, value, time=kept.get("time", 0))

    def get_multi(self, keys: Iterable[str], server_key: str) -> list[Any]:
        """Return several values, None for those that are missing."""
        return [self.get(key) for key in keys]

    def forget_tokens(self) -> None:
        """Make every token worthless that tempauth has given out."""
        for key in [key for key in self._entries if "/token/" in key or "/user/" in key]:
            del self._entries[key]


def _deadline(time_to_live: float) -> float:
    if not time_to_live:
        return 0.0
    return float(time_to_live) if time_to_live > ABSOLUTE_TIME_S else time.time() + time_to_live


_cache = LocalCache()


def cache_filter_factory(global_conf: Mapping[str, str], **options: str) -> FilterFactory:
    """Make the filter that offers the cache to those behind it (paste)."""

    def factory(application: Application) -> Application:
        def middleware(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["swift.cache"] = _cache
            return application(environ, start_response)

        return middleware

    return factory


class UsersFile:
    """The users of tempauth as a JSON file that may be replaced at any time: asked before every request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._generation: int | None = None

    def refresh(self, users: dict[str, Any]) -> None:
        """Bring `users` up to date, and drop all tokens when the file says so."""
        status = self._path.stat()
        seen = (status.st_ino, status.st_mtime_ns)
        if seen == self._seen:
            return
        self._seen = seen
        content = json.loads(self._path.read_text())
        users.clear()
        for name, user in content["users"].items():
            account = name.split(":")[0]
            users[name] = {"key": user["key"], "groups": user["groups"], "url": f"$HOST/v1/AUTH_{account}"}
        if self._generation not in (None, content["generation"]):
            _cache.forget_tokens()
        self._generation = content["generation"]


def tempauth_filter_factory(global_conf: Mapping[str, str], **options: str) -> FilterFactory:
    """Make Swift's own tempauth, with users that come and go while it runs (paste)."""
    from swift.common.middleware import tempauth

    users_file = UsersFile(Path(options.pop("users_file")))
    make = tempauth.filter_factory(global_conf, **options)

    def factory(application: Application) -> Application:
        authentication = make(application)

        def middleware(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            users_file.refresh(authentication.users)
            answer: Iterable[bytes] = authentication(environ, start_response)
            return answer

        return middleware

    return factory


def log_to_stderr(
    conf: object, name: str, to_console: bool, route: str, form: object, logger: logging.Logger, adapted: object
) -> None:
    """Log to standard error, which is a file, instead of a syslog that is not there (log_custom_handlers)."""
    from swift.common.utils import logs

    for old in list(logger.handlers):
        logger.removeHandler(old)
        with contextlib.suppress(OSError):
            old.close()
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    # where Swift looks for the handler when it sets up the same logger once more
    logs.get_swift_logger.handler4logger[logger] = handler


def drop_fsync() -> None:
    """Make this process wait for no disk: what tests store need not survive a power cut."""
    import swift.common.db as swift_db

    os.fsync = os.fdatasync = lambda fd: None
    connect = swift_db.get_db_connection

    def connect_without_sync(*args: Any, **options: Any) -> Any:
        connection = connect(*args, **options)
        with contextlib.closing(connection.cursor()) as cursor:
            cursor.execute("PRAGMA synchronous = OFF")
        return connection

    swift_db.get_db_connection = connect_without_sync
