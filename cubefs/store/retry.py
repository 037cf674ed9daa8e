"""The one retry policy: a store that tries again what may succeed later.

Must never: decide what is retryable (the error's class says so) or retry anything but one store call.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from cubefs.errors import StoreError
from cubefs.store.base import ObjectInfo, Store

ATTEMPTS = 6  # with the delays below about 6 s at most: long enough for a hiccup, short enough for a person
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 10.0

T = TypeVar("T")
OnRetry = Callable[[str, int, StoreError], None]


class Retrying:
    """A store around a store. Implements `base.Store`.

    Waits uniformly between 0 and min(longest, first * 2**n) seconds before attempt n + 2: full jitter, so
    that many clients of a busy store do not come back together. The last attempt's error is raised.

    `put_new` may report ObjectExistsError for our own bytes when an earlier attempt got through but its
    answer did not: callers read back, as the contract says.
    """

    def __init__(
        self,
        store: Store,
        *,
        attempts: int = ATTEMPTS,
        first_delay_s: float = FIRST_DELAY_S,
        longest_delay_s: float = LONGEST_DELAY_S,
        sleep: Callable[[float], None] = time.sleep,
        rng: random.Random | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        """`on_retry(verb, failed_attempts, error)` is called before each wait, in the caller's thread.

        `sleep` may raise to give up (a daemon that is being stopped).
        """
        if attempts < 1:
            raise ValueError("attempts must be at least 1")
        self._store = store
        self._attempts = attempts
        self._first_delay_s = first_delay_s
        self._longest_delay_s = longest_delay_s
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._on_retry = on_retry

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Put, again where that can help."""
        self._call("put", lambda: self._store.put(name, data))

    def put_new(self, name: str, data: bytes | memoryview) -> None:
        """Put exclusively, again where that can help. See the class about ObjectExistsError."""
        self._call("put_new", lambda: self._store.put_new(name, data))

    def get(self, name: str) -> bytes:
        """Get, again where that can help."""
        return self._call("get", lambda: self._store.get(name))

    def get_range(self, name: str, *, start: int, length: int) -> bytes:
        """Get a range, again where that can help."""
        return self._call("get_range", lambda: self._store.get_range(name, start=start, length=length))

    def head(self, name: str) -> ObjectInfo:
        """Ask, again where that can help."""
        return self._call("head", lambda: self._store.head(name))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """List; after an error that may pass, the listing goes on behind the last name yielded."""
        failed_attempts = 0
        while True:
            try:
                for info in self._store.list(prefix, start_after=start_after):
                    yield info
                    start_after = info.name
                    failed_attempts = 0
                return
            except StoreError as error:
                failed_attempts += 1
                self._wait_or_raise("list", failed_attempts, error)

    def delete(self, name: str) -> None:
        """Delete, again where that can help."""
        self._call("delete", lambda: self._store.delete(name))

    def describe(self) -> str:
        """Return the URL."""
        return self._store.describe()

    def now_ns(self) -> int:
        """Return the store's time."""
        return self._call("now_ns", self._store.now_ns)

    def free_bytes(self) -> int | None:
        """Return what the store has left; never retried, it is a hint."""
        return self._store.free_bytes()

    def _call(self, verb: str, attempt: Callable[[], T]) -> T:
        failed_attempts = 0
        while True:
            try:
                return attempt()
            except StoreError as error:
                failed_attempts += 1
                self._wait_or_raise(verb, failed_attempts, error)

    def _wait_or_raise(self, verb: str, failed_attempts: int, error: StoreError) -> None:
        if not error.retryable or failed_attempts >= self._attempts:
            raise error
        if self._on_retry is not None:
            self._on_retry(verb, failed_attempts, error)
        bound_s = min(self._longest_delay_s, self._first_delay_s * 2.0 ** (failed_attempts - 1))
        self._sleep(self._rng.uniform(0.0, bound_s))
